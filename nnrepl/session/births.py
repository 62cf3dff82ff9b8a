"""Births: where a NaN or an ∞ came from, followed element by element.

A tensor with a NaN among its numbers proves nothing about the element that reached the loss: a mask holds −∞ on
purpose, a row that nobody reads may be broken. So one element is followed: through ops that work place by place the
same place of the operands, through all others the operand's element without which the result would be finite, which
is found by computing the op again with fewer and fewer of its bad numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.ops import ELEMENTWISE, ENTRIES, Trait, has
from nnrepl.ops.numbers import unravel
from nnrepl.record.batches import PIECE, pieces
from nnrepl.tape import Inside, Op, Value, inside_of, result_inside


class Sight(Protocol):
    """Sees numbers: evaluates values of the tape, and small results."""

    def see(self, values: Iterable[Value]) -> None:
        """Give values their numbers."""

    def numbers(self, arrays: Sequence[mx.array]) -> list[Any]:
        """Small results as Python numbers, in one evaluation."""

    def finite(self, values: Iterable[Value]) -> dict[Value, bool]:
        """Whether each value is finite everywhere."""


NAN, INF = "nan", "inf"


@dataclass(frozen=True, slots=True)
class Birth:
    """Where a number went bad.

    Attributes:
        kind: NAN or INF.
        value: The tensor that holds the number.
        at: The element, as a flat place.
        op: The op that made it out of finite numbers, or a NaN out of infinite ones; None where the number came in
            with a leaf.
        constant: The argument of the op that is no finite number itself, written in the program; None if none is.
        before: For a NaN that infinite numbers made: where one of those was born.
        through: The op after the birth that takes the bad number first; None if the number is what was asked about.
        negative: Whether the number is −∞.
        within: Of an op that MLX runs by itself, with a gradient inside: the first number in there that is none.
        lost: Why the way could not be followed further back, "" where it was followed to its beginning.
    """

    kind: str
    value: Value
    at: int
    op: Op | None
    constant: float | None = None
    before: Birth | None = None
    through: Op | None = None
    lost: str = ""
    negative: bool = False
    within: Birth | None = None

    @property
    def root(self) -> Birth:
        """The first cause: where the ∞ behind a NaN was born, else this."""
        return self if self.before is None else self.before.root


def follow(sight: Sight, value: Value, at: int) -> Birth:
    """Where one bad element was born.

    Args:
        at: A flat place at which `value` is NaN or infinite.
    """
    kind, negative = _kind(sight, value, at)
    through: Op | None = None
    while True:
        op = value.op
        if op is None:
            older = value.origin
            if older is None or older.shape != value.shape:
                return Birth(kind, value, at, None, through=through, negative=negative)
            if older.refusal:
                return Birth(kind, value, at, None, through=through, lost=older.refusal, negative=negative)
            value = older
            continue
        if any(taken.refusal for taken in op.inputs):
            refusal = next(taken.refusal for taken in op.inputs if taken.refusal)
            return Birth(kind, value, at, op, through=through, lost=refusal, negative=negative)
        found = _parent(sight, op, value, at, kind) or _slope(sight, op, value, at)
        if found is None:
            inner = _result(sight, value, at)
            if inner is not None:
                value, through = inner, op
                continue
            return _written(sight, op) or Birth(kind, value, at, op, _constant(op), through=through, negative=negative,
                                                within=_first_within(sight, op))  # fmt: skip
        parent, place, parent_kind = found
        if parent_kind != kind or parent.op is op.of is not None:
            before = follow(sight, parent, place)
            return Birth(kind, value, at, op, before=before, through=through, negative=negative)
        value, at, through = parent, place, op
        if kind == INF:
            kind, negative = _kind(sight, value, at)


def _written(sight: Sight, op: Op) -> Birth | None:
    """Return, for a VJP whose forward op has a NaN or an ∞ in its call, the birth of what that made of it: the same
    number is the slope. None where there is none."""
    forward = op.of if op.operation.kind == "vjp" else None
    constant = None if forward is None or forward.error is not None else _constant(forward)
    if forward is None or constant is None or len(forward.outputs) != 1 or forward.outputs[0].refusal:
        return None
    result = forward.outputs[0]
    at = first_bad(sight, result)
    if at is None:
        return None
    kind, negative = _kind(sight, result, at)
    return Birth(kind, result, at, forward, constant, through=op, negative=negative)


def _result(sight: Sight, value: Value, at: int) -> Value | None:
    """Return the result inside of a nested gradient call that is as bad at this element; None if it is not known, or
    not."""
    inner = result_inside(value)
    if inner is None or inner.op is None or inner.refusal:
        return None
    sight.see([inner])
    return inner if sight.numbers([~mx.isfinite(inner.array.flatten()[at])])[0] else None


def _first_within(sight: Sight, op: Op) -> Birth | None:
    """Where the first bad number inside of a call was born, whose own VJP made one."""
    inside = inside_of(op.of) if op.of is not None else None
    if inside is None or not inside.differentiates or isinstance(inside.within, Inside):
        return None
    made = [value for one in inside.ops if one.error is None for value in one.outputs
            if is_inexact(value) and value.size and not value.refusal]  # fmt: skip
    finite = sight.finite(made)
    bad = next((value for value in made if not finite[value]), None)
    at = None if bad is None else first_bad(sight, bad)
    return None if bad is None or at is None else follow(sight, bad, at)


def first_bad(sight: Sight, value: Value, kind: str = "") -> int | None:
    """Return the first element that is no finite number (a NaN before an ∞, or only what is asked for); None if none
    is."""
    if not value.size or not is_inexact(value):
        return None
    sight.see([value])
    infinite: int | None = None
    for number, piece in enumerate(pieces(value.array)):
        nan, inf = mx.isnan(piece), mx.isinf(piece)
        any_nan, at_nan, any_inf, at_inf = sight.numbers([mx.any(nan), mx.argmax(nan), mx.any(inf), mx.argmax(inf)])
        if any_nan and kind != INF:
            return number * PIECE + int(at_nan)
        if any_inf and infinite is None:
            infinite = number * PIECE + int(at_inf)
    return infinite if kind != NAN else None


def is_inexact(value: Value) -> bool:
    """Whether a tensor can hold NaN and ∞."""
    return mx.issubdtype(value.dtype, mx.inexact)


def _kind(sight: Sight, value: Value, at: int) -> tuple[str, bool]:
    """Return what an element is, and whether it is −∞."""
    sight.see([value])
    element = value.array.flatten()[at]
    low = element == -mx.inf if mx.issubdtype(value.dtype, mx.floating) else mx.array(False)
    nan, negative = sight.numbers([mx.isnan(element), low])
    return NAN if nan else INF, bool(negative)


def _constant(op: Op) -> float | None:
    """Return a number in the call that is NaN or infinite itself."""
    for arg in (*op.args, *op.kwargs.values()):
        if isinstance(arg, float) and not -float("inf") < arg < float("inf"):
            return arg
    return None


def _parent(sight: Sight, op: Op, value: Value, at: int, kind: str) -> tuple[Value, int, str] | None:
    """Return the element of an input that made an element of a result bad, and what it is; None if no input's did."""
    inputs = [taken for taken in dict.fromkeys(op.inputs) if taken.size and is_inexact(taken)]
    if not inputs:
        return None
    finite = sight.finite(inputs)
    bad = [taken for taken in inputs if not finite[taken]]
    if not bad or op.operation.kind == "data":
        return None
    found = None
    if kind == NAN:
        found = _nan_of(sight, op, value, at, bad)
    if found is None:
        found = _paired(sight, op, value, at, bad, kind)
    return found if found is not None else _without_which(sight, op, value, at, bad, kind)


def _nan_of(sight: Sight, op: Op, value: Value, at: int, bad: list[Value]) -> tuple[Value, int, str] | None:
    """Return the NaN among the numbers of which arithmetic makes an element: whatever is added to or multiplied with a
    NaN is NaN. None where there is none, or where the op is no such arithmetic."""
    pieces = {taken: piece for taken in bad if (piece := _operands_of(op, value, at, taken)) is not None}
    if not pieces:
        return None
    tests = [
        array for piece in pieces.values() for array in (mx.any(mx.isnan(piece[0])), mx.argmax(mx.isnan(piece[0])))
    ]
    flags = sight.numbers(tests)
    for number, (taken, (_, start, step)) in enumerate(pieces.items()):
        if flags[2 * number]:
            return taken, start + step * int(flags[2 * number + 1]), NAN
    return None


def _is_arithmetic(name: str) -> bool:
    """Whether an op computes each number of its result from the numbers at the same place, all of which count."""
    entry = ENTRIES.get(name)
    return entry is not None and entry.kind == ELEMENTWISE and not has(name, Trait.CHOOSES, Trait.ANSWERS)


def _operands_of(op: Op, value: Value, at: int, taken: Value) -> tuple[mx.array, int, int] | None:
    """Return the numbers of an operand that take part in an element of a sum, a product, a matrix product: with the
    flat place of the first, and how far the next lies from it."""
    if op.operation.kind != "op":
        return None
    if _is_arithmetic(op.name):
        place = same_place(value.shape, at, taken.shape)
        return None if place is None else (taken.array.reshape(-1)[place : place + 1], place, 1)
    if op.name != "matmul" or len(op.inputs) != 2 or op.inputs[0] is op.inputs[1] or len(value.shape) < 2:
        return None
    left, right = reversed(op.inputs) if op.operation.spelling.startswith("__r") else op.inputs
    if len(left.shape) != len(value.shape) or len(right.shape) not in (2, len(value.shape)):
        return None
    *before, _row, column = unravel(at, value.shape)
    if taken is left:
        if left.shape[:-1] != value.shape[:-1]:
            return None
        start = (at // value.shape[-1]) * left.shape[-1]
        return taken.array.reshape(-1)[start : start + left.shape[-1]], start, 1
    if len(right.shape) > 2 and right.shape[:-2] != value.shape[:-2]:
        return None
    inner, width = right.shape[-2:]
    lead = 0
    for extent, step in zip(right.shape[:-2], before):
        lead = lead * extent + step
    start = lead * inner * width + column
    return taken.array.reshape(-1)[start : lead * inner * width + inner * width : width], start, width


def _slope(sight: Sight, op: Op, value: Value, at: int) -> tuple[Value, int, str] | None:
    """For a VJP that makes a bad number out of finite gradients: the ∞ that its forward op had given at that place,
    which is (or comes with) its slope."""
    forward = op.of
    if forward is None or len(forward.outputs) != 1 or forward.error is not None or op.operation.kind != "vjp":
        return None
    result = forward.outputs[0]
    if result.shape != value.shape or result.refusal or not is_inexact(result):
        return None
    sight.see([result])
    infinite = sight.numbers([mx.isinf(result.array.flatten()[at])])[0]
    return (result, at, INF) if infinite else None


def is_of_slope(sight: Sight, birth: Birth) -> bool:
    """Whether a NaN is a VJP's whose forward op gave an ∞ there, and into which no bad number went that made it."""
    op = birth.op
    if op is None or birth.before is None or op.of is None:
        return False
    return _parent(sight, op, birth.value, birth.at, birth.kind) is None


def _paired(sight: Sight, op: Op, value: Value, at: int, bad: list[Value], kind: str) -> tuple[Value, int, str] | None:
    """Return the bad element at the same place of an operand, where that alone makes the result as bad as it is."""
    places = {taken: place for taken in bad if (place := same_place(value.shape, at, taken.shape)) is not None}
    if not places:
        return None
    kept = {taken: mx.arange(taken.size).reshape(taken.shape) == place for taken, place in places.items()}
    result = _again(op, value, at, lambda taken: _only(taken, kept.get(taken)))
    if result is None:
        return None
    tests: list[mx.array] = [mx.isnan(result), mx.isinf(result)]
    for taken, place in places.items():
        element = taken.array.flatten()[place]
        tests += [mx.isnan(element), mx.isinf(element)]
    try:
        nan, inf, *elements = sight.numbers(tests)
    except (ValueError, RuntimeError):
        return None
    if not (nan if kind == NAN else inf):
        return None
    found = [(taken, place, NAN if elements[2 * k] else INF if elements[2 * k + 1] else "")
             for k, (taken, place) in enumerate(places.items())]  # fmt: skip
    for wanted in (kind, INF):
        for taken, place, what in found:
            if what == wanted:
                return taken, place, what
    return None


def same_place(shape: tuple[int, ...], at: int, operand: tuple[int, ...]) -> int | None:
    """Return the element of an operand that broadcasting pairs with an element of the result; None if the shapes do not
    go together."""
    if len(operand) > len(shape):
        return None
    index = unravel(at, shape)[len(shape) - len(operand) :]
    place = 0
    for extent, full, step in zip(operand, shape[len(shape) - len(operand) :], index):
        if extent not in (1, full):
            return None
        place = place * extent + (0 if extent == 1 else step)
    return place


def filler(taken: Value) -> mx.array:
    """Finite numbers for the place of bad ones: all different, so that no difference and no variance of them is 0."""
    spread = mx.arange(taken.size).astype(mx.float32) * 0.6180339887
    return (0.5 + (spread - mx.floor(spread))).reshape(taken.shape).astype(taken.dtype)


def _only(taken: Value, kept: mx.array | None) -> mx.array:
    """Return a tensor in which only some bad numbers are left."""
    if not is_inexact(taken) or not taken.size:
        return taken.array
    good = mx.isfinite(taken.array)
    return mx.where(good if kept is None else good | kept, taken.array, filler(taken))


def _alone(taken: Value, kept: mx.array | None) -> mx.array:
    """Return some bad numbers of a tensor, among small ones in the place of all others."""
    if not is_inexact(taken) or not taken.size:
        return taken.array
    small = filler(taken) / taken.size
    return small if kept is None else mx.where(kept, taken.array, small)


def _again(op: Op, value: Value, at: int, given: Any) -> mx.array | None:
    """One element of a result with other operands, lazily; None if the op refuses them."""
    try:
        return op.compute(given)[value.slot].flatten()[at]
    except (ValueError, TypeError, RuntimeError, IndexError):
        return None


_WAYS = 15  # so many sets of bad numbers are tried in one evaluation


def _without_which(
    sight: Sight, op: Op, value: Value, at: int, bad: list[Value], kind: str
) -> tuple[Value, int, str] | None:
    """Return the first of an op's bad operands' elements that, with those before it, makes the result bad: NaNs are
    counted before infinite numbers. None if the result is bad without any."""
    ranks, offset = _ranks(bad)
    nans, total = sight.numbers([offset[0], offset[1]])

    def tries(counts: list[int], keep: Callable[[Value, mx.array | None], mx.array]) -> list[bool]:
        results = []
        for count in counts:
            result = _again(op, value, at, lambda taken: keep(taken, _first(ranks, taken, count)))  # noqa: B023
            if result is None:
                return []
            results.append(~mx.isfinite(result) if kind == INF else mx.isnan(result))
        try:
            return [bool(flag) for flag in sight.numbers([mx.stack(results)])[0]]
        except (ValueError, RuntimeError):  # a factorization that minds its numbers
            return []

    low, high = 0, int(total)  # bad with `high` of them
    keep = _only
    first = tries([0, high], keep)
    if first and first[0]:  # a sum that overflows without any of them as well: are they enough by themselves?
        keep = _alone
        first = tries([0, high], keep)
    if not first or first[0] or not first[1]:
        return None
    while high - low > 1:
        step = max((high - low) // (_WAYS + 1), 1)
        counts = list(range(low + step, high, step))[: _WAYS + 1]
        flags = tries(counts, keep)
        if not flags:
            return None
        for count, flag in zip(counts, flags):
            if flag:
                high = count
                break
            low = count
    for taken in bad:
        there = ranks[taken] == high
        found, place = sight.numbers([mx.any(there), mx.argmax(there.flatten())])
        if found:
            return taken, int(place), NAN if high <= int(nans) else INF
    return None


def _first(ranks: dict[Value, mx.array], taken: Value, count: int) -> mx.array | None:
    rank = ranks.get(taken)
    return None if rank is None else (rank > 0) & (rank <= count)


def _ranks(bad: list[Value]) -> tuple[dict[Value, mx.array], tuple[mx.array, mx.array]]:
    """Return the numbers of the bad elements of several tensors from 1 on, NaNs first; 0 for the finite ones. And how
    many NaNs and bad elements there are."""
    nans = [mx.isnan(taken.array).flatten().astype(mx.int32) for taken in bad]
    infs = [mx.isinf(taken.array).flatten().astype(mx.int32) for taken in bad]
    joined_nan, joined_inf = mx.cumsum(mx.concatenate(nans)), mx.cumsum(mx.concatenate(infs))
    count = joined_nan[-1]
    ranks: dict[Value, mx.array] = {}
    start = 0
    for taken, nan, inf in zip(bad, nans, infs):
        part = slice(start, start + taken.size)
        ranks[taken] = (joined_nan[part] * nan + (count + joined_inf[part]) * inf).reshape(taken.shape)
        start += taken.size
    return ranks, (count, count + joined_inf[-1])


def is_born(sight: Sight, birth: Birth) -> bool:
    """Look at the numbers themselves whether a birth is one: the element is bad; and it stays so when its op is
    computed with a finite number in the place of each bad one that goes in. (Of a NaN that infinite numbers made: it
    does not, or its slope is the ∞ that the forward op gave there.)"""
    op, value = birth.op, birth.value
    sight.see([value])
    element = value.array.flatten()[birth.at]
    nan, bad = sight.numbers([mx.isnan(element), ~mx.isfinite(element)])
    if not (nan if birth.kind == NAN else bad and not nan):
        return False
    if op is None or birth.lost or birth.constant is not None or op.operation.kind == "data" or op.name == "array":
        return True
    sight.see(op.inputs)
    result = _again(op, value, birth.at, lambda taken: _only(taken, None))
    try:
        still = None if result is None else sight.numbers([~mx.isfinite(result)])[0]
    except (ValueError, RuntimeError):  # a factorization that minds its numbers
        still = None
    if still is None:
        still = all(sight.finite([taken for taken in op.inputs if is_inexact(taken)]).values())
    inner = birth.within is None or is_born(sight, birth.within)
    if birth.before is not None:
        return not still or _slope(sight, op, value, birth.at) is not None
    return bool(still) and inner
