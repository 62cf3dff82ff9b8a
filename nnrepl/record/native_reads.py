"""Native reads: what stands in, while a program runs natively, for what brings an array's numbers to Python, and for
what writes into it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any

import mlx.core as mx

from nnrepl.record.bounds import check_bounds
from nnrepl.record.catalog import Callee
from nnrepl.record.native import Levels
from nnrepl.record.recorder import NATIVE, RECORD, Recorder
from nnrepl.tape import arrays_of

_getframe = sys._getframe
_copy = mx.array.__copy__
_AUGMENTED = "add sub mul truediv floordiv mod pow and or xor lshift rshift matmul".split()


def evaluating(levels: Levels, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands in a closed stretch for what forces an evaluation."""

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        levels.evaluated(_getframe(1))
        return original(*args, **kwargs)

    return wrapper


def reading(levels: Levels, callee: Callee) -> Callable[..., Any]:
    """Return what stands natively for what brings an array's numbers to Python, evaluates them or writes them into a
    file: the answer comes from the intake."""
    original, how, recorder, losses = callee.original, callee.key, levels.recorder, levels.losses
    thread = recorder.thread

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if recorder.mode != NATIVE or get_ident() != thread:
            return original(*args, **kwargs)
        answer = recorder.intake.read(recorder, how, original, args, kwargs)
        if args and how not in EVALUATING:
            losses.read(args[0])
        return answer

    return wrapper


def loading(levels: Levels, callee: Callee) -> Callable[..., Any]:
    """Return what stands natively for `mx.load`."""
    original, recorder = callee.original, levels.recorder

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if recorder.mode == NATIVE and get_ident() == recorder.thread:
            recorder.tape.kept.loads(args[0] if args else kwargs.get("file"))
        return original(*args, **kwargs)

    return wrapper


class Conversion:
    """What stands for a function of NumPy's that takes tensors. It is no function, since NumPy's is none that
    becomes a method where it is an attribute of a class.

    Args:
        levels: What notices it.
        name: What it is called in NumPy.
        original: NumPy's own.
    """

    def __init__(self, levels: Levels, name: str, original: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self._levels, self._how, self._original = levels, f"numpy.{name}", original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = self._levels.recorder
        if not args or not _is_tensor(args[0]) or get_ident() != recorder.thread:
            return self._original(*args, **kwargs)
        if recorder.mode == RECORD and recorder.inside is None:
            check_bounds(recorder, arrays_of(args[0]))
            with recorder.tape.kept.hushed():
                answer = self._original(*args, **kwargs)
            return recorder.intake.asked(recorder, self._how, answer)
        if recorder.mode != NATIVE:
            recorder.tape.kept.spoil()
            return self._original(*args, **kwargs)
        answer = recorder.intake.read(recorder, self._how, self._convert, args, kwargs)
        self._levels.losses.read(args[0])
        return answer

    def _convert(self, *args: Any, **kwargs: Any) -> Any:
        """Convert: where NumPy asks the tensor for its numbers in turn, that is no other read."""
        with self._levels.recorder.muted():
            return self._original(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._original)


CONVERSIONS = ("array", "asarray", "asanyarray", "ascontiguousarray")


def _is_tensor(thing: Any) -> bool:
    """Whether something is a tensor, or a list of tensors."""
    kind = type(thing)
    return kind is mx.array or (kind in (list, tuple) and bool(thing) and type(thing[0]) is mx.array)


EVALUATING = frozenset(("mx.eval", "mx.async_eval"))
"""What evaluates and tells nothing."""


def keep_contents(recorder: Recorder, array: mx.array) -> None:
    """Note that an array that the tape knows is about to change in place: what the tape holds stays, and the program's
    object is none of the tape's any more."""
    value = recorder.live.pop(id(array), None)
    if value is not None and value.held is array:
        value.held = _copy(array)  # shares the buffer: MLX gives the program's object another one when it is written to


def in_place(levels: Levels, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands for `x[i] = v`, `x += y` natively."""
    recorder, live, write = levels.recorder, levels.recorder.live, levels.changes.write

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(array: mx.array, *args: Any) -> Any:
        if id(array) in live:
            keep_contents(recorder, array)
        write(array)
        return original(array, *args)

    return wrapper


IN_PLACE = ("__setitem__", *(f"__i{name}__" for name in _AUGMENTED if hasattr(mx.array, f"__i{name}__")))
