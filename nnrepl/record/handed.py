"""Handed: what MLX hands to the function of a call that it runs by itself.

The function gets new objects for the arrays that the program gave, in the program's own containers. Some of them live
on after the call: in a module whose parameters they became, in a list. And where the function has put something else
into such a container, MLX puts one more object for that there when it puts the originals back (`tree_visit_update` in
mlx/python/src/transforms.cpp): all of these are tensors that are known.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.adopt import take_all
from nnrepl.record.leavings import Mark, mark_of_handed

if TYPE_CHECKING:
    from nnrepl.record.ledger import Ledger
    from nnrepl.tape import Value


class Handed:
    """The arrays of one call.

    Args:
        recorder: Knows the program's arrays.
        args: What the program gave, as a tree.
    """

    def __init__(self, recorder: Ledger, args: Any) -> None:
        self._recorder = recorder
        self._args = args
        given = trees.arrays(args)
        take_all(recorder, given)
        self._given = [recorder.live.get(id(array)) for array in given]
        self._handed: list[tuple[weakref.ref[mx.array], Value, int]] = []
        self._placed: list[mx.array] = []

    def entered(self, args: Any) -> None:
        """Note what MLX has handed over."""
        for number, (array, value) in enumerate(zip(trees.arrays(args), self._given)):
            if value is not None and array.shape == value.shape:  # a tracer of `vmap` lacks an axis: it is one sample
                self._handed.append((weakref.ref(array), value, number))

    def left(self, args: Any) -> None:
        """Note what lies in what was handed over when the function has run."""
        self._placed = trees.arrays(args)

    def link(self, made: dict[Mark, weakref.ref[mx.array]]) -> None:
        """Know the objects that live on, once the call is over.

        Args:
            made: In a run that follows a tape: what was made inside; what was handed over is added, and where the
                program has another object now, that stands there.
        """
        live, kept = self._recorder.live, self._recorder.leavings.kept
        made.update((mark_of_handed(number), reference) for reference, _, number in self._handed)
        handed = {id(array): value for reference, value, _ in self._handed if (array := reference()) is not None}
        marks = {id(array): mark for mark, reference in made.items() if (array := reference()) is not None}
        there = trees.arrays(self._args)
        for placed, array in zip(self._placed, there) if len(there) == len(self._placed) else ():
            if array is placed or id(array) in live:
                continue
            value = handed.get(id(placed)) or live.get(id(placed))
            if id(placed) in kept:
                self._recorder.leavings.keep([(weakref.ref(array), kept[id(placed)][1])])
            elif value is not None:
                self._recorder.link(array, value)
            if id(placed) in marks:
                made[marks[id(placed)]] = weakref.ref(array)
        for reference, value, _ in self._handed:
            survivor = reference()
            if survivor is not None and id(survivor) not in live and id(survivor) not in kept:
                self._recorder.link(survivor, value)
        self._placed = []
