"""Kept array: what a small array of NumPy's held. It changes in place, and nothing but its numbers tells."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

from nnrepl.late import late

BYTES = 2048
"""So much is kept of one array at most: it is read with each op of a function that has the array in a variable."""

_NUMBERS = "biufc"


class KeptArray:
    """What an array of NumPy's held at one time. Two with the same numbers are one object.

    Attributes:
        dtype: Its type of numbers, as NumPy writes it: `<f8`.
        shape: Its shape.
        data: The numbers, row by row.
    """

    __slots__ = ("__weakref__", "data", "dtype", "shape")

    def __init__(self, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
        self.dtype = dtype
        self.shape = shape
        self.data = data

    def made(self) -> Any:
        """Return a new array that holds this. Raises ValueError, TypeError where its parts do not fit."""
        numpy = late("numpy")
        return numpy.frombuffer(self.data, numpy.dtype(self.dtype)).reshape(self.shape).copy()

    def give(self, array: Any) -> Callable[[], None] | None:
        """Let an array hold this; returns what puts back what it holds now. None where nothing is to do, or can be."""
        now = kept_array(array)
        if now is self or not array.flags.writeable or (now.dtype, now.shape) != (self.dtype, self.shape):
            return None
        array[...] = self.made()
        return lambda: array.__setitem__(..., now.made())


_known: WeakValueDictionary[tuple[str, tuple[int, ...], bytes], KeptArray] = WeakValueDictionary()


def is_array(thing: Any) -> bool:
    """Whether a thing is an array of NumPy's, in no file."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(thing) is getattr(numpy, "ndarray", None)


def is_small_array(thing: Any) -> bool:
    """Whether a thing is an array of NumPy's of which what it holds is kept: of few numbers, in no file."""
    return is_array(thing) and thing.nbytes <= BYTES and thing.dtype.kind in _NUMBERS


def kept_array(array: Any) -> KeptArray:
    """Return what an array holds now."""
    key = (array.dtype.str, array.shape, array.tobytes())
    kept = _known.get(key)
    if kept is None:
        kept = _known[key] = KeptArray(*key)
    return kept


class Contents:
    """What an array holds, as it is at any moment: a container of one thing."""

    __slots__ = ("_array",)

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[KeptArray]:
        yield kept_array(self._array)
