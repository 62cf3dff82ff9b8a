"""Shared names: the global variables that a function reads, itself or in functions of its module that it calls.

A function that makes no op (`def note(loss): history.append(loss)`) is never looked at itself; what it changes has
changed where the function goes on that has called it.
"""

from __future__ import annotations

from types import CodeType, FrameType, FunctionType
from typing import Any

_MOST = 64
"""So many names at most are followed: they are looked up with each call."""
_known: dict[CodeType, tuple[str, ...]] = {}


def shared_names(frame: FrameType) -> tuple[str, ...]:
    """Return the names by which the function of a frame, and those that it calls by a name, read global variables."""
    code = frame.f_code
    known = _known.get(code)
    if known is None:
        known = _known[code] = _reached(code, frame.f_globals)
    return known


def _reached(code: CodeType, variables: dict[str, Any]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    pending, seen = [code], {code}
    while pending and len(names) < _MOST:
        looked = pending.pop(0)
        own = dict.fromkeys(looked.co_names)
        parts = [part for part in looked.co_consts if isinstance(part, CodeType)]  # lambdas and comprehensions in it
        for name in own:
            thing = variables.get(name) if name not in names else None
            if type(thing) is FunctionType and thing.__globals__ is variables:
                parts.append(thing.__code__)
        names.update(own)
        pending += [part for part in parts if part not in seen]
        seen.update(parts)
    return tuple(names)
