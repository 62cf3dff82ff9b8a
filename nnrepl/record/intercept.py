"""Intercept: replaces MLX's callables by wrappers that tell the recorder, and puts them back.

Functions are replaced on their modules; methods, operators and properties on the type `mx.array`. Calling
the class (`mx.array([1, 2])`) goes past `__init__` through the type's vectorcall slot, so that slot is
cleared meanwhile and Python takes the ordinary way.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import mlx.core as mx

from nnrepl.record import before, catalog, compiled, custom, opaque, special, strays, transforms
from nnrepl.record.catalog import Callee
from nnrepl.record.recorder import OPAQUE, RECORD, Recorder, installed
from nnrepl.record.tracing import check_evaluation
from nnrepl.tape import Operation, collector

_getframe = sys._getframe


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Record everything that happens inside. Afterwards MLX is what it was before, to the object."""
    patches = _Patches()
    with installed(recorder):
        try:
            _install(recorder, patches)
            yield recorder
        finally:
            patches.undo()


class _Patches:
    """What was replaced, so that it can be put back in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, holder: Any, attribute: str, replacement: Any) -> None:
        own = vars(holder)
        before = own.get(attribute, _MISSING)
        setattr(holder, attribute, replacement)
        if before is _MISSING:
            self._undo.append(lambda: delattr(holder, attribute))
        else:
            self._undo.append(lambda: setattr(holder, attribute, before))

    def clear_vectorcall(self, cls: type) -> None:
        slot = _vectorcall_slot(cls)
        before = slot.value
        slot.value = None

        def restore() -> None:
            slot.value = before

        self._undo.append(restore)

    def undo_by(self, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


_MISSING = object()


def _vectorcall_slot(cls: type) -> ctypes.c_void_p:
    """The pointer through which calling `cls` bypasses `__init__`.

    Its offset stands in the metaclass (`tp_vectorcall_offset`, the fifth field behind the object header in
    CPython's PyTypeObject since 3.8), so this holds for stable-ABI builds as well.
    """
    header = object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t)
    field = id(type(cls)) + header + 4 * ctypes.sizeof(ctypes.c_void_p)
    return ctypes.c_void_p.from_address(id(cls) + ctypes.c_ssize_t.from_address(field).value)


def _install(recorder: Recorder, patches: _Patches) -> None:
    recorder.compiling = compiled.compiling()
    wrappers: dict[int, Callable[..., Any]] = {}
    for callee in catalog.CALLEES:
        wrapper = _wrapper(recorder, callee)
        if wrapper is None or callee.attribute not in vars(callee.holder):
            continue
        if callee.holder is not mx.array:
            # MLX's functions do not become methods when they are class attributes; nor must these.
            wrapper = staticmethod(wrapper)
            wrappers[id(callee.original)] = wrapper
        patches.set(callee.holder, callee.attribute, wrapper)
    patches.clear_vectorcall(mx.array)
    patches.set(mx.array, "__copy__", special.copier(recorder, mx.array.__dict__["__copy__"]))
    patches.set(mx.array, "__deepcopy__", special.copier(recorder, mx.array.__dict__["__deepcopy__"]))
    patches.set(mx.array, "__setstate__", special.unpickler(recorder))
    patches.undo_by(strays.catch_transformed(before.caller))
    patches.set(mx.custom_function, "__call__", custom.caller(mx.custom_function.__call__))
    for name in ("vjp", "jvp", "vmap"):
        patches.set(mx.custom_function, name, custom.setter(name, getattr(mx.custom_function, name)))
    patches.undo_by(strays.catch(wrappers))
    patches.set(gc, "collect", collector.caught(gc.collect))
    patches.set(gc, "get_objects", collector.enumerated(gc.get_objects))


def _wrapper(recorder: Recorder, callee: Callee) -> Any:
    match callee.treatment:
        case "op":
            return _op(recorder, callee)
        case "augmented":
            return special.augmented(recorder, catalog.operation(callee))
        case "property":
            return _property(recorder, callee)
        case "sync":
            return _sync(recorder, callee)
        case "transform":
            return transforms.wrapper(recorder, callee)
        case "maker":
            return opaque.maker(recorder, callee)
        case "stream":
            return special.stream(recorder, callee)
        case "switch":
            return compiled.switch(recorder, callee)
        case "special":
            return special.wrapper(recorder, callee)
    return None


def _op(recorder: Recorder, callee: Callee) -> Callable[..., Any]:
    operation = catalog.operation(callee)
    position = catalog.key_position(callee.original) if callee.key.startswith("mx.random.") else None
    if position is not None:
        return _random(recorder, callee, operation, position)
    original, thread, call = callee.original, recorder.thread, recorder.call

    @_like(original, callee)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if recorder.mode != RECORD or get_ident() != thread:
            return opaque.aside(recorder, operation, original, args, kwargs)
        return call(operation, args, kwargs, _getframe(1))

    return wrapper


def _random(recorder: Recorder, callee: Callee, operation: Operation, position: int) -> Callable[..., Any]:
    original = callee.original

    @_like(original, callee)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            return opaque.aside(recorder, operation, original, args, kwargs)
        given = args[position] if len(args) > position else kwargs.get("key")
        if given is not None:
            return recorder.call(operation, args, kwargs, _getframe(1))
        return special.draw(recorder, operation, args, kwargs, position, _getframe(1))

    return wrapper


def _property(recorder: Recorder, callee: Callee) -> property:
    operation = catalog.operation(callee)
    original = callee.original.fget

    def getter(array: mx.array) -> Any:
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            return opaque.aside(recorder, operation, original, (array,), {})
        return recorder.call(operation, (array,), {}, _getframe(1))

    return property(getter, doc=callee.original.__doc__)


def _sync(recorder: Recorder, callee: Callee) -> Callable[..., Any]:
    original, how = callee.original, callee.key

    @_like(original, callee)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if recorder.mode == RECORD and get_ident() == recorder.thread:
            check_evaluation(recorder, how, (*args, *kwargs.values()))
            recorder.mark(how, (*args, *kwargs.values()), _getframe(1))
            recorder.check_bounds()
        elif recorder.mode == OPAQUE:
            recorder.forced = True
        return original(*args, **kwargs)

    return wrapper


def _like(original: Any, callee: Callee) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a wrapper the name, the documentation and the module of what it stands for."""

    def dress(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        functools.update_wrapper(wrapper, original, assigned=("__name__", "__doc__", "__module__"), updated=())
        wrapper.__qualname__ = f"array.{callee.attribute}" if callee.holder is mx.array else callee.attribute
        return wrapper

    return dress
