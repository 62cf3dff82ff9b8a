"""Keeping: moments of a native run of which the program's tensors are kept.

A run that opens a step can be led to such a moment without computing anything (see `nnrepl.replay.uncomputed`): only
there has it to be given the tensors, since all else a program has is made by its Python.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.handing_back import duplicate
from nnrepl.replay.reach import CannotReach, Reach
from nnrepl.tape import is_evaluated
from nnrepl.tape.native_run import NativeRun

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_copy, _eval = mx.array.__copy__, mx.eval
_SHARE = 0.01
_MOST, _FEW = 16, 8
_PATIENCE = 8
_NEVER = float("inf")
_JUNK = 64
"""So many numbers that a program never asks for (the losses that it does not print) may be missing of a point."""


class Point:
    """The tensors that the program held where it was about to make a gradient call.

    Args:
        number: How many gradient calls had been made before.
        reach: What the program held.

    Attributes:
        kinds: Of what kinds all was that the program held.
        shapes: The shapes and dtypes of its tensors, in order.
        arrays: They; None for one that MLX had not computed.
        dead: Which of them have no numbers: tensors left by a function while it was compiled.
        nbytes: What only this point holds.
    """

    def __init__(self, number: int, reach: Reach) -> None:
        self.number = number
        self.kinds = reach.kinds
        self.shapes = [(array.shape, array.dtype) for array in reach.arrays]
        self.arrays: list[mx.array | None] = []
        self.dead: set[int] = set()
        self.nbytes = 0

    def fits(self, reach: Reach) -> bool:
        """Whether a program holds the same tensors, as far as can be seen without their numbers."""
        shapes = [(array.shape, array.dtype) for array in reach.arrays]
        return reach.kinds == self.kinds and shapes == self.shapes


class Keeping:
    """Keeps points while the program runs natively, so seldom that it costs a hundredth of the time.

    What changes from call to call is copied: if its buffers were held, MLX could not write an update into them
    (`is_donatable` in mlx/array.h asks whether anybody else does), and would lay the new weights out otherwise. What
    stays the same object is held.

    Attributes:
        next: When there is something to do next, as `perf_counter` tells it.
    """

    def __init__(self) -> None:
        self._due = self._spent = 0.0
        self._known: dict[int, weakref.ref[mx.array]] = {}
        self._waited = 0
        self._owner: NativeRun | None = None
        self._lazy: tuple[Point, list[int]] | None = None
        self.next = 0.0

    @property
    def is_due(self) -> bool:
        """Whether there is anything to do at a call: mostly there is not."""
        return perf_counter() >= self.next

    def begins(self, recorder: Recorder, kept: NativeRun, number: int, budget: int) -> None:
        """Note that a gradient call is about to be made natively, after so many others.

        Args:
            budget: How many bytes all points may hold.
        """
        kept.room = min(kept.room, budget)
        self._settle()
        if perf_counter() >= self._due:
            self._look(recorder, kept, number, budget)
        self.next = self._due if self._lazy is None else 0.0

    def _look(self, recorder: Recorder, kept: NativeRun, number: int, budget: int) -> None:
        """See whether a point can be kept, and keep it."""
        start = perf_counter()
        try:
            reach = Reach(recorder)
        except CannotReach:
            self._due = _NEVER
            return
        kept_now = bool(self._known) and self._ready(reach)
        if kept_now:
            if sum([array.nbytes for array in reach.arrays if not self._is_known(array)]) > budget // 4:
                self._due = _NEVER  # known before it is copied: that alone would take as much
                return
            point = self._keep(number, reach)
            kept.points.append(point)
            thin(kept, budget)
            self._owner = kept
        self._known = {id(array): weakref.ref(array) for array in reach.arrays}
        end = perf_counter()
        self._spent += end - start
        if kept_now:
            self._due, self._spent = end + self._spent / _SHARE, 0.0

    def _ready(self, reach: Reach) -> bool:
        """Whether MLX has computed what the program holds; a program that evaluates its weights seldom is waited for,
        one that never does is not."""
        if sum([array.size for array in reach.arrays if not is_evaluated(array)]) <= _JUNK:
            self._waited = 0
            return True
        self._waited += 1
        return self._waited > _PATIENCE

    def _keep(self, number: int, reach: Reach) -> Point:
        point, lazy = Point(number, reach), []
        _compute_few(reach.arrays)
        for at, array in enumerate(reach.arrays):
            if self._is_known(array):
                point.arrays.append(_copy(array) if computes(array) else None)
                if point.arrays[at] is None:
                    point.dead.add(at)
                continue
            there = is_evaluated(array)
            point.arrays.append(duplicate(array) if there else _copy(array))
            point.nbytes += array.nbytes
            if not there:
                lazy.append(at)
        _eval([array for at, array in enumerate(point.arrays) if array is not None and at not in lazy])
        if lazy:
            self._lazy = point, lazy
        return point

    def _is_known(self, array: mx.array) -> bool:
        """Whether it was there already when the program was last looked at."""
        known = self._known.get(id(array))
        return known is not None and known() is array

    def _settle(self) -> None:
        """Copy what has been computed since then of what a point holds, and let go of the rest."""
        if self._lazy is None:
            return
        (point, lazy), self._lazy = self._lazy, None
        for at in lazy:
            array = point.arrays[at]
            point.arrays[at] = duplicate(array) if array is not None and is_evaluated(array) else None
        _eval([point.arrays[at] for at in lazy if point.arrays[at] is not None])
        missing = [point.shapes[at][0] for at in lazy if point.arrays[at] is None]
        if sum(map(prod, missing)) > _JUNK and self._owner is not None and point in self._owner.points:
            self._owner.points.remove(point)  # it evaluates its weights later: what it holds here are no numbers


def _compute_few(arrays: list[mx.array]) -> None:
    """Compute what a program has not computed, where that is but a few numbers: a sum of its losses, which it prints at
    the end of an epoch."""
    waiting = [array for array in arrays if not is_evaluated(array)]
    if sum([array.size for array in waiting]) <= _JUNK:
        with suppress(RuntimeError):  # the program will be told
            _eval(waiting)


def room(budget: int) -> int:
    """Return how many bytes points may take of a budget: on a GPU half of what the program leaves of its memory."""
    device = mx.default_device()
    if device.type != mx.gpu:
        return budget
    known = mx.device_info(device)
    total = known.get("total_memory", known.get("memory_size", 0))
    return min(budget, max(int(total) - mx.get_peak_memory(), 0) // 2)


def thin(kept: NativeRun, budget: int) -> None:
    """Drop points in bulk where they are too many or too large together: those that lie closest to their neighbours,
    but never the newest two."""
    points: Sequence[Any] = kept.points
    if len(points) <= _MOST and sum([point.nbytes for point in points]) <= budget:
        return
    left = list(points)
    while len(left) > 2 and (len(left) > _FEW or sum([point.nbytes for point in left]) > budget * 3 // 4):
        gaps = [left[at + 1].number - (left[at - 1].number if at else 0) for at in range(len(left) - 2)]
        del left[gaps.index(min(gaps))]
    kept.points = left


def computes(array: mx.array) -> bool:
    """Evaluate an array, if it does not depend on one without numbers; returns whether it does not."""
    try:
        _eval(array)
    except RuntimeError:
        return False
    return True
