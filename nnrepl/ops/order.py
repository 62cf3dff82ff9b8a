"""Order: numbers are sorted, or asked for their place."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.case import MOST, Case, Index, Operand
from nnrepl.ops.entry import COMPOSITE, FIXED, Entry, Slope, enter, formula, forwards
from nnrepl.ops.evaluated import Line, ReadNumber
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.numbers import element
from nnrepl.ops.pointwise import along, whole
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
    enter(Entry(_name, _text, _words, _run, {}, FIXED, traits=frozenset({
        Trait.ANSWERS, Trait.SWALLOWS, *((Trait.REDUCES,) if _run else ()),
        *((Trait.PLACES,) if _name.startswith("arg") else ())})))  # fmt: skip


def _picked_slope(places: Any) -> Any:
    """Return the gradient of numbers that were picked: it goes back to where they stood."""

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


enter(Entry("sort", "{a} in order", "The same numbers, the smallest first. Backwards: each gradient goes back "
         "to where its number "
            "stood.", _sort, {"a": Slope("{g}, put back in place", lambda g, y, a, axis=-1: _picked_slope(_sort_places)(
                g, y, a, axis=axis))}, COMPOSITE, traits=frozenset({Trait.ARRANGES})))  # fmt: skip


@formula("topk", "the {k} largest of {a}",
         "The largest numbers. Backwards: each gradient goes back to where its number stood; the others get 0.",
         traits=(Trait.PICKS, Trait.SWALLOWS))  # fmt: skip
def _topk(a: mx.array, k: int, axis: int | None = -1) -> mx.array:
    if axis is None:
        a, axis = a.flatten(), 0
    places = mx.argpartition(a, -k, axis=axis)
    last = mx.split(places, [a.shape[axis] - k], axis=axis)[1]
    return mx.take_along_axis(a, last, axis)


whole("partition", "a, kth, axis=-1", "{a}, with the {kth} smallest first", "The same numbers; those before the place "
      "kth are smaller, those after it larger, in any order.", lambda *a, **k: mx.partition(*a, **k))  # fmt: skip
whole("median", "a, axis=None, keepdims=False", "the middle one of {a} in order", "As many numbers are larger as are "
      "smaller; of two in the middle, the mean.", lambda *a, **k: mx.median(*a, **k),
      traits=(Trait.REDUCES,))  # fmt: skip
whole("minmax", "a, axis=None, keepdims=False", "the smallest and the largest of {a}", "The smallest and the largest "
      "number.", lambda *a, **k: mx.minmax(*a, **k), traits=(Trait.REDUCES, Trait.CHOOSES))  # fmt: skip
whole("searchsorted", "sorted_sequence, values, side='left'", "where {values} belong in {sorted_sequence}", "At which "
      "place each number would have to be put in, so that the order holds. A place has no slope.",
      lambda *a, **k: mx.searchsorted(*a, **k), kind=FIXED, traits=(Trait.ANSWERS,))  # fmt: skip
whole("unique", "a, size, return_index=False, return_inverse=False, return_counts=False, fill_value=None",
      "each number of {a} once", "Every number that occurs, once.", lambda *a, **k: mx.unique(*a, **k))  # fmt: skip
whole("count_nonzero", "a, axis=None, keepdims=False", "how many of {a} are not 0", "Counts. A count has no slope.",
      lambda *a, **k: mx.count_nonzero(*a, **k), kind=FIXED, traits=(Trait.ANSWERS, Trait.REDUCES))  # fmt: skip


# -- worked out --------------------------------------------------------------------------------------------------------


def _row(case: Case, index: Index, reduced: bool) -> list[Index]:
    """Return the places of the input that compete for one place of the result."""
    a = case.operand("a")
    rank = len(a.shape)
    axis = case.bound.get("axis", -1)
    axes = along({"axis": axis}, rank)
    if axis is None and not reduced:
        return []
    place = list(index)
    if reduced and not case.bound.get("keepdims", False):
        for at in axes:
            place.insert(at, 0)
    found: list[Index] = [tuple(place)]
    for at in axes:
        found = [(*one[:at], step, *one[at + 1 :]) for one in found for step in range(a.shape[at])]
    return found if len(found) <= MOST else []


def _stood(case: Case, slot: int, index: Index, reduced: bool) -> Line | None:
    """Return the number of the row that it was."""
    a, y = case.operand("a"), case.y[slot]
    row = _row(case, index, reduced)
    a.want(row)
    result = y.at(index)
    place = next((one for one in row if a.at(one) == result), None)
    return None if place is None else Line(element(y.name, index), a.node(place), remark="that is where it stood")


forwards("sort", "topk", "partition")(lambda case, slot, index: _stood(case, slot, index, reduced=False))
forwards("minmax")(lambda case, slot, index: _stood(case, slot, index, reduced=True))


@forwards("median")
def _median_forward(case: Case, slot: int, index: Index) -> Line | None:
    """Return the middle one, or the mean of the two."""
    a = case.operand("a")
    row = _row(case, index, reduced=True)
    if not row:
        return None
    a.want(row)
    order = sorted(row, key=a.at)
    middle = order[(len(order) - 1) // 2 : len(order) // 2 + 1]
    terms = [a.node(place) for place in middle]
    node = terms[0] if len(terms) == 1 else Node("product", (Node("sum", tuple(terms), "++"), literal(2)), "·/")
    return Line(element(case.y[0].name, index), node)


@forwards("argmax", "argmin")
def _place_forward(case: Case, slot: int, index: Index) -> Line | None:
    """Return the place of the largest number, with the number."""
    a, y = case.operand("a"), case.y[0]
    row = _row(case, index, reduced=True)
    result = y.at(index)
    if not row or result >= len(row):
        return None
    a.want(row)
    which = "largest" if case.entry.name == "argmax" else "smallest"
    said = ReadNumber(a, row[result], f"the {which} of {len(row)} numbers")
    return Line(element(y.name, index), literal(result), (said,)) if _is_best(a, row, result, which) else None


def _is_best(a: Operand, row: list[Index], at: int, which: str) -> bool:
    numbers = [a.at(place) for place in row]
    return bool(numbers[at] == (max(numbers) if which == "largest" else min(numbers)))
