"""Native reads: what stands in, while a program runs natively, for what brings an array's numbers to Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import get_ident
from typing import Any

from nnrepl.record.catalog import Callee
from nnrepl.record.native import Levels
from nnrepl.record.recorder import NATIVE


def evaluating(levels: Levels, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands in a closed stretch for what forces an evaluation."""

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        levels.evaluated()
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


EVALUATING = frozenset(("mx.eval", "mx.async_eval"))
"""What evaluates and tells nothing."""
