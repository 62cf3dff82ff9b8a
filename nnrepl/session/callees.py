"""Callees: the variables that the program's own functions read when a typed expression calls them.

A function finds global variables where Python looks, in its module, and those of the function around it in its
closure: as they are now. In the past they have to hold for that moment what they held then, as what the expression
itself names does; and so do the containers that it comes by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    NoneType,
    WrapperDescriptorType,
)
from typing import Any, Protocol
from weakref import ref

from nnrepl.installed import is_library
from nnrepl.record.frame_variables import stands_in
from nnrepl.record.stack import is_module
from nnrepl.session.errors import NotYet
from nnrepl.session.frames import Frames
from nnrepl.tape import UNBOUND, Activation, Holder


class Namespace(Protocol):
    """Namespace by name: those of a module, or of a function's closure."""

    def get(self, name: str, default: Any, /) -> Any: ...

    def pop(self, name: str, default: Any, /) -> Any: ...

    def __setitem__(self, name: str, thing: Any, /) -> None: ...


Exchange = tuple[Namespace, str, Any]
"""Some variables, the name of one, and what it is to hold: UNBOUND if it was not set yet."""
_OPTIMIZED = 0x1
_OF_C = frozenset((
    BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, MethodWrapperType, ClassMethodDescriptorType,
    GetSetDescriptorType, MemberDescriptorType, NoneType, bool, int, float, complex, str, bytes,
))  # fmt: skip
_MADE_AT_RUN_TIME = 1 << 9
"""A flag of classes: `Py_TPFLAGS_HEAPTYPE`."""
_MOST = 1000
"""So many entries of one container are looked at for functions."""


class Closure:
    """The variables that a function has of those around it."""

    def __init__(self, function: FunctionType) -> None:
        self._cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))

    def get(self, name: str, default: Any, /) -> Any:
        """Return what a variable holds; `default` where it is not set."""
        try:
            return self._cells[name].cell_contents
        except ValueError:
            return default

    def pop(self, name: str, default: Any, /) -> None:
        """Let a variable hold nothing."""
        if self.get(name, UNBOUND) is not UNBOUND:
            del self._cells[name].cell_contents

    def __setitem__(self, name: str, thing: Any, /) -> None:
        self._cells[name].cell_contents = thing


def exchanges(
    frames: Frames, things: Iterable[Any], scope: Activation | None, position: int, real: Callable[[Any, str], Any]
) -> tuple[list[Exchange], list[Holder]]:
    """Return which variables held something else at a position, of those that functions read which can be called by way
    of some things; and the containers by way of which they are called, or that they read.

    Args:
        scope: The call that stands there: the modules whose code has led to it are looked at, and the variables of the
            functions that have.
        real: Gives the object that stands for what the tape knows of a variable.
    """
    path = [] if scope is None else scope.path()
    if not any(is_own_module(step) for step in path):
        return [], []
    walk = _Walk(frames, path, position)
    found: list[Exchange] = []
    for variables, name, step in walk.read(things):
        now = variables.get(name, UNBOUND)
        try:
            held = frames.in_module(name, step, position)
            before = now if held is None else real(held.thing, name)
        except NotYet:
            before = UNBOUND
        if before is not now:
            found.append((variables, name, before))
    return found, walk.holders


def is_own_module(step: Activation) -> bool:
    """Whether a call is the code of a module of the program's own."""
    return not step.code.co_flags & _OPTIMIZED and not is_library(step.code.co_filename)


class _Walk:
    """Goes through what can be called.

    Attributes:
        holders: The containers that it has come by.
    """

    def __init__(self, frames: Frames, path: list[Activation], position: int) -> None:
        self.holders: list[Holder] = []
        self._frames, self._position = frames, position
        self._modules = {id(step.variables): step for step in path if is_own_module(step)}
        self._around = [step for step in reversed(path) if step.code.co_cellvars]

    def read(self, things: Iterable[Any]) -> Iterator[tuple[Namespace, str, Activation]]:
        """Yield the variables that can be read by way of some things, each once, with the call whose they are."""
        pending, seen, read = list(things), set[int](), set[tuple[int, str]]()
        while pending:
            thing = pending.pop()
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            if is_of_c(thing):
                continue
            pending += _inside(thing)
            pending += self._held_by(thing)
            if not isinstance(thing, FunctionType):
                continue
            for cell, name in zip(thing.__closure__ or (), thing.__code__.co_freevars):
                step = self._whose(thing.__code__, name)
                if step is not None and (id(cell), name) not in read:
                    read.add((id(cell), name))
                    yield Closure(thing), name, step
            for name in _names(thing.__code__) if id(thing.__globals__) in self._modules else ():
                if name in thing.__globals__ and (id(thing.__globals__), name) not in read:
                    read.add((id(thing.__globals__), name))
                    pending.append(thing.__globals__[name])
                    yield thing.__globals__, name, self._modules[id(thing.__globals__)]

    def _whose(self, code: CodeType, name: str) -> Activation | None:
        """Return the call that has led here, and around whose variable of a name a function was made; None if that has
        returned."""
        return next((one for one in self._around if name in one.code.co_cellvars and stands_in(code, one.code)), None)

    def _held_by(self, thing: Any) -> Iterator[Any]:
        """Yield what a container of the program's held."""
        if isinstance(thing, (type, FunctionType, MethodType, ModuleType)):
            return
        holder = self._frames.names.homes.holder_of(thing)
        if holder is None:
            return
        self.holders.append(holder)
        held = self._frames.tape.bindings.contents(holder, self._position)
        for part in list(held.values() if isinstance(held, dict) else held if isinstance(held, list) else ())[:_MOST]:
            yield part() if isinstance(part, ref) else part.refer() if isinstance(part, Holder) else part


def _inside(thing: Any) -> list[Any]:
    """Return by way of what a thing calls functions: its closure, its class, what it holds."""
    if isinstance(thing, FunctionType):
        cells = thing.__closure__ or ()
        given = (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
        return [getattr(thing, "__wrapped__", None), *given, *(_content(cell) for cell in cells)]
    if isinstance(thing, type):
        parts = [_function(part) for part in list(vars(thing).values())]
        return [*thing.__bases__, *(part for part in parts if not _stands_in(part))]
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


def is_of_c(thing: Any) -> bool:
    """Whether a thing is written in C, and so reads no variable of the program's: a number, a function of Python's or
    of MLX's, a class of Python's own. What it is given is seen by itself."""
    kind = type(thing)
    if isinstance(thing, type):
        return not thing.__flags__ & _MADE_AT_RUN_TIME
    return kind in _OF_C or kind.__module__ == "nanobind"


def _stands_in(part: Any) -> bool:
    """Whether an entry of a class is nnrepl's, while it records MLX: it calls what it stands in for."""
    return isinstance(part, FunctionType) and str(part.__globals__.get("__name__")).startswith("nnrepl.")


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
