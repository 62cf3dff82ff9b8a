"""Checked: the places that Python at the prompt takes are looked at before MLX reads or writes there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlx.core as mx

from nnrepl.record.bounds import first_outside, places_of

_FUNCTIONS = "take", "take_along_axis", "put_along_axis", "gather_mm", "gather_qmm"


@contextmanager
def checked() -> Iterator[None]:
    """While Python is run for the prompt, what takes places of a tensor looks at them first.

    Raises:
        IndexError: From within, if one lies outside, or if nothing is assigned through a mask: MLX reads and writes
            foreign memory there.
    """
    kind: Any = mx.array
    before = {name: getattr(mx, name) for name in _FUNCTIONS}
    getitem, setitem, at = kind.__getitem__, kind.__setitem__, kind.__dict__["at"]

    def __getitem__(array: mx.array, index: Any) -> Any:
        _look("getitem", array, index)
        return getitem(array, index)

    def __setitem__(array: mx.array, index: Any, update: Any) -> None:
        _look("setitem", array, index)
        _look_at_mask(array, index, update)
        setitem(array, index, update)

    for name, function in before.items():
        setattr(mx, name, partial(_call, name, function))
    kind.__getitem__, kind.__setitem__ = __getitem__, __setitem__
    kind.at = property(lambda array: _At(array, at.__get__(array)))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(mx, name, function)
        kind.__getitem__, kind.__setitem__, kind.at = getitem, setitem, at


class _At:
    """What `x.at` is at the prompt."""

    def __init__(self, array: mx.array, at: Any) -> None:
        self._array, self._at = array, at

    def __getitem__(self, index: Any) -> Any:
        _look("getitem", self._array, index)
        return self._at[index]


def _call(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if args and all(isinstance(part, mx.array) for part in args[: 2 if name.startswith("gather") else 1]):
        _look(name, *args, **kwargs)
    return function(*args, **kwargs)


def _look(name: str, *args: Any, **kwargs: Any) -> None:
    for place in places_of(name, args, kwargs):
        index = mx.array(place.index) if isinstance(place.index, int) else place.index
        found = first_outside(index, place) if _has_numbers(index) else None
        if found is not None:
            element, number = found
            where = f" (element {element} of the index)" if element else ""
            axis = "" if place.axis is None else f"axis {place.axis} of "
            raise IndexError(f"index {number}{where} is out of range: {axis}a tensor of shape {place.said}")


def _has_numbers(index: mx.array) -> bool:
    """Whether an index has any numbers: in a function that MLX traces or maps, what goes in has none."""
    try:
        mx.eval(index)
    except ValueError:
        return False
    return True


def _look_at_mask(array: mx.array, mask: Any, update: Any) -> None:
    masked = isinstance(mask, mx.array) and mask.dtype == mx.bool_
    if masked and isinstance(update, mx.array) and array.size and not update.size:
        raise IndexError(
            f"a masked assignment of nothing to a tensor of shape {tuple(array.shape)}: MLX crashes on that"
        )
