"""Data: arrays that come from outside of MLX."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

_copy, _new, _init, _tolist = mx.array.__copy__, mx.array.__new__, mx.array.__init__, mx.array.tolist


class Data:
    """Numbers that came from outside of MLX (a list, a NumPy array, a file), kept as a lazy array."""

    __slots__ = ("array",)

    def __init__(self, array: mx.array) -> None:
        self.array = _copy(array)

    def guide_key(self) -> Any:
        """What tells this data from other data in a re-run: all of it, as long as that is cheap."""
        if self.array.size > _FEW:
            return id(self)
        return str(self.array.dtype), self.array.shape, str(_tolist(self.array))


_FEW = 1024


def construct(*args: Any, **kwargs: Any) -> mx.array:
    """`mx.array(...)` past every wrapper."""
    array = _new(mx.array)
    _init(array, *args, **kwargs)
    return array
