"""Drawn again: random ops of a run that is repeated draw from the state of now."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import mlx.core as mx

from nnrepl.record.opaque import OpaqueCall
from nnrepl.record.recorder import Recorder
from nnrepl.tape import DrawnKey, Op

_uniform = mx.random.uniform
_RANDOM_STATE: Any = mx.random.state


def draw_anew(recorder: Recorder, op: Op) -> None:
    """Let a random op take its key from the global state, which moves on as if the op had drawn it."""
    if not any(isinstance(part, DrawnKey) for part in (*op.args, *op.kwargs.values())):
        return
    key = recorder.drawn()
    op.args = tuple([key if isinstance(part, DrawnKey) else part for part in op.args])
    op.kwargs = {name: key if isinstance(part, DrawnKey) else part for name, part in op.kwargs.items()}
    with recorder.muted():
        _uniform()


def draws_inside(op: Op) -> bool:
    """Whether it is an opaque op that drew random numbers."""
    return isinstance(op.operation.run, OpaqueCall) and op.operation.run.state is not None


def drawn_inside(recorder: Recorder, op: Op) -> list[mx.array]:
    """Compute an opaque op, which draws from the global state; computed again, it draws the same."""
    call: OpaqueCall = copy(op.operation.run)  # type: ignore[assignment]
    call.state, state = None, _RANDOM_STATE[0]
    call.operation = op.operation = replace(op.operation, run=call)
    arrays = op.compute()
    call.state = state
    recorder.seeded(("opaque", recorder.draws))
    return arrays
