"""Rebuilt: an op's arguments with other Values in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnrepl.tape import Value


def rebuilt(part: Any, image: Callable[[Value], Value]) -> Any:
    """Return an argument with other Values in it."""
    kind = type(part)
    if isinstance(part, Value):
        return image(part)
    if kind is list or kind is tuple:
        return kind([rebuilt(item, image) for item in part])
    if kind is dict:
        return {key: rebuilt(item, image) for key, item in part.items()}
    if kind is slice:
        return slice(rebuilt(part.start, image), rebuilt(part.stop, image), rebuilt(part.step, image))
    return part


def exchange(part: Any, now: dict[Value, Value]) -> Any:
    """Return an argument with the Values of `now` in it."""
    return rebuilt(part, lambda value: now.get(value, value))
