"""Keys: the arguments of an op as something that can be compared and looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnrepl.tape import DrawnKey, Value

_NOTHING: Mapping[Value, Value] = {}


def frozen(part: Any, was: Mapping[Value, Value] = _NOTHING) -> Any:
    """Return an argument as a key, with the values that others were before."""
    kind = type(part)
    if kind is list or kind is tuple:
        return (kind, *(frozen(item, was) for item in part))
    if kind is dict:
        return tuple((name, frozen(item, was)) for name, item in part.items())
    if kind is slice:
        return "slice", frozen(part.start, was), frozen(part.stop, was), frozen(part.step, was)
    if kind is DrawnKey:
        return "drawn", part.serial
    if isinstance(part, Value):
        return was.get(part, part)
    if hasattr(part, "guide_key"):
        return part.guide_key()
    if hasattr(part, "__array_interface__"):
        return "numpy", part.shape, str(part.dtype), part.tobytes()
    return kind, part
