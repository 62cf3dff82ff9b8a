"""Wrapped: what stands in for MLX's operations while every op is recorded. Each is made once, for all recordings.

Whoever records changes with every stop (see `Levels`): making some four hundred functions anew cost more than running
a small program. So they read who it is where they are called, from here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from threading import get_ident
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from nnrepl.record import catalog, special
from nnrepl.record.aside import call_aside
from nnrepl.record.bounds import check_bounds
from nnrepl.record.catalog import Callee
from nnrepl.record.recorder import MUTED, OPAQUE, RECORD, Recorder
from nnrepl.record.tracing import check_evaluation
from nnrepl.tape import Operation, arrays_of
from nnrepl.tape.native_run import SUFFIXES

_getframe = sys._getframe

_NOBODY: Any = SimpleNamespace(mode=MUTED, thread=0, inside=None, closed=True)
"""Stands for who records while nobody does: the program may have kept a wrapper, and call it then."""
_recorder: Any = _NOBODY

_made: dict[str, Any] = {}


def record_for(recorder: Recorder) -> Callable[[], None]:
    """Let what is wrapped tell a recorder; returns what ends that."""
    global _recorder
    _recorder = recorder
    return _leave


def _leave() -> None:
    global _recorder
    _recorder = _NOBODY


def wrapper(callee: Callee) -> Any:
    """Return what stands in for one of MLX's operations, properties and ways to evaluate; the same each time."""
    made = _made.get(callee.key)
    if made is None:
        made = _made[callee.key] = _MAKERS[callee.treatment](callee)
    return made


def _op(callee: Callee) -> Callable[..., Any]:
    operation = catalog.operation(callee)
    position = catalog.key_position(callee.original) if callee.key.startswith("mx.random.") else None
    if position is not None:
        return _random(callee, operation, position)
    original = callee.original

    @_like(original, callee)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        recorder = _recorder
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            return call_aside(recorder, operation, original, args, kwargs)
        return recorder.call(operation, args, kwargs, _getframe(1))

    return wrapper


def _random(callee: Callee, operation: Operation, position: int) -> Callable[..., Any]:
    original = callee.original

    @_like(original, callee)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        recorder = _recorder
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            return call_aside(recorder, operation, original, args, kwargs)
        given = args[position] if len(args) > position else kwargs.get("key")
        if given is not None:
            return recorder.call(operation, args, kwargs, _getframe(1))
        return special.draw(recorder, operation, args, kwargs, position, _getframe(1))

    return wrapper


def _property(callee: Callee) -> property:
    operation = catalog.operation(callee)
    original = callee.original.fget

    def getter(array: mx.array) -> Any:
        recorder = _recorder
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            return call_aside(recorder, operation, original, (array,), {})
        return recorder.call(operation, (array,), {}, _getframe(1))

    return property(getter, doc=callee.original.__doc__)


def _sync(callee: Callee) -> Callable[..., Any]:
    original, how = callee.original, callee.key
    tells = callee.holder is mx.array  # natively these are noticed (`nnrepl.record.native_reads`)

    @_like(original, callee)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        recorder = _recorder
        if recorder.inside is not None:
            recorder.forced = True
            recorder.tape.kept.spoil()
            recorder.inside.evaluate(arrays_of((*args, *kwargs.values())))
        elif recorder.mode == RECORD and get_ident() == recorder.thread:
            check_evaluation(recorder, how, (*args, *kwargs.values()))
            recorder.mark(how, (*args, *kwargs.values()), _getframe(1))
            if recorder.tape.notes.updates:
                from nnrepl.record.giving_way import give_way

                give_way(recorder)
            check_bounds(recorder, arrays_of((*args, *kwargs.values())))
            if how in SUFFIXES:
                return recorder.intake.write(recorder, how, original, args, kwargs)
            if tells:
                return recorder.intake.asked(recorder, how, original(*args, **kwargs))
        elif recorder.mode == OPAQUE:
            recorder.forced = True
            recorder.tape.kept.spoil()
        return original(*args, **kwargs)

    return wrapper


_MAKERS: dict[str, Callable[[Callee], Any]] = {"op": _op, "property": _property, "sync": _sync}
MADE_ONCE = frozenset(_MAKERS)
"""The treatments of callees that are wrapped here."""


def _like(original: Any, callee: Callee) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a wrapper the name, the documentation and the module of what it stands for."""

    def dress(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        functools.update_wrapper(wrapper, original, assigned=("__name__", "__doc__", "__module__"), updated=())
        wrapper.__qualname__ = f"array.{callee.attribute}" if callee.holder is mx.array else callee.attribute
        return wrapper

    return dress
