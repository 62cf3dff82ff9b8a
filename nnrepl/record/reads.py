"""Reads: what the program reads from tensors while it runs natively."""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import get_ident
from typing import Any

from nnrepl.record.catalog import Callee
from nnrepl.record.recorder import NATIVE, Recorder

EVALUATING = frozenset(("mx.eval", "mx.async_eval"))
"""What evaluates and tells nothing."""


def is_read(callee: Callee) -> bool:
    """Whether a callable of MLX's tells the program something of tensors, or writes it into a file."""
    return callee.treatment == "sync" and callee.key not in EVALUATING


def reading(recorder: Recorder, callee: Callee) -> Callable[..., Any]:
    """Return what stands natively for a callable that forces an evaluation: its answer comes from the intake."""
    original, how, thread = callee.original, callee.key, recorder.thread

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if recorder.mode != NATIVE or get_ident() != thread:
            return original(*args, **kwargs)
        return recorder.intake.read(recorder, how, original, args, kwargs)

    return wrapper
