"""Objects: the program's own array objects, and how they are given other contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.tape import Op, Value

if TYPE_CHECKING:
    from nnrepl.record.ledger import Ledger

_copy = mx.array.__copy__
_setitem = mx.array.__setitem__
_imatmul, _ipow, _imul = mx.array.__imatmul__, mx.array.__ipow__, mx.array.__imul__
_zeros = mx.zeros


class Slot(int):
    """The place of an array in what an op returned."""


def fill_slots(structure: Any, give: Callable[[int], mx.array]) -> Any:
    """Return what an op returned, with arrays in the places that were kept for them."""
    if isinstance(structure, Slot):
        return give(structure)
    if isinstance(structure, dict):
        return {key: fill_slots(item, give) for key, item in structure.items()}
    if isinstance(structure, (list, tuple)):
        items = [fill_slots(item, give) for item in structure]
        if isinstance(structure, list):
            return items
        return type(structure)(*items) if hasattr(structure, "_fields") else tuple(items)
    return structure


def hand_out(recorder: Ledger, op: Op) -> Any:
    """Return what a recorded op returned, with fresh handles on its values."""
    structure = recorder.tape.notes.structures.get(op)
    if structure is None:
        return recorder.handle(op.outputs[0])
    return fill_slots(structure, lambda slot: recorder.handle(op.outputs[slot]))


def deliver(recorder: Ledger, array: mx.array, value: Value) -> None:
    """Give an array object of the program's the content of a recorded value, in place."""
    holder = recorder.live.get(id(array))
    # The object is written into below; what another value has in it, that goes on holding on a handle of its own.
    if holder is not None and holder.held is array:
        holder.held = _copy(array)
    refill(array, recorder.content(value).array)
    recorder.link(array, value)


def another(array: mx.array) -> mx.array:
    """Return one more Python object for a tensor, of which no recorder knows. For modules that are imported while a
    program is recorded: what they find on `mx.array` is what stands in there."""
    return _copy(array)


def object_of(recorder: Ledger, key: int, value: Value) -> mx.array | None:
    """Return the array object of the program's that is known under an `id`."""
    guard = recorder.guards.get(key)
    array = None if guard is None else guard()
    return value.held if array is None and id(value.held) == key else array


def overwrite(recorder: Ledger, array: mx.array, old: Value, content: Value) -> None:
    """Give an array object of the program's that holds `old` the content of another value; `old` keeps its own."""
    if old.held is array:
        old.held = _copy(array)
        recorder.link(array, old)  # nothing else keeps an eye on it from here on
        recorder.overwritten.append((old, array))
    refill(array, content.array)


def refill(array: mx.array, content: mx.array) -> None:
    """Give an array object another content, of whatever shape and dtype.

    Floats keep the layout of `content`: assigning to `array[...]` would lay them out row by row, and MLX adds
    the products of a matrix in another order where its operand is transposed. MLX's in-place operators write their
    result's shape and layout into the object, and `array[...] = other` the dtype of what is assigned.
    """
    floats = mx.issubdtype(content.dtype, mx.floating)
    if floats or array.shape != content.shape:
        dtype = content.dtype if floats else mx.float32
        if array.dtype != dtype:
            _setitem(array, Ellipsis, _zeros((), dtype))
        # A product with a vector takes one axis away: what is left in the end is a scalar, which takes every shape.
        while array.ndim:
            _imatmul(array, _zeros((array.shape[-1],), dtype))
        _ipow(array, 0)  # 1, whatever it was
        _imul(array, content if floats else _zeros(content.shape, dtype))
    if not floats:
        _setitem(array, Ellipsis, content)
