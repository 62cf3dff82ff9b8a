"""Tangents: what a `jvp` computes, one Jacobian-vector product of one op at a time."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.anatomy import stand_in
from nnrepl.record.strays import raw
from nnrepl.record.vjp import Rule
from nnrepl.tape import Op, Operation, Pass, Tangent, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_NO_KWARGS: dict[str, Any] = {}
_jvp = raw(mx.jvp)


def sweep_forward(recorder: Recorder, pass_: Pass, start: int, tangents: dict[Value, Value]) -> dict[Value, Value]:
    """Put the tangents of all that depends on some values on the tape, without computing them: a tangent has the shape
    and the dtype of what it is the tangent of.

    Args:
        pass_: In which pass they lie; the ops that are looked at are its own, from `start` on.
        tangents: Those of the values that the function got.

    Returns:
        The tangents of all values that have one.
    """
    tape, found = recorder.tape, dict(tangents)
    for op in tape.ops[start:]:
        # Also where MLX follows none (`stop_gradient`): there its `jvp` gives zeros in the end (mlx/transforms.cpp).
        inputs = tuple(dict.fromkeys(op.inputs))
        wanted = tuple([slot for slot, value in enumerate(inputs) if value in found])
        outputs = tuple([slot for slot, value in enumerate(op.outputs) if mx.issubdtype(value.dtype, mx.inexact)])
        if op.pass_ is not pass_ or not wanted or not outputs:
            continue
        rule = Rule(op, inputs, wanted, outputs)
        given = (*[found[inputs[slot]] for slot in wanted], *inputs)
        made = Op(_named(f"jvp of {op.operation.name}"), (rule, *given), _NO_KWARGS, given)
        values: list[Value] = []
        for at, slot in enumerate(outputs):
            of = op.outputs[slot]
            found[of] = value = Tangent(made, at, stand_in(of.shape, of.dtype), of)
            values.append(value)
        made.outputs = tuple(values)
        made.scope, made.lasti, made.pass_, made.position = op.scope, op.lasti, pass_, len(tape.ops)
        tape.notes.belonging[made] = op
        tape.ops.append(made)
    return found


def run_jvp(rule: Rule, *arrays: mx.array) -> list[mx.array]:
    """Return the JVP of one op: tangents of its inputs in, tangents of its outputs out. `arrays` are the tangents of
    `rule.wanted` and the op's inputs."""
    wanted, tangents = rule.wanted, list(arrays[: len(rule.wanted)])
    fixed = list(arrays[len(rule.wanted) :])
    index = {value: slot for slot, value in enumerate(rule.inputs)}

    def forward(*inputs: mx.array) -> list[mx.array]:
        # The others stay constants: MLX asks a primitive only for what inputs with a tangent add (`tan_map` in `jvp`,
        # mlx/transforms.cpp), and a tangent of zeros would be one more term.
        for slot, array in zip(wanted, inputs):
            fixed[slot] = array
        results = rule.op.once(lambda value: fixed[index[value]])
        return [results[slot] for slot in rule.outputs]

    results: list[mx.array] = _jvp(forward, [fixed[slot] for slot in wanted], tangents)[1]
    return results


@cache
def _named(name: str) -> Operation:
    """Return the operation that gives tangents, by its name alone: that of a nested call would keep a whole tape."""
    return Operation(name, run_jvp, name, kind="jvp")
