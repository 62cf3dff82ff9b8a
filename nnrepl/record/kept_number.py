"""Kept number: a loss that is kept for ever.

A tensor of one number takes MLX 700 bytes, and a long run has many: the number is kept as one of Python, and the tensor
is made whenever somebody asks for it. The numbers are read many at a time: on a GPU all small tensors of a program lie
in one page of shared memory, and each look of the CPU at it makes the kernels of the next step wait for that page
(mlx/backend/cuda/allocator.cpp, SmallSizePool).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.record.data import construct
from nnrepl.tape import Op, Value

_item = mx.array.item


class KeptNumber(Value):
    """One output of an op, a single number.

    Args:
        array: The tensor, of no axes, which has been evaluated. Python's number loses nothing of it.
        number, dtype: They, where it has been read already.
    """

    __slots__ = ("_array", "_dtype", "_number")

    size = 1

    def __init__(self, op: Op, array: mx.array | None, number: Any = None, dtype: mx.Dtype | None = None) -> None:
        self.op, self.slot, self.bound = op, 0, None
        self._array, self._number, self._dtype = array, number, dtype

    def read(self) -> None:
        """Keep the number, and let go of the tensor."""
        if self._array is not None:
            (self._number, self._dtype), self._array = number_of(self._array), None

    @property
    def held(self) -> mx.array:  # type: ignore[override]
        """Return the number as a tensor."""
        return construct(self._number, self._dtype) if self._array is None else self._array

    @property
    def evaluated(self) -> bool:
        """Return True: its number is there."""
        return True

    def forget(self) -> None:
        """Keep it: it takes next to nothing."""


def number_of(array: mx.array) -> tuple[Any, mx.Dtype]:
    """Return the number of a tensor of no axes, and of what kind it is."""
    return _item(array), array.dtype
