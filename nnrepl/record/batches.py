"""Batches: many small tensors of one shape are compared as one tensor; a comparison by itself costs MLX 100 µs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any, TypeVar

import mlx.core as mx

from nnrepl.tape import Value
from nnrepl.tape.value import Sketch

Pair = tuple[mx.array, mx.array]
T = TypeVar("T")

_BATCH, _LARGE = 1024, 2**24
"""Pairs that are compared in one evaluation, and elements in them beyond which it is time for one."""
_ROWS, _ELEMENTS = 512, 1 << 21
"""Values that are asked together, and their elements."""
_SMALL, _TOGETHER = 2**12, 2**20
"""Elements of a tensor that is laid beside others, and of all that are laid side by side."""
PIECE = 1 << 24
"""Elements of one tensor that are looked at together: the numbers in between take several times their memory."""
_BLOCK = 512
"""Elements that are added up in one go."""


def batches(pairs: Iterable[T], arrays: Callable[[T], Pair]) -> Iterator[list[T]]:
    """Yield what is compared in one evaluation: so many that it pays, and no more than can be held."""
    batch: list[T] = []
    elements = 0
    for pair in pairs:
        batch.append(pair)
        elements += sum(array.size for array in arrays(pair))
        if len(batch) >= _BATCH or elements >= _LARGE:
            yield batch
            batch, elements = [], 0
    if batch:
        yield batch


def alike(pairs: Sequence[Pair]) -> list[list[int]]:
    """Return the numbers of the pairs that can be laid side by side: small ones of one shape and of the same two
    dtypes. Every other pair stands alone."""
    groups: list[list[int]] = []
    open_groups: dict[Any, list[int]] = {}
    for number, (a, b) in enumerate(pairs):
        if a.shape != b.shape or not 0 < a.size <= _SMALL:
            groups.append([number])
            continue
        kind = (a.shape, a.dtype, b.dtype)
        group = open_groups.get(kind)
        if group is None or len(group) * a.size >= _TOGETHER:
            group = open_groups[kind] = []
            groups.append(group)
        group.append(number)
    return groups


def side_by_side(pairs: Sequence[Pair], group: Sequence[int]) -> Pair:
    """Return the tensors of a group as two, each pair a row of all its elements."""
    if len(group) == 1:
        a, b = pairs[group[0]]
        return a.reshape(1, -1), b.reshape(1, -1)
    return _below_each_other([pairs[number][0] for number in group]), _below_each_other(
        [pairs[number][1] for number in group]
    )


def _below_each_other(arrays: list[mx.array]) -> mx.array:
    """Return arrays of one shape as the rows of one."""
    if not arrays[0].ndim:
        return mx.stack(arrays).reshape(len(arrays), 1)
    # As they are: to reshape each one first takes twice the time of all the rest.
    return mx.concatenate(arrays).reshape(len(arrays), arrays[0].size)


def rows_of_same_bits(a: mx.array, b: mx.array) -> mx.array:
    """For each row of two tensors of one shape and dtype whether it is identical, NaNs and signs of zero included."""
    # `==` would tell a NaN from itself, and −0 not from 0.
    if a.dtype in _AS_BITS:
        a, b = mx.contiguous(a).view(_AS_BITS[a.dtype]), mx.contiguous(b).view(_AS_BITS[b.dtype])
    return mx.all(a == b, axis=1)


def same_bits(a: mx.array, b: mx.array) -> mx.array:
    """Whether two arrays are identical, NaNs and the sign of zero included, as a lazy bool."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return mx.array(False)
    if not a.size:
        return mx.array(True)
    return rows_of_same_bits(a.reshape(1, -1), b.reshape(1, -1))[0]


def all_same_bits(pairs: Sequence[Pair]) -> list[bool]:
    """For each pair whether both are identical, in one evaluation."""
    mx.eval(pairs)
    read = {number: _same_bytes(a, b) for number, (a, b) in enumerate(pairs) if _is_read(a, b)}
    others = [number for number in range(len(pairs)) if number not in read]
    told = dict(zip(others, _same_by_rows([pairs[number] for number in others]))) | read
    return [told[number] for number in range(len(pairs))]


def _is_read(a: mx.array, b: mx.array) -> bool:
    """Whether two tensors are compared as bytes: small ones, of which an op of MLX's costs more than its work."""
    return a.shape == b.shape and a.dtype == b.dtype and 0 < a.size <= _SMALL and a.dtype in _PLAIN


def _same_bytes(a: mx.array, b: mx.array) -> bool:
    return bytes(memoryview(a)) == bytes(memoryview(b))  # type: ignore[arg-type]


_PLAIN = (mx.float32, mx.int32, mx.uint32, mx.bool_)
"""Dtypes whose numbers Python can read where they are."""


def _same_by_rows(pairs: Sequence[Pair]) -> list[bool]:
    """Return the same, of many tensors that are laid side by side."""
    groups = alike(pairs)
    verdicts: list[mx.array] = []
    for group in groups:
        a, b = pairs[group[0]]
        if a.shape != b.shape or a.dtype != b.dtype or not a.size:
            verdicts.append(mx.broadcast_to(same_bits(a, b), (len(group),)))
        else:
            verdicts.append(rows_of_same_bits(*side_by_side(pairs, group)))
    mx.eval(verdicts)
    result = [False] * len(pairs)
    for group, verdict in zip(groups, verdicts):
        for number, same in zip(group, verdict.tolist()):  # type: ignore[arg-type]
            result[number] = bool(same)
    return result


def all_equal(pairs: Iterable[Pair]) -> list[bool]:
    """For each pair whether `a == b` everywhere, the second one broadcast to the first."""
    result: list[bool] = []
    for batch in batches(pairs, lambda pair: pair):
        # Laid side by side they are copied: what is small alone is made as large as the other before.
        whole = [(a, mx.broadcast_to(b, a.shape) if b.shape != a.shape and a.size <= _SMALL else b) for a, b in batch]
        groups = alike(whole)
        verdicts = [
            mx.all(mx.equal(*side_by_side(whole, group)), axis=1) if len(group) > 1 else mx.all(a == b).reshape(1)
            for group in groups
            for a, b in [whole[group[0]]]
        ]
        mx.eval(verdicts)
        flags: list[Any] = [verdict.tolist() for verdict in verdicts]
        told = dict(zip(chain(*groups), chain(*flags)))
        result += [told[number] for number in range(len(batch))]
    return result


_AS_BITS = {
    mx.float32: mx.uint32,
    mx.float16: mx.uint16,
    mx.bfloat16: mx.uint16,
    mx.float64: mx.uint64,
    mx.complex64: mx.uint64,
}


def of_one_size(values: Iterable[Value]) -> Iterator[list[Value]]:
    """Values of one size and dtype together, so many that their numbers fit into a few megabytes: what is asked of
    them is then one op for all, and not several for each. Those of one shape follow each other."""
    groups: dict[tuple[int, mx.Dtype], dict[tuple[int, ...], list[Value]]] = {}
    shapes: dict[Sketch, list[Value]] = {}
    for value in values:
        sketch = value.shape, value.dtype
        if sketch not in shapes:
            same_size = groups.setdefault((value.size, value.dtype), {})
            shapes[sketch] = same_size.setdefault(value.shape, [])
        shapes[sketch].append(value)
    for (size, _), found in groups.items():
        group = [*chain.from_iterable(found.values())]
        count = max(min(_ROWS, _ELEMENTS // max(size, 1)), 1)
        for start in range(0, len(group), count):
            yield group[start : start + count]


def rows(group: Sequence[Value]) -> mx.array:
    """Values of one size as the rows of one array."""
    parts = [_below_each_other([*arrays]) for _, arrays in groupby([value.array for value in group], _shape)]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def _shape(array: mx.array) -> tuple[int, ...]:
    return array.shape


def pieces(array: mx.array) -> Iterator[mx.array]:
    """Give a large tensor in rows of one piece each, in order."""
    flat = array.reshape(-1)
    for start in range(0, array.size, PIECE):
        yield flat[start : start + PIECE].reshape(1, -1)


def totals(array: mx.array) -> mx.array:
    """Return the sum of each row. MLX adds float32 one number after the other, which of a hundred million ones makes 16
    million, and is off in the fourth digit at a million; in blocks, and blocks of blocks, each digit shown is right."""
    while array.shape[1] > _BLOCK:
        whole = array.shape[1] // _BLOCK * _BLOCK
        blocks = mx.sum(array[:, :whole].reshape(array.shape[0], -1, _BLOCK), axis=2)
        rest = mx.sum(array[:, whole:], axis=1, keepdims=True)  # a block too: small numbers vanish beside large sums
        array = mx.concatenate([blocks, rest], axis=1)
    return mx.sum(array, axis=1)


def total(array: mx.array) -> mx.array:
    """Return the sum of all elements, as `totals`."""
    return totals(array.reshape(1, -1))[0]
