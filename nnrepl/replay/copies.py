"""Copies: the ops of one tape on another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nnrepl.tape import SETUP_PASS, BackwardOp, Op, Pass

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


def copy_op(op: Op, pass_: Pass, position: int) -> Op:
    """Return the same op on another tape: it shares its values."""
    if isinstance(op, BackwardOp):
        twin: Op = BackwardOp(op.operation, op.args, op.kwargs, op.inputs, op.of)
    else:
        twin = Op(op.operation, op.args, op.kwargs, op.inputs)
    twin.outputs = op.outputs
    twin.scope, twin.lasti, twin.pass_, twin.position = op.scope, op.lasti, pass_, position
    pass_.tape.notes.carry_all(op, twin)
    return twin


def reopened_pass(recorder: Recorder) -> Pass:
    """Return the pass before the one that begins: what is inserted at its end belongs to it."""
    passes = recorder.tape.passes
    if not passes:
        pass_ = recorder.open_pass(SETUP_PASS, "")
        recorder.close_pass()  # steps are counted up to the first open pass
        return pass_
    passes[-1] = replace(passes[-1], tape=recorder.tape)
    return passes[-1]
