"""Native reads: what stands in, while a program runs natively, for what brings an array's numbers to Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.record.native import Levels


def evaluating(levels: Levels, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands in a closed stretch for what forces an evaluation."""

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        levels.evaluated()
        return original(*args, **kwargs)

    return wrapper


def reading(levels: Levels, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands natively for what gives an array's number to Python."""
    losses = levels.losses

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(array: mx.array, *args: Any) -> Any:
        number = original(array, *args)
        losses.read(array)
        return number

    return wrapper
