"""Aside: what the program calls while it is not to be recorded as an op.

While MLX runs a call by itself the wrappers only notice which recorded arrays are touched, and which are changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.recorder import OPAQUE, RECORD, Recorder, current, ready
from nnrepl.tape import Operation, arrays_of

_getframe = sys._getframe
_copy = mx.array.__copy__
_init = mx.array.__init__


def call_aside(
    recorder: Recorder,
    operation: Operation | None,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call a wrapped function that is not to be recorded as an op."""
    if recorder.closed:
        successor = ready()
        if successor is not None and operation is not None:  # a wrapper that outlived its recording
            return successor.call(operation, args, kwargs, _getframe(2))
        return original(*args, **kwargs)
    if recorder.mode == OPAQUE:
        notice(recorder, args)
        if kwargs:
            notice(recorder, tuple(kwargs.values()))
        made = original(*args, **kwargs)
        if recorder.leavings.made is not None and operation is not None:
            recorder.leavings.note(recorder.stack.program_frame(_getframe(2)), made)
        return made
    result = original(*args, **kwargs)
    if recorder.mode == RECORD:  # so this is another thread
        for array in arrays_of(result):
            recorder.leaf(array, "thread", None)
    return result


def notice(recorder: Recorder, args: Any) -> None:
    """Remember which recorded arrays an opaque op touches."""
    for leaf in trees.leaves(args):
        if type(leaf) is mx.array:
            value = recorder.live.get(id(leaf))
            if value is not None:
                recorder.captured.setdefault(value, leaf)


def overwrite(recorder: Recorder, array: mx.array) -> None:
    """Note that an array is about to be changed in place while that is not to be recorded as an op."""
    if recorder.mode == OPAQUE and not recorder.closed and get_ident() == recorder.thread:
        value = recorder.live.get(id(array))
        if value is not None and id(array) not in recorder.overwrites:
            recorder.overwrites[id(array)] = (array, value)
            if value.held is array:
                value.held = _copy(array)


def pass_on(args: Any) -> None:
    """Note that a transform is called while it is not to be recorded as an op: what goes in, an opaque op touches."""
    recorder = current()
    if recorder is not None and recorder.mode == OPAQUE and get_ident() == recorder.thread:
        notice(recorder, args)


def construct_aside(recorder: Recorder, array: mx.array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """`mx.array(...)` while it is not to be recorded as an op."""
    if recorder.mode == OPAQUE:
        notice(recorder, (args, kwargs))
    _init(array, *args, **kwargs)
    if recorder.mode == RECORD and not recorder.closed:
        recorder.leaf(array, "thread", None)
