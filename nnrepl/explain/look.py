"""Look: sees numbers for an answer, lazily and in batches, and counts the ops that this evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.batches import PIECE, all_equal, of_one_size, pieces, rows, totals
from nnrepl.session.expressions import aside
from nnrepl.session.reading import Reading
from nnrepl.tape import Value


@dataclass(frozen=True, slots=True)
class Stat:
    """A tensor in a few numbers.

    Attributes:
        size: How many elements it has.
        zeros: How many are exactly 0.
        nans, infs: How many are no numbers, or infinite.
        peak: The largest absolute value of the finite ones.
        norm: The root of the sum of squares of the finite ones.
    """

    size: int
    zeros: int
    nans: int
    infs: int
    peak: float
    norm: float

    @property
    def typical(self) -> float:
        """A typical element: the root of the mean square."""
        return self.norm / math.sqrt(max(self.size, 1))

    @property
    def is_zero(self) -> bool:
        """Whether it is 0 everywhere."""
        return self.zeros == self.size

    @property
    def is_finite(self) -> bool:
        """Whether every element is an ordinary number."""
        return not self.nans and not self.infs


class Look:
    """What one answer looks at.

    Attributes:
        ops: How many ops were evaluated for it.
    """

    def __init__(self, session: Reading) -> None:
        self.session = session
        self.ops = 0
        self._stats: dict[Value, Stat] = {}
        self._finite: dict[Value, bool] = {}
        self._refused: set[Value] = set()

    @property
    def looked(self) -> int:
        """How many tensors were looked at."""
        return len(self._stats.keys() | self._finite.keys())

    @property
    def refused(self) -> int:
        """How many tensors should have been looked at, and their numbers cannot be had."""
        return len(self._refused)

    @property
    def all_finite(self) -> bool:
        """Whether all that was looked at is finite."""
        return all(self._finite.values()) and all(stat.is_finite for stat in self._stats.values())

    @property
    def not_finite(self) -> list[Value]:
        """What was looked at and is not finite everywhere."""
        found = [value for value, finite in self._finite.items() if not finite]
        return list(dict.fromkeys([*found, *(value for value, stat in self._stats.items() if not stat.is_finite)]))

    def finite(self, values: Iterable[Value]) -> dict[Value, bool]:
        """Whether each value is finite everywhere, in batches: one number for each is all that is kept."""
        wanted = list(dict.fromkeys(values))
        new = [value for value in wanted if value not in self._finite and self.can_see(value)]
        self.see(new)
        with aside():
            for group in of_one_size(new):
                if group[0].size > PIECE:
                    self._finite[group[0]] = all(_is_finite(part) for part in pieces(group[0].array))
                    continue
                flags: Any = mx.all(mx.isfinite(rows(group)), axis=1).tolist()
                self._finite.update(zip(group, flags))
        return {value: self._finite[value] for value in wanted if value in self._finite}

    def can_see(self, value: Value) -> bool:
        """Whether the numbers of a value can be had; those that cannot are counted."""
        if value.refusal:
            self._refused.add(value)
        return not value.refusal

    def see(self, values: Iterable[Value]) -> None:
        """Give values their numbers."""
        wanted = [value for value in dict.fromkeys(values) if not value.evaluated]
        if wanted:
            self.ops += self.session.evaluate(wanted, lazy=True).ops

    def array(self, value: Value) -> mx.array:
        """Return the numbers of a value, evaluated."""
        self.see([value])
        return value.array

    def numbers(self, arrays: Sequence[mx.array]) -> list[Any]:
        """Small results as Python numbers, in one evaluation. What they are made of should have been seen."""
        with aside():
            mx.eval(arrays)
            return [array.tolist() for array in arrays]

    def same(self, pairs: Iterable[tuple[mx.array, mx.array | float]]) -> list[bool]:
        """For each pair whether `a == b` everywhere, the second one broadcast. What they are should have been seen."""
        with aside():
            return all_equal([(a, mx.array(b, a.dtype) if isinstance(b, float) else b) for a, b in pairs])

    def stats(self, values: Iterable[Value]) -> dict[Value, Stat]:
        """Every value in a few numbers, in batches."""
        wanted = list(dict.fromkeys(values))
        new = [value for value in wanted if value not in self._stats]
        self.see(new)
        with aside():
            for group in of_one_size(new):
                if group[0].size > PIECE:
                    self._stats[group[0]] = _together([_stats(part)[0] for part in pieces(group[0].array)])
                else:
                    self._stats.update(zip(group, _stats(rows(group))))
        return {value: self._stats[value] for value in wanted}

    def stat(self, value: Value) -> Stat:
        """One value in a few numbers."""
        return self.stats([value])[value]


def _is_finite(row: mx.array) -> bool:
    flag: Any = mx.all(mx.isfinite(row)).item()
    return bool(flag)


def _together(parts: list[Stat]) -> Stat:
    """Pieces of one tensor as a whole."""
    return Stat(
        sum(part.size for part in parts),
        sum(part.zeros for part in parts),
        sum(part.nans for part in parts),
        sum(part.infs for part in parts),
        max(part.peak for part in parts),
        math.hypot(*(part.norm for part in parts)),
    )


def _stats(array: mx.array) -> list[Stat]:
    """Each row in a few numbers."""
    count, size = array.shape
    if not size:
        return [Stat(0, 0, 0, 0, 0.0, 0.0)] * count
    inexact = mx.issubdtype(array.dtype, mx.inexact)
    kept = mx.abs(array).astype(mx.float32) if array.dtype != mx.bool_ else array.astype(mx.float32)
    if inexact:
        kept = mx.where(mx.isfinite(array), kept, 0)
    peak = mx.max(kept, axis=1, keepdims=True)
    # Scaled by the peak, so that no square overflows or vanishes.
    scale = mx.maximum(peak, 1e-30)
    parts = [mx.sum(array == 0, axis=1), peak[:, 0], totals(mx.square(kept / scale))]
    if inexact:
        parts += [mx.sum(mx.isnan(array), axis=1), mx.sum(mx.isinf(array), axis=1)]
    mx.eval(parts)
    found: list[Any] = [part.tolist() for part in parts]
    zeros, peaks, squares, *bad = found
    nans, infs = bad if bad else ([0] * count, [0] * count)
    return [
        Stat(size, int(zero), int(nan), int(inf), float(top), math.sqrt(square) * max(float(top), 1e-30))
        for zero, nan, inf, top, square in zip(zeros, nans, infs, peaks, squares)
    ]
