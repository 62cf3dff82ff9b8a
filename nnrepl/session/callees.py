"""Callees: the global variables that the program's own functions read when a typed expression calls them.

A function finds them where Python looks: in its module, as they are now. In the past they have to hold for that moment
what they held then, as what the expression itself names does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from nnrepl.installed import is_library
from nnrepl.record.stack import is_module
from nnrepl.session.errors import NotYet
from nnrepl.session.frames import Frames
from nnrepl.tape import UNBOUND, Activation

Exchange = tuple[dict[str, Any], str, Any]
"""The variables of a module, the name of one, and what it is to hold: UNBOUND if it was not set yet."""
_OPTIMIZED = 0x1
_MOST = 1000
"""So many entries of one container are looked at for functions."""


def exchanges(
    frames: Frames, things: Iterable[Any], scope: Activation | None, position: int, real: Callable[[Any, str], Any]
) -> list[Exchange]:
    """Return which global variables held something else at a position, of those that functions read which can be
    called by way of some things.

    Args:
        scope: The call that stands there: the modules whose code has led to it are looked at.
        real: Gives the object that stands for what the tape knows of a variable.
    """
    path = [] if scope is None else scope.path()
    modules = {
        id(step.variables): step
        for step in path
        if not step.code.co_flags & _OPTIMIZED and not is_library(step.code.co_filename)
    }
    found: list[Exchange] = []
    for variables, name in _read(things, modules) if modules else ():
        now = variables.get(name, UNBOUND)
        try:
            held = frames.in_module(name, modules[id(variables)], position)
            before = now if held is None else real(held.thing, name)
        except NotYet:
            before = UNBOUND
        if before is not now:
            found.append((variables, name, before))
    return found


def _read(things: Iterable[Any], modules: dict[int, Activation]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the global variables that can be read by way of some things, each once."""
    pending, seen, read = list(things), set[int](), set[tuple[int, str]]()
    while pending:
        thing = pending.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        pending += _inside(thing)
        if isinstance(thing, FunctionType) and id(thing.__globals__) in modules:
            for name in _names(thing.__code__):
                if name in thing.__globals__ and (id(thing.__globals__), name) not in read:
                    read.add((id(thing.__globals__), name))
                    pending.append(thing.__globals__[name])
                    yield thing.__globals__, name


def _inside(thing: Any) -> list[Any]:
    """Return by way of what a thing calls functions: its closure, its class, what it holds."""
    if isinstance(thing, FunctionType):
        cells = thing.__closure__ or ()
        return [getattr(thing, "__wrapped__", None), *(_content(cell) for cell in cells)]
    if isinstance(thing, type):
        return [*thing.__bases__, *(_function(part) for part in list(vars(thing).values()))]
    if isinstance(thing, MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if is_module(thing):
        return [type(part) for part in thing.modules()]
    if isinstance(thing, (list, tuple)):
        return list(thing[:_MOST])
    if isinstance(thing, dict):
        return list(thing.values())[:_MOST]
    return [type(thing), getattr(thing, "fun", None)]  # of a compiled function, what is compiled


def _function(part: Any) -> Any:
    """Return the function of an entry of a class."""
    return part.fget if isinstance(part, property) else getattr(part, "__func__", part)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names in a function, and in those that stand in it."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)
