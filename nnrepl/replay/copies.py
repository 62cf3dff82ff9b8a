"""Copies: the ops of one tape on another."""

from __future__ import annotations

from nnrepl.tape import BackwardOp, Op, Pass


def copy_op(op: Op, part: Pass, position: int) -> Op:
    """The same op on another tape: it shares its values."""
    if isinstance(op, BackwardOp):
        twin: Op = BackwardOp(op.operation, op.args, op.kwargs, op.inputs, op.of)
    else:
        twin = Op(op.operation, op.args, op.kwargs, op.inputs)
    twin.outputs = op.outputs
    twin.scope, twin.lasti, twin.part, twin.position = op.scope, op.lasti, part, position
    part.tape.notes.carry_all(op, twin)
    return twin
