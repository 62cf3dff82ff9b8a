"""Order: numbers are sorted, or asked for their place."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import COMPOSITE, FIXED, Entry, Slope, enter, formula
from nnrepl.ops.traits import Trait

for _name, _text, _run, _words in (
    ("argmax", "the place of the largest of {a}",
     lambda a, axis=None, keepdims=False: mx.argmin(-1 * a, axis, keepdims),
     "Where the largest number stands. A place has no slope: the gradient ends here."),
    ("argmin", "the place of the smallest of {a}",
     lambda a, axis=None, keepdims=False: mx.argmax(-1 * a, axis, keepdims),
     "Where the smallest number stands. A place has no slope: the gradient ends here."),
    ("argsort", "the places of {a} in order", None, "In which order the numbers stand. Places have no slope."),
    ("argpartition", "the places of {a}, the k smallest first", None,
     "Where the smallest numbers stand, in any order. Places have no slope."),
    ("any", "one of {a} holds", lambda a, axis=None, keepdims=False: mx.max(a != 0, axis, keepdims),
     "Whether one of them holds. Yes or no has no slope."),
    ("all", "all of {a} hold", lambda a, axis=None, keepdims=False: mx.min(a != 0, axis, keepdims),
     "Whether all of them hold. Yes or no has no slope."),
):  # fmt: skip
    enter(Entry(_name, _text, _words, _run, {}, FIXED, traits=frozenset({Trait.ANSWERS, Trait.REDUCES} if _run else {
        Trait.ANSWERS})))  # fmt: skip


def _picked_slope(places: Any) -> Any:
    """The gradient of numbers that were picked goes back to where they stood."""

    def slope(g: mx.array, y: Any, a: mx.array, *more: Any, axis: Any = -1) -> mx.array:
        at = places(a, *more, axis=axis)
        zeros = mx.zeros(a.shape if axis is not None else (a.size,), a.dtype)
        return mx.put_along_axis(zeros, at, g, -1 if axis is None else axis).reshape(a.shape)

    return slope


def _sort(a: mx.array, axis: int | None = -1) -> mx.array:
    if axis is None:
        a, axis = a.flatten(), 0
    return mx.take_along_axis(a, mx.argsort(a, axis=axis), axis)


def _sort_places(a: mx.array, axis: int | None = -1) -> mx.array:
    return mx.argsort(a.flatten() if axis is None else a, axis=-1 if axis is None else axis)


enter(Entry("sort", "{a} in order", "The same numbers, the smallest first. Each gradient goes back to where its number "
            "stood.", _sort, {"a": Slope("{g}, put back in place", lambda g, y, a, axis=-1: _picked_slope(_sort_places)(
                g, y, a, axis=axis))}, COMPOSITE, traits=frozenset({Trait.ARRANGES})))  # fmt: skip


@formula("topk", "the {k} largest of {a}",
         "The largest numbers. Each gradient goes back to where its number stood; the others get 0.",
         traits=(Trait.PICKS,))  # fmt: skip
def _topk(a: mx.array, k: int, axis: int | None = -1) -> mx.array:
    if axis is None:
        a, axis = a.flatten(), 0
    places = mx.argpartition(a, -k, axis=axis)
    last = mx.split(places, [a.shape[axis] - k], axis=axis)[1]
    return mx.take_along_axis(a, last, axis)
