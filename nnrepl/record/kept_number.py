"""Kept number: a loss that is kept for ever.

A tensor of one number takes MLX 700 bytes, and a long run has many: the number is kept as one of Python, and the tensor
is made whenever somebody asks for it.
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
    """

    __slots__ = ("_dtype", "_number")

    size = 1

    def __init__(self, op: Op, array: mx.array) -> None:
        self.op, self.slot, self.bound = op, 0, None
        self._number: Any = _item(array)
        self._dtype = array.dtype

    @property
    def held(self) -> mx.array:  # type: ignore[override]
        """Return the number as a tensor."""
        return construct(self._number, self._dtype)

    @property
    def evaluated(self) -> bool:
        """Return True: its number is there."""
        return True

    def forget(self) -> None:
        """Keep it: it takes next to nothing."""
