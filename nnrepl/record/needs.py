"""Needs: which inputs an op's result is really computed from.

The VJP of a sum takes the sum's inputs, but needs none of their numbers. MLX's own graph tells, once for each
kind of op.
"""

from __future__ import annotations

import mlx.core as mx

from nnrepl.record.anatomy import graph, stand_in
from nnrepl.record.keys import frozen
from nnrepl.record.vjp import Rule
from nnrepl.tape import BackwardOp, Op, Value

_step = mx.stop_gradient
_KNOWN: dict[object, tuple[int, ...]] = {}


def needs(op: Op) -> tuple[Value, ...]:
    """Return the inputs whose numbers an op needs."""
    if not isinstance(op, BackwardOp):
        return op.inputs
    return tuple([op.inputs[slot] for slot in needed_slots(op)])


def needed_slots(op: BackwardOp) -> tuple[int, ...]:
    """Which of `op.inputs` those are."""
    rule = op.args[0] if op.args else None
    if type(rule) is not Rule or rule.op.operation.kind in ("opaque", "custom", "checkpoint"):
        return tuple(range(len(op.inputs)))
    kinds = tuple([(value.shape, value.dtype) for value in op.inputs])
    key = (op.operation, kinds, rule.op.operation, _constants(rule.op), rule.wanted, rule.outputs, rule.continued)
    try:
        known = _KNOWN.get(key)
    except TypeError:  # an argument that cannot be hashed: looked at anew each time
        return _look(op)
    if known is None:
        known = _KNOWN[key] = _look(op)
    return known


def _constants(op: Op) -> object:
    """Return what an op was called with besides tensors."""
    return frozen([None if isinstance(arg, Value) else arg for arg in op.args]), frozen(op.kwargs)


def _look(op: Op) -> tuple[int, ...]:
    """Compute the op on stand-ins and see which of them MLX's graph reaches."""
    stands = {value: stand_in(value.shape, value.dtype) for value in op.inputs}
    # A gradient may be handed on as it is; the step after it keeps the two apart in the graph.
    results = [_step(array) for array in op.compute(stands.__getitem__)]
    outputs = {f"o{slot}": array for slot, array in enumerate(results)}
    names = {f"i{slot}": stands[value] for slot, value in enumerate(op.inputs)}
    reached = {step for step in graph(outputs, names) if isinstance(step, str)}
    # A value that is taken twice has one stand-in, which is known by the last of its names.
    arrays = {id(stands[op.inputs[int(name[1:])]]) for name in reached}
    return tuple(slot for slot, value in enumerate(op.inputs) if id(stands[value]) in arrays)
