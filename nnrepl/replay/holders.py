"""Holders: what holds tensors otherwise than by a variable, a key or an index, and how it is given others.

Defaults of a function, attributes of a class, arguments of a `partial` and of an exception, a set, keys, an iterator.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.replay.divergence import CannotExchange
from nnrepl.replay.keepers import BY_TYPE, MACHINERY, is_iterator, unwarned
from nnrepl.replay.world import is_foreign

Other = Callable[[Any], Any]
HOLDING = (types.FunctionType, type, functools.partial, BaseException, set, dict)


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
        if gone and any([type(holder).__name__ == "set_iterator" for holder in gc.get_referrers(thing)]):
            raise CannotExchange(
                "a set that a loop goes through holds the old tensor as well, and cannot be left with it"
            )
        thing.difference_update(gone)
        thing.update([other(part) for part in gone])
        return gone
    elif isinstance(thing, dict):
        return _in_keys(thing, other)
    return []


def _in_keys(thing: dict[Any, Any], other: Other) -> list[Any]:
    gone = [key for key in dict.keys(thing) if type(key) is not str and other(key) is not key]
    if gone:
        items = list(dict.items(thing))  # they stay in their order
        dict.clear(thing)
        for key, held in items:
            dict.__setitem__(thing, other(key), held)
    return gone


def exchange_within(thing: tuple[Any, ...], other: Other) -> list[Any]:
    """Let a tuple hold what `other` gives for what it holds, in place: a loop that goes through it cannot be given
    another. Returns what it held instead."""
    gone: list[Any] = []
    first, size = id(thing) + tuple.__basicsize__, ctypes.sizeof(ctypes.c_void_p)
    for at, part in enumerate(tuple.__iter__(thing)):
        instead = other(part)
        if instead is not part:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(instead))  # the tuple's
            ctypes.c_void_p.from_address(first + at * size).value = id(instead)
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(part))
            gone.append(part)
    return gone


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
    or if Python does not tell what lies in it. Lists and tuples in it are changed in place: loops go through them."""
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


def exchange_state(thing: Any, other: Other) -> None:
    """Let an iterator that a loop goes through hold what `other` gives for what it holds, as far as it can be told that
    in place (an `accumulate`, its total)."""
    if isinstance(thing, types.GeneratorType):
        return
    try:
        reduced = unwarned(thing.__reduce__)
    except Exception:  # a library's own, which may go wrong in any way
        return
    if isinstance(reduced, tuple) and len(reduced) > 2 and reduced[0] not in BY_TYPE:
        later = other(reduced[2]) if isinstance(reduced[2], mx.array) else _parts_with(reduced[2], other)
        if later is not reduced[2]:
            unwarned(thing.__setstate__, later)


def bound_to(thing: Any, other: Other) -> Any:
    """Return a method or a weak reference of what `other` gives for the tensor that one is of."""
    held = thing() if isinstance(thing, weakref.ref) else thing.__self__
    if not isinstance(held, mx.array) or other(held) is held:
        return thing
    if isinstance(thing, types.MethodType):
        return types.MethodType(thing.__func__, other(held))
    keys = (thing.key,) if isinstance(thing, weakref.KeyedRef) else ()
    return type(thing)(other(held), thing.__callback__, *keys)


def _parts_with(parts: Any, other: Other) -> Any:
    if not isinstance(parts, tuple):
        return parts
    for part in parts:
        if isinstance(part, list):
            part[:] = [other(item) for item in part]
        elif type(part) is tuple:
            exchange_within(part, other)
    changed = tuple([other(part) for part in parts])
    return parts if all([a is b for a, b in zip(parts, changed)]) else changed
