"""Bounds: places outside of their axis. MLX does not check them: what is read there is anything, or a crash.

The places that an op takes are looked at before anything that depends on it is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from nnrepl.record.strays import raw
from nnrepl.tape import Op, Value

_ALONG = ("take", "take_along_axis", "put_along_axis")
_BRACKETS = ("getitem", "setitem", "at.add", "at.subtract", "at.multiply", "at.divide", "at.maximum", "at.minimum")
INDEXING = frozenset((*_ALONG, *_BRACKETS))
"""The operations that take places."""

Place = tuple[Value | int, int, int]
"""The places that an op takes, the length of the axis that they count, and the number of that axis."""

_astype, _argmax, _logical_or, _flatten = map(raw, (mx.astype, mx.argmax, mx.logical_or, mx.flatten))
_greater_equal, _less = raw(mx.greater_equal), raw(mx.less)
_any, _stack = raw(mx.any), raw(mx.stack)
_item, _getitem, _tolist = mx.array.item, mx.array.__getitem__, mx.array.tolist
_FEW, _DEEP = 512, 32
"""Elements that Python looks at faster than MLX; ops before a value that are looked at."""
_RESHAPING = frozenset(("expand_dims", "reshape", "flatten", "squeeze", "unflatten"))


class OutOfBounds(IndexError):
    """What would be evaluated lies outside of a tensor; the message is one line."""


@dataclass(frozen=True, slots=True)
class Outside:
    """A place outside of its axis.

    Attributes:
        op: The op that takes it.
        said: What to say about it.
        by: What to add where the op that takes it stands on the tape.
        crashes: Whether plain MLX cannot survive it.
    """

    op: Op
    said: str
    by: str = ""
    crashes: bool = False

    @property
    def text(self) -> str:
        """All of it."""
        return self.said + self.by


def outside(ops: Iterable[Op]) -> Outside | None:
    """The first place outside of its axis that one of `ops` takes, in order. Looks at nothing but the places."""
    unknown = [op for op in dict.fromkeys([taken.of or taken for taken in ops]) if _is_unknown(op)]
    if _all_inside(unknown):
        for op in unknown:
            op.tape.notes.inside.add(op)
        return None
    for op in unknown:
        found = _assigns_nothing(op) or next(filter(None, (_outside(op, *place) for place in places(op))), None)
        if found is not None:
            return found
        op.tape.notes.inside.add(op)
    return None


def _is_unknown(op: Op) -> bool:
    """Whether an op takes places that have not been looked at. (A gradient goes back to those of its forward op.)"""
    return op.operation.name in INDEXING and op not in op.tape.notes.inside


def _all_inside(ops: Iterable[Op]) -> bool:
    """Whether all places of some ops lie on their axes, asked in one evaluation at most. False where one does not, and
    where that takes more: where the places of one op come from what another one takes."""
    flags: list[mx.array] = []
    for op in ops:
        if _assigns_nothing(op) is not None:
            return False
        for place, extent, _ in places(op):
            if isinstance(place, int):
                found = [place]
            else:
                value = _with_its_numbers(place)
                if not value.size or not mx.issubdtype(value.dtype, mx.integer):
                    continue
                if not value.evaluated:
                    if not _is_safe(value):
                        return False
                    flags.append(_any(_bad(value.array, extent)))
                    continue
                if value.size > _FEW:
                    flags.append(_any(_bad(value.array, extent)))
                    continue
                found = _numbers(_tolist(value.array))
            if not all([-extent <= number < extent for number in found]):
                return False
    return not flags or not _item(_any(_stack(flags)))


def _with_its_numbers(value: Value) -> Value:
    """The nearest value with the numbers of `value` that has been evaluated, or the furthest one."""
    while not value.evaluated and value.op is not None and value.op.operation.name in _RESHAPING:
        value = value.op.inputs[0]
    return value


def _is_safe(value: Value) -> bool:
    """Whether a value can be evaluated: no op that takes unknown places stands before it. Looks at a few ops."""
    pending, seen = [value], 0
    while pending:
        op = pending.pop().op
        seen += 1
        if op is None or op.outputs[0].evaluated:
            continue
        if _is_unknown(op.of or op) or seen > _DEEP:
            return False
        pending.extend(op.inputs)
    return True


def _numbers(rows: Any) -> Any:
    """All numbers in nested lists."""
    if not isinstance(rows, list):
        return [rows]
    while rows and isinstance(rows[0], list):
        rows = [number for row in rows for number in row]
    return rows


def places(op: Op) -> Iterator[Place]:
    """The places that an op takes."""
    if not op.inputs or not op.args or not isinstance(op.args[0], Value):
        return
    shape = op.args[0].shape
    name = op.operation.name
    if name in _ALONG:
        place: Any = op.args[1] if len(op.args) > 1 else op.kwargs.get("indices")
        at = {"put_along_axis": 3}.get(name, 2)
        axis = op.args[at] if len(op.args) > at else op.kwargs.get("axis")
        if isinstance(place, Value):
            if isinstance(axis, int) and shape:
                yield place, shape[axis], axis % len(shape)
            elif axis is None:
                yield place, op.args[0].size, 0
    elif name in _BRACKETS and len(op.args) > 1:
        yield from _in_brackets(op.args[1], shape)


def _in_brackets(index: Any, shape: tuple[int, ...]) -> Iterator[Place]:
    parts = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 for part in parts if part is not None and part is not Ellipsis)
    axis = 0
    for part in parts:
        if part is None:
            continue
        if part is Ellipsis:
            axis += len(shape) - used
            continue
        tensor = isinstance(part, (Value, mx.array))
        if tensor and part.dtype == mx.bool_:
            return
        if axis < len(shape) and (tensor or type(part) is int):
            yield part, shape[axis], axis
        axis += 1


def _outside(op: Op, place: Value | int, extent: int, axis: int) -> Outside | None:
    if isinstance(place, int):
        return None if -extent <= place < extent else _found(op, "", place, extent, axis)
    first = first_outside(place.array, extent)
    if first is None:
        return None
    element, number = first
    return _found(op, f"{place.name}{element or ''} = {number}, but ", number, extent, axis)


def first_outside(index: mx.array, extent: int) -> tuple[list[int], int] | None:
    """The first element of `index` that is no place of an axis of length `extent`: where it stands and what it is."""
    if not index.size or not mx.issubdtype(index.dtype, mx.integer):
        return None
    array = _flatten(_astype(index, mx.int64))
    bad = _bad(array, extent)
    first = int(_item(_argmax(bad)))  # type: ignore[arg-type]
    if not _item(_getitem(bad, first)):
        return None
    number = int(_item(_getitem(array, first)))  # type: ignore[arg-type]
    element: list[int] = []
    for length in reversed(index.shape):
        first, at = divmod(first, length)
        element.insert(0, at)
    return element, number


def _bad(index: mx.array, extent: int) -> mx.array:
    """Where integers are no places of an axis of length `extent`."""
    array = _astype(index, mx.int64)
    bad: mx.array = _logical_or(_greater_equal(array, extent), _less(array, -extent))
    return bad


@contextmanager
def checked() -> Iterator[None]:
    """While Python is run for the prompt, `x[i]` looks at its places first.

    Raises:
        IndexError: From within, if one lies outside of its axis.
    """
    before = mx.array.__getitem__

    def __getitem__(array: mx.array, index: Any) -> Any:
        for place, extent, axis in _in_brackets(index, array.shape):
            found = first_outside(mx.array(place) if isinstance(place, int) else place, extent)  # type: ignore[arg-type]
            if found is not None:
                element, number = found
                where = f" (element {element} of the index)" if element else ""
                axes = f"axis {axis} of a tensor of shape {tuple(array.shape)}"
                raise IndexError(f"index {number}{where} is out of range: {axes} has the places 0 to {extent - 1}")
        return before(array, index)

    mx.array.__getitem__ = __getitem__  # type: ignore[method-assign]
    try:
        yield
    finally:
        mx.array.__getitem__ = before  # type: ignore[method-assign]


def _found(op: Op, who: str, number: int, extent: int, axis: int) -> Outside:
    table = op.args[0]
    does = "reads" if op.operation.name in ("getitem", "take", "take_along_axis") else "writes"
    said = f"index {number} is out of range: {who}axis {axis} of {table.name} {tuple(table.shape)}"
    said = f"{said} has the places 0 to {extent - 1}"
    return Outside(op, said, f"; {op.label} {op.name} {does} outside of it, which MLX does not check")


def _assigns_nothing(op: Op) -> Outside | None:
    """A masked assignment of an empty tensor, which ends a process in MLX."""
    if op.operation.name != "setitem" or len(op.args) < 3:
        return None
    array, mask, update = op.args[:3]
    masked = isinstance(mask, Value) and mask.dtype == mx.bool_
    if not masked or not isinstance(update, Value) or update.size or not array.size:
        return None
    what = f"{update.name} {tuple(update.shape)}" if update.op is not None and update.op.name != "array" else "it"
    said = (
        f"a masked assignment of nothing to {array.name} {tuple(array.shape)}: {what} is empty, and MLX crashes on that"
    )
    return Outside(op, said, f" ({op.label} {op.name})", crashes=True)
