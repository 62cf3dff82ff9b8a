"""Usual: the backward op of an op that takes its inputs as they are, written with as few calls as can be.

Nearly all ops are such; `Sweep._write` does the same for all others, and is what a run along a tape takes.
"""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx

from nnrepl.record.anatomy import is_node, stand_in
from nnrepl.record.recorder import MUTED, Recorder
from nnrepl.record.region import SweepUnit
from nnrepl.record.vjp import Rule, usual_vjp, vjp_operation
from nnrepl.tape import BackwardOp, Gradient, Op, Pass, Tape, Value

_copy = mx.array.__copy__
_NO_KWARGS: dict[str, Any] = {}


class Sweeping(Protocol):
    """A backward pass that is under way."""

    recorder: Recorder
    tape: Tape
    pass_: Pass

    def failed(self, op: Op, forward: Op, error: Exception) -> None: ...


def write(sweep: Sweeping, node: SweepUnit, reached: tuple[int, ...], cotangents: tuple[Value, ...]) -> BackwardOp:
    """Take the VJP of such an op and put it on the tape."""
    forward, targets, wanted = node.op, node.inputs, node.wanted
    recorder = sweep.recorder
    rule = Rule(forward, targets, wanted, reached)
    given = cotangents + targets
    op = BackwardOp(vjp_operation(forward.operation), (rule, *given), _NO_KWARGS, given, forward)
    before, recorder.mode = recorder.mode, MUTED
    recorder.running_back = True
    try:
        arrived = [value.array if value.held is None else value.held for value in cotangents]
        if _hands_on(node, rule):
            # New objects: each gradient is a value of its own, and `Recorder.live` tells values by their objects.
            arrays = [_copy(arrived[0]) for _ in wanted]
        else:
            arrays = usual_vjp(rule, [value.array if value.held is None else value.held for value in targets], arrived)
    except Exception as error:
        sweep.failed(op, forward, error)
        raise
    finally:
        recorder.mode, recorder.running_back = before, False
    live = recorder.live
    outputs: list[Value] = []
    for at, array in zip(wanted, arrays):
        live[id(array)] = value = Gradient(op, len(outputs), array, targets[at])
        outputs.append(value)
    op.outputs = tuple(outputs)
    op.pass_, op.scope, op.lasti = sweep.pass_, forward.scope, forward.lasti
    ops = sweep.tape.ops
    op.position = len(ops)
    ops.append(op)
    return op


def _hands_on(node: SweepUnit, rule: Rule) -> bool:
    """Whether the VJP gives back what has arrived, the same array, as MLX's `Add::vjp` does: then it need not be
    called, and the bits are the same. It is asked once for each kind of op (operation, shapes, dtypes)."""
    known = node.group.hands_on.get(node.wanted)
    if known is None:
        out, targets = node.op.outputs[0], node.inputs
        alike = all(targets[at].shape == out.shape and targets[at].dtype == out.dtype for at in node.wanted)
        known = node.group.hands_on[node.wanted] = alike and _gives_back(rule, out)
    return known


def _gives_back(rule: Rule, out: Value) -> bool:
    arrived = stand_in(out.shape, out.dtype)
    given = usual_vjp(rule, [stand_in(value.shape, value.dtype) for value in rule.inputs], [arrived])
    return all(is_node(array, arrived) for array in given)
