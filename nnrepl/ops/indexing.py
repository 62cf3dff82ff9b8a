"""Indexing: numbers are taken from places, or put there. What is not taken gets no gradient."""

from __future__ import annotations

from copy import copy
from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import COMPOSITE, MOVE, Entry, Slope, enter, unbroadcast
from nnrepl.ops.shapes import move, places
from nnrepl.ops.traits import Trait

_WORDS = (
    " Backwards: each gradient goes back to the place that its number was taken from; a place taken several times gets "
    "the sum."
)

move("getitem", "{a}[{index}]", "Takes a part." + _WORDS, lambda a, index: a[index],
     (Trait.PICKS, Trait.SPREADS, Trait.SELECTS))  # fmt: skip
move("take", "{a}[{indices}]", "Takes the numbers at the given places." + _WORDS, lambda a, indices, axis=None: mx.take(
    a, indices, axis=axis), (Trait.PICKS, Trait.SPREADS, Trait.SELECTS))  # fmt: skip
move("take_along_axis", "{a}[…, {indices}, …]", "Takes, in each row, the number at its given place." + _WORDS,
     lambda a, indices, axis=-1: mx.take_along_axis(a, indices, axis),
     (Trait.LOOKS_UP, Trait.PICKS, Trait.SELECTS))  # fmt: skip


def _put(array: mx.array, index: Any, value: Any) -> mx.array:
    array = copy(array)
    array[index] = value
    return array


def _covered(a: mx.array, index: Any) -> mx.array:
    """Where the index points."""
    return _put(mx.zeros(a.shape, mx.bool_), index, True)


def _setitem(a: mx.array, index: Any, value: Any) -> mx.array:
    given = mx.array(value, a.dtype) if not isinstance(value, mx.array) else value.astype(a.dtype)
    filled = _put(mx.zeros_like(a), index, given)
    return mx.where(_covered(a, index), filled, a)


def _setitem_value(g: mx.array, y: Any, a: mx.array, index: Any, value: mx.array) -> mx.array:
    source = _put(mx.zeros(a.shape, mx.int32), index, places(value))
    total = mx.zeros((value.size + 1,), g.dtype).at[source.flatten()].add(g.flatten())
    return mx.reshape(total[1:], value.shape).astype(value.dtype)


def _setitem_kept(g: mx.array, y: Any, a: mx.array, index: Any, value: Any) -> mx.array:
    return mx.where(_covered(a, index), 0, g)


enter(Entry(
    "setitem", "{a} with {a}[{index}] = {value}", "Puts numbers in place of others. What was overwritten gets no "
                                          "gradient; what "
    "was put there gets that of its place.", _setitem,
    {"a": Slope("{g} where nothing was overwritten, else 0", _setitem_kept),
     "value": Slope("{g}[{index}]", _setitem_value)}, MOVE, traits=frozenset({Trait.PUTS}),
))  # fmt: skip


def _put_along(a: mx.array, indices: mx.array, values: Any, axis: int | None = None) -> mx.array:
    if axis is None:
        return mx.reshape(_put_along(a.flatten(), indices, values, 0), a.shape)
    return mx.where(_struck(a, indices, axis), _values_at(a, indices, values, axis), a)


def _struck(a: mx.array, indices: mx.array, axis: int) -> mx.array:
    where = mx.arange(a.shape[axis]) == mx.moveaxis(indices, axis, -1)[..., None]
    return mx.moveaxis(mx.any(where, axis=-2), -1, axis)


def _values_at(a: mx.array, indices: mx.array, values: Any, axis: int) -> mx.array:
    given = mx.broadcast_to(mx.array(values, a.dtype), indices.shape)
    where = mx.arange(a.shape[axis]) == mx.moveaxis(indices, axis, -1)[..., None]
    rows = mx.where(where, mx.moveaxis(given, axis, -1)[..., None], mx.array(0, a.dtype))
    return mx.moveaxis(mx.sum(rows, axis=-2), -1, axis)


def _put_along_a(g: mx.array, y: Any, a: mx.array, indices: mx.array, values: Any, axis: int | None = None) -> mx.array:
    if axis is None:
        return mx.reshape(_put_along_a(g.flatten(), y, a.flatten(), indices, values, 0), a.shape)
    return mx.where(_struck(a, indices, axis), 0, g)


def _put_along_values(
    g: mx.array, y: Any, a: mx.array, indices: mx.array, values: mx.array, axis: int | None = None
) -> mx.array:
    taken = mx.take_along_axis(g, indices, axis)
    return unbroadcast(taken, values.shape)


enter(Entry(
    "put_along_axis", "{a} with {a}[…, {indices}, …] = {values}",
    "Puts, in each row, a number at its given place. What was overwritten gets no gradient.", _put_along,
    {"a": Slope("{g} where nothing was overwritten, else 0", _put_along_a),
     "values": Slope("{g}[…, {indices}, …]", _put_along_values)}, COMPOSITE,
    traits=frozenset({Trait.PUTS}),
))  # fmt: skip


def _at(sign: str, words: str, combine: Any) -> None:
    def forward(a: mx.array, index: Any, value: Any) -> mx.array:
        result: mx.array = getattr(a.at[index], combine)(value)
        return result

    enter(
        Entry(
            f"at.{combine}",
            f"{{a}} with {{a}}[{{index}}] {sign} {{value}}",
            words,
            forward,
            {},
            COMPOSITE,
            traits=frozenset({Trait.PUTS}),
        )
    )


_at("+=", "Adds numbers at places; a place named several times gets them all.", "add")
_at("−=", "Subtracts numbers at places.", "subtract")
_at("·=", "Multiplies numbers at places.", "multiply")
_at("/=", "Divides numbers at places.", "divide")
_at("= max of it and", "Keeps the larger number at places.", "maximum")
_at("= min of it and", "Keeps the smaller number at places.", "minimum")
