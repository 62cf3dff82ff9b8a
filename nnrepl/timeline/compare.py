"""Compare: how far two tensors, or two timelines, are apart; many at once, in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.batches import alike, batches, side_by_side
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Op, Step, Tape, Value
from nnrepl.timeline.pairing import Pairs, Sites, align


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two tensors of one shape are apart.

    Attributes:
        same: Whether every element is equal (NaN is equal to NaN here).
        absolute: The largest |a - b|; infinite where only one of the two is NaN.
        relative: The largest |a - b| / max(|a|, |b|).
        index: Where the largest |a - b| is.
    """

    same: bool
    absolute: float
    relative: float
    index: tuple[int, ...]


def distances(pairs: Sequence[tuple[mx.array, mx.array]]) -> Iterator[Distance]:
    """Yield the distance of each pair of arrays; both of a pair have the same shape, and elements."""
    for batch in batches(pairs, lambda pair: pair):
        groups = alike(batch)
        measured = [_distances(*side_by_side(batch, group)) for group in groups]
        mx.eval(measured)
        found: dict[int, Distance] = {}
        for group, columns in zip(groups, measured):
            rows: Any = zip(group, *[column.tolist() for column in columns])
            for number, same, absolute, relative, at in rows:
                found[number] = Distance(same, absolute, relative, _place(at, batch[number][0].shape))
        yield from (found[number] for number in range(len(batch)))


def _place(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of an element by its number."""
    index: list[int] = []
    for extent in reversed(shape):
        flat, part = divmod(flat, extent)
        index.append(part)
    return tuple(index[::-1])


def _distances(a: mx.array, b: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """For each row of two tensors: whether all is equal, the largest distance, the largest relative one, and where."""
    equal = (a == b) | ((a != a) & (b != b))
    whole = not mx.issubdtype(a.dtype, mx.inexact) and not mx.issubdtype(b.dtype, mx.inexact)
    if whole:
        a, b = a.astype(mx.int64), b.astype(mx.int64)  # of large ones float32 has not every number
    elif not mx.issubdtype(a.dtype, mx.complexfloating) and not mx.issubdtype(b.dtype, mx.complexfloating):
        a, b = a.astype(mx.float32), b.astype(mx.float32)
    apart = mx.where(equal, 0.0, mx.abs(a - b).astype(mx.float32))
    apart = mx.where(mx.isnan(apart), float("inf"), apart)
    apart = mx.where(~equal & (apart == 0), _LEAST, apart)  # float64 numbers may be closer than float32 can tell
    scale = mx.maximum(mx.abs(a), mx.abs(b))
    relative = mx.where(apart == 0, 0.0, apart / mx.where(mx.isnan(scale) | (scale == 0), 1.0, scale))
    return mx.all(equal, axis=1), mx.max(apart, axis=1), mx.max(relative, axis=1), mx.argmax(apart, axis=1)


_LEAST = 1.2e-38  # the smallest normal number of float32


@dataclass(frozen=True, slots=True)
class Change:
    """An op on two timelines.

    Attributes:
        before, after: The op on each.
        old, new: The outputs that differ most.
        distance: How far they are apart; None where their shapes differ.
    """

    before: Op
    after: Op
    old: Value
    new: Value
    distance: Distance | None


def pairs_of(before: Tape, after: Tape) -> Pairs:
    """Return the program's ops on two timelines, side by side, and those that are on one of them only.

    Forward ops are paired by their site and how often it has come in the step; a backward op with the one of its
    forward op: an edit may have cut gradients, or added to them. Of steps that are closed on either, what made the
    losses is paired.
    """
    found = Pairs()
    sites = Sites()
    for number in range(min(len(before.steps), len(after.steps)) + 1):
        one, other = (tape.steps[number - 1] if number else tape.steps.setup for tape in (before, after))
        ops, theirs = _ops(before, one), _ops(after, other)
        if any(isinstance(op, ClosedOp) for op in (*ops, *theirs)):
            _pair_losses(one, other, found)
        else:
            last = any(number == len(tape.steps) for tape in (before, after))
            align(list(_forward(ops, before)), list(_forward(theirs, after)), sites, found, not last)
    twins = dict(found.ops)
    backward = dict(_backward(after, {op: op for op in twins.values()}))
    for key, op in _backward(before, twins):
        if key in backward:
            found.ops.append((op, backward[key]))
    found.ops.sort(key=lambda pair: pair[1].position)
    return found


def _pair_losses(one: Step, other: Step, found: Pairs) -> None:
    """Pair what made the losses of a step, whose ops cannot be counted; up to one that another operation made."""
    for a, b in zip(_losses(one), _losses(other)):
        closed = isinstance(a, ClosedOp) or isinstance(b, ClosedOp)
        if not closed and (a.name != b.name or len(a.outputs) != len(b.outputs)):
            found.alone[0].append(a)
            found.alone[1].append(b)
            return
        found.ops.append((a, b))


def _losses(step: Step) -> Iterator[Op]:
    """Yield what made the losses of a step, as far as they are known: from the first that is not, nothing more."""
    for pass_ in step.passes:
        if pass_.kind == GRADIENT_PASS:
            if pass_.loss is None or pass_.loss.op is None:
                return
            yield pass_.loss.op


def unseen_in(before: Tape, after: Tape) -> list[int]:
    """Return the steps of which nothing, or not every loss, can be compared, since they are closed on either tape. One
    in the midst of which a tape ends is none."""
    found = []
    for number in range(1, min(len(before.steps), len(after.steps)) + 1):
        one, other = before.steps[number - 1], after.steps[number - 1]
        if any(step.number == len(tape.steps) and not step.is_over for tape, step in ((before, one), (after, other))):
            break
        if any(isinstance(op, ClosedOp) for tape, step in ((before, one), (after, other)) for op in _ops(tape, step)):
            calls = max(sum(pass_.kind == GRADIENT_PASS for pass_ in step.passes) for step in (one, other))
            if not calls or sum(1 for _ in zip(_losses(one), _losses(other))) < calls:
                found.append(number)
    return found


def by_loss_in(before: Tape, after: Tape) -> list[int]:
    """Return the steps that are closed on either tape, and whose losses both know."""
    found = []
    for number in range(1, min(len(before.steps), len(after.steps)) + 1):
        one, other = before.steps[number - 1], after.steps[number - 1]
        closed = any(
            isinstance(op, ClosedOp) for tape, step in ((before, one), (after, other)) for op in _ops(tape, step)
        )
        if closed and any(zip(_losses(one), _losses(other))):
            found.append(number)
    return found


def _ops(tape: Tape, step: Step) -> Sequence[Op]:
    return tape.ops[step.start : step.end]


def ends_first(before: Tape, after: Tape) -> tuple[Tape, Op] | None:
    """Return the tape that was not followed as far as the other, with its last op of the program's; None if both go as
    far."""
    ends = [[op for op in tape.ops if _is_programs(op, tape)] for tape in (before, after)]
    counts: list[Any] = [sum(op.of is None for op in ops) for ops in ends]
    if before.closed or after.closed:
        counts = [(len(tape.steps), bool(tape.steps) and tape.steps[-1].is_over) for tape in (before, after)]
    if counts[0] == counts[1] or not all(ends):
        return None
    return (before, ends[0][-1]) if counts[0] < counts[1] else (after, ends[1][-1])


def _forward(ops: Sequence[Op], tape: Tape) -> Iterator[Op]:
    return (op for op in ops if op.of is None and _is_programs(op, tape))


def _is_programs(op: Op, tape: Tape) -> bool:
    """Whether an op is the program's, and none that an edit or a typed line of the user's has made."""
    return op not in tape.notes.inserted and op not in tape.notes.typed


def _backward(tape: Tape, twins: dict[Op, Op]) -> Iterator[tuple[tuple[Op, str, int], Op]]:
    """Yield the backward ops, each under the other tape's forward op, its own name, and how often that came before."""
    seen: Counter[tuple[Op, str]] = Counter()
    for op in tape.ops:
        twin = None if op.of is None else twins.get(op.of)
        if twin is not None:
            key = (twin, op.name)
            yield (*key, seen[key]), op
            seen[key] += 1


def candidates(pairs: Sequence[tuple[Op, Op]]) -> list[tuple[Op, Op, Value, Value]]:
    """Return the outputs that are not the very same value on both sides; gradients of the same value, paired."""
    found = []
    twins = _leaves(pairs)
    for a, b in pairs:
        if a.of is None:
            twins.update(zip(a.outputs, b.outputs))
    for a, b in pairs:
        if a.of is None:
            found += [(a, b, old, new) for old, new in zip(a.outputs, b.outputs) if old is not new]
            continue
        theirs = {value.gradient_of: value for value in b.outputs}
        for old in a.outputs:
            new = theirs.get(twins.get(old.gradient_of, old.gradient_of) if old.gradient_of is not None else None)
            if new is not None and new is not old:
                found.append((a, b, old, new))
    return found


def _leaves(pairs: Sequence[tuple[Op, Op]]) -> dict[Value, Value]:
    """Return the leaves of the passes in which paired ops lie, side by side."""
    passes = {id(a.pass_): (a.pass_, b.pass_) for a, b in pairs}
    return {old: new for a, b in passes.values() for old, new in zip(a.wrt, b.wrt)}


def changes(found: Sequence[tuple[Op, Op, Value, Value]]) -> list[Change]:
    """Return what differs, in order of execution; the values have been evaluated."""
    alike = [entry for entry in found if entry[2].shape == entry[3].shape and entry[2].size]
    measured = dict(zip(map(id, alike), distances([(old.array, new.array) for _, _, old, new in alike])))
    result: dict[Op, Change] = {}
    for entry in found:
        a, b, old, new = entry
        distance = measured.get(id(entry))
        if distance is not None and distance.same:
            continue
        if distance is None and old.shape == new.shape:
            continue
        known = result.get(b)
        if known is None or (
            known.distance is not None and (distance is None or distance.absolute > known.distance.absolute)
        ):
            result[b] = Change(a, b, old, new, distance)
    return list(result.values())
