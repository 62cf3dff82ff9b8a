"""Reference: how far the values of a tape are from arrays made elsewhere, and where the difference begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.session.counterparts import Match, Stretch, ambiguous, arrangements, order, region
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Said, say, say_first
from nnrepl.timeline.compare import Distance, distances

TOLERANCE = 1e-5
_COARSE = {mx.float16: 2e-3, mx.bfloat16: 1.6e-2}  # twice what a step of the dtype is, relative to 1
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Compared:
    """A value and its reference.

    Attributes:
        match: Which they are.
        shape: The shape of the reference.
        order: In which order the axes of the reference were taken; None where no order gives our shape.
        distance: How far they are apart; None where the shapes do not go together.
        scale: The largest magnitude in the reference (1 where that is 0).
        tolerance: What was allowed, as a share of `scale`.
        has_scale: Whether the reference has a number that is not 0.
        flipped: The values agree if the axes of the reference are taken in this other order.
    """

    match: Match
    shape: tuple[int, ...]
    order: tuple[int, ...] | None
    distance: Distance | None
    scale: float
    tolerance: float
    flipped: tuple[int, ...] = ()
    has_scale: bool = True

    @property
    def value(self) -> Value:
        """Our value."""
        return self.match.value

    @property
    def share(self) -> float:
        """The largest difference as a share of the largest magnitude in the reference."""
        return math.inf if self.distance is None else self.distance.absolute / self.scale

    @property
    def differs(self) -> bool:
        """Whether that is more than the tolerance."""
        return self.distance is None or (not self.distance.same and not self.share <= self.tolerance)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison found.

    Attributes:
        compared: Everything that was compared, in order of execution.
        first: The first that differs, None if none does.
        ops: The ops in which the difference must have come about, in order; empty for a leaf.
        hints: What the difference looks like, in words.
        undecided: Arrays that could be one of several values, none of which agrees.
    """

    compared: list[Compared]
    first: Compared | None
    ops: list[Op]
    hints: list[Said]
    undecided: dict[str, str]


def compare(
    matches: Sequence[Match], read: Callable[[str], mx.array], stretch: Stretch, tolerance: float | None = None
) -> Verdict:
    """Measure all pairs, in batches; the values have been evaluated.

    Args:
        matches: The pairs, in order of execution.
        read: Gives a reference by its key.
        stretch: The pass in which they lie.
        tolerance: As a share of the largest magnitude of each reference; None for 1e-5, or more where the dtype
            is coarser than that.
    """
    matches, undecided = _decided(matches, read, stretch, tolerance)
    compared: list[Compared] = []
    for start in range(0, len(matches), _BATCH):
        compared.extend(_measure(matches[start : start + _BATCH], read, tolerance))
    compared = [_flipped(one, read) if one.differs else one for one in compared]
    first = next((one for one in compared if one.differs), None)
    if first is None:
        return Verdict(compared, None, [], [], undecided)
    sure = {one.value for one in compared if not one.differs}
    ops = region(first.value, sure, stretch)
    hints = [] if first.distance is None else hints_of(first.value.array, _arranged(first, read(first.match.key)))
    return Verdict(compared, first, ops, hints, undecided)


def _decided(
    matches: Sequence[Match], read: Callable[[str], mx.array], stretch: Stretch, tolerance: float | None
) -> tuple[list[Match], dict[str, str]]:
    """One value for each array: of several of one name, the one that agrees; else the last one that a variable of
    one call of a function had."""
    chosen: list[Match] = []
    undecided: dict[str, str] = {}
    for match in matches:
        if not match.others:
            chosen.append(match)
            continue
        tried = _measure([Match(value, match.key, match.how) for value in match.possible], read, tolerance)
        agreeing = [one.match for one in tried if not one.differs]
        if agreeing or match.at_once:
            chosen.append((agreeing or [tried[-1].match])[0])
        else:
            undecided[match.key] = ambiguous(match.key, match.possible)
    return in_order(chosen, stretch), undecided


def in_order(matches: list[Match], stretch: Stretch) -> list[Match]:
    """Return matches in order of execution."""
    return sorted(matches, key=lambda match: order(match.value, stretch))


def _measure(matches: Sequence[Match], read: Callable[[str], mx.array], tolerance: float | None) -> list[Compared]:
    """Each value with its reference, in the arrangement that brings them closest."""
    pairs: list[tuple[mx.array, mx.array]] = []
    rows: list[tuple[Match, mx.array, tuple[int, ...]]] = []
    lost: dict[Match, Compared] = {}
    empty: dict[Match, Compared] = {}
    for match in matches:
        ours, theirs = match.value.array, read(match.key)
        allowed = _allowed(ours, theirs, tolerance)
        found = arrangements(ours.shape, theirs.shape)
        if not found:
            lost[match] = Compared(match, theirs.shape, None, None, 1.0, allowed)
        elif not ours.size:
            empty[match] = Compared(match, theirs.shape, found[0], Distance(True, 0.0, 0.0, ()), 1.0, allowed)
        else:
            for arrangement in found:
                pairs.append((ours, arrange(theirs, arrangement, ours.shape)))
                rows.append((match, theirs, arrangement))
    scales = [_scale(theirs) for _, theirs in pairs]
    mx.eval(scales)
    best: dict[Match, Compared] = {**lost, **empty}
    for (match, theirs, arrangement), distance, scale in zip(rows, distances(pairs), scales):
        size = float(_item(scale))
        allowed = _allowed(match.value.array, theirs, tolerance)
        one = Compared(match, theirs.shape, arrangement, distance, size or 1.0, allowed, has_scale=size > 0)
        if match not in best or one.share < best[match].share:
            best[match] = one
    return [best[match] for match in matches]


def _allowed(ours: mx.array, theirs: mx.array, tolerance: float | None) -> float:
    if tolerance is not None:
        return tolerance
    if not mx.issubdtype(ours.dtype, mx.inexact) and not mx.issubdtype(theirs.dtype, mx.inexact):
        return 0.0
    return max(TOLERANCE, *(_COARSE.get(array.dtype, 0.0) for array in (ours, theirs)))


def _scale(array: mx.array) -> mx.array:
    size = mx.abs(array).astype(mx.float32)
    return mx.max(mx.where(mx.isfinite(size), size, 0.0))


def arrange(array: mx.array, arrangement: tuple[int, ...], shape: tuple[int, ...]) -> mx.array:
    """Return an array with its axes in another order, or in another shape where there is no order."""
    if arrangement == tuple(range(array.ndim)):
        return array
    return mx.transpose(array, arrangement) if arrangement else array.reshape(shape)


def _arranged(one: Compared, theirs: mx.array) -> mx.array:
    assert one.order is not None
    return arrange(theirs, one.order, one.value.shape)


def _flipped(one: Compared, read: Callable[[str], mx.array]) -> Compared:
    """Whether a reference that differs agrees with its axes in another order (a square matrix transposed)."""
    shape = one.value.shape
    if one.distance is None or one.shape != shape or not 2 <= len(shape) <= 4:
        return one
    same = tuple(range(len(shape)))
    orders = [axes for axes in permutations(same) if axes != same and tuple(shape[axis] for axis in axes) == shape]
    ours, theirs = one.value.array, read(one.match.key)
    for turned, distance in zip(orders, distances([(ours, mx.transpose(theirs, axes)) for axes in orders])):
        if distance.absolute <= one.tolerance * one.scale:
            return replace(one, flipped=turned)
    return one


# -- what a difference looks like -----------------------------------------------------------------------------


def hints_of(ours: mx.array, theirs: mx.array) -> list[Said]:
    """In words, what turns the reference into our value, where something simple does.

    Each guess has a residual: the largest |ours - guess| as a share of the largest |ours|; it must be far below
    the difference itself.
    """
    if mx.issubdtype(ours.dtype, mx.complexfloating) or not 2 <= ours.size <= _LARGEST:
        return []
    with mx.stream(mx.cpu):  # which knows float64: sums of many numbers in float32 are off in the fourth digit
        return list(_hints(ours.astype(mx.float64), theirs.astype(mx.float64)))


_LARGEST = 2**26
"""Of so many elements at most a hint is looked for: it takes several times their memory."""


def _hints(a: mx.array, b: mx.array) -> Iterator[Said]:
    bad = [_count(~mx.isfinite(array)) for array in (a, b)]
    names = [f"{count or 'no'} NaN or ∞ in {whose}" for count, whose in zip(bad, ("ours", "the reference"))]
    yield from say(Claim("compare: not finite", lambda: any(bad), lambda: ", ".join(names)))
    if any(bad):
        return
    yield from say_first(_Guesses(a, b).claims())
    differing = _count(a != b)
    few = 0 < differing <= a.size // 2
    yield from say(Claim("compare: few", lambda: few, lambda: f"only {differing} of {a.size} elements differ"))


def _count(flags: mx.array) -> int:
    return int(_item(mx.sum(flags)))


@dataclass(frozen=True, slots=True)
class _Guesses:
    """Our value and the reference, in float64, and what simple thing may turn the one into the other."""

    a: mx.array
    b: mx.array

    def claims(self) -> Iterator[Claim[str]]:
        a, b = self.a, self.b
        apart = a - b
        factor, offset = mx.sum(a * b) / mx.sum(b * b), mx.mean(apart)
        yield Claim(
            "compare: times",
            lambda: self.fits(factor * b),
            lambda: (
                f"ours is {_item(factor):.6g} × the reference everywhere: perhaps a scale is missing, or applied twice"
            ),
        )
        yield Claim("compare: plus", lambda: self.fits(b + offset), lambda: (
            f"ours is the reference {_item(offset):+.6g} everywhere"))  # fmt: skip
        if a.ndim < 2:
            return
        leading = tuple(range(a.ndim - 1))
        mean = mx.mean(apart, axis=leading, keepdims=True)
        columns = mx.sum(a * b, axis=leading, keepdims=True) / mx.sum(b * b, axis=leading, keepdims=True)
        rows = mx.sum(a * b, axis=-1, keepdims=True) / mx.sum(b * b, axis=-1, keepdims=True)
        yield Claim(
            "compare: bias",
            lambda: self.fits(b + mean),
            lambda: "the difference is the same vector in every row: perhaps a bias is missing, or another one",
        )
        yield Claim(
            "compare: columns",
            lambda: self.fits(columns * b),
            lambda: "the ratio is the same in every row: perhaps a weight per channel is missing, or another one",
        )
        yield Claim("compare: rows", lambda: self.fits(rows * b), lambda: (
            f"each row is the reference times one number ({_item(mx.min(rows)):.4g} to {_item(mx.max(rows)):.4g}): "
            "perhaps a normalization, or its eps"))  # fmt: skip

    def fits(self, guess: mx.array) -> bool:
        """Whether a guess leaves next to nothing of the difference."""
        whole, rest = mx.max(mx.abs(self.a - self.b)), mx.max(mx.abs(self.a - guess))
        return bool(_item(rest <= 0.02 * whole))


def _item(scalar: mx.array) -> Any:
    return scalar.item()
