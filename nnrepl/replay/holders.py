"""Holders: what holds tensors otherwise than by a variable, a key or an index, and how it is given others.

Defaults of a function, attributes of a class, arguments of a `partial` and of an exception, a set, an iterator.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

from nnrepl.replay.keepers import BY_TYPE, MACHINERY, is_iterator, unwarned
from nnrepl.replay.world import is_foreign

Other = Callable[[Any], Any]
HOLDING = (types.FunctionType, type, functools.partial, BaseException, set)


def exchange(thing: Any, other: Other, is_entry: Callable[[Any, Any], bool]) -> list[Any]:
    """Let something hold what `other` gives for what it holds. Returns what it held instead.

    Args:
        is_entry: Whether an attribute of a class is what somebody assigns to: it is left as it is.
    """
    if isinstance(thing, types.FunctionType):
        return _in_defaults(thing, other)
    if isinstance(thing, type):
        return _in_class(thing, other, is_entry)
    if isinstance(thing, functools.partial):
        return _in_partial(thing, other)
    if isinstance(thing, BaseException):
        held, args = thing.args, other(thing.args)
        if args is not held:
            thing.args = args
            return list(held)
    elif isinstance(thing, set):
        gone = [part for part in thing if other(part) is not part]
        thing.difference_update(gone)
        thing.update([other(part) for part in gone])
        return gone
    return []


def _in_partial(thing: Any, other: Other) -> list[Any]:
    args, keywords = other(thing.args), {name: other(part) for name, part in thing.keywords.items()}
    gone = [*thing.args, *thing.keywords.values()]
    if args is thing.args and all([keywords[name] is part for name, part in thing.keywords.items()]):
        return []
    thing.__setstate__((thing.func, args, keywords, thing.__dict__ or None))
    return gone


def _in_defaults(function: types.FunctionType, other: Other) -> list[Any]:
    defaults, named = function.__defaults__, function.__kwdefaults__ or {}
    gone: list[Any] = []
    if defaults is not None and (instead := other(defaults)) is not defaults:
        gone += defaults
        function.__defaults__ = instead
    for name, part in list(named.items()):
        if other(part) is not part:
            gone.append(part)
            named[name] = other(part)
    return gone


def _in_class(cls: type, other: Other, is_entry: Callable[[Any, Any], bool]) -> list[Any]:
    if is_foreign(cls.__module__, getattr(sys.modules.get(cls.__module__), "__file__", None)):
        return []
    gone: list[Any] = []
    for name, part in list(vars(cls).items()):
        if name not in MACHINERY and other(part) is not part and not is_entry(cls, name):
            gone.append(part)
            type.__setattr__(cls, name, other(part))
    return gone


def iterator_with(thing: Any, other: Other) -> Any:
    """Return an iterator that gives what `other` gives for what `thing` would give; the same one if that is the same,
    or if Python does not tell what lies in it. Lists in it are changed in place."""
    if not is_iterator(thing) or isinstance(thing, types.GeneratorType):
        return thing
    try:
        reduced = unwarned(thing.__reduce__)
    except Exception:  # a library's own, which may go wrong in any way
        return thing
    if not isinstance(reduced, tuple) or len(reduced) < 2 or reduced[0] in BY_TYPE:
        return thing
    make, given, state = reduced[0], reduced[1], reduced[2] if len(reduced) > 2 else None
    instead, later = _parts_with(given, other), _parts_with(state, other)
    if instead is given and later is state:
        return thing
    made = make(*instead)
    if later is not None:
        unwarned(made.__setstate__, later)
    return made


def _parts_with(parts: Any, other: Other) -> Any:
    if not isinstance(parts, tuple):
        return parts
    for part in parts:
        if isinstance(part, list):
            part[:] = [other(item) for item in part]
    changed = tuple([other(part) for part in parts])
    return parts if all([a is b for a, b in zip(parts, changed)]) else changed
