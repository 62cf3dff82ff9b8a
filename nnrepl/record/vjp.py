"""VJP: the vector-Jacobian product of one op, taken by MLX."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import mlx.core as mx

from nnrepl.record.keys import frozen
from nnrepl.record.recipe import taking_later
from nnrepl.record.strays import raw
from nnrepl.tape import DrawnKey, Gradient, Leaf, Op, Operation, Value

_VALUES = frozenset((Value, Leaf, Gradient))
_vjp, _eval, _add, _squeeze, _expand_dims = map(raw, (mx.vjp, mx.eval, mx.add, mx.squeeze, mx.expand_dims))


class Rule:
    """How to differentiate one op: the constant part of a backward op's arguments.

    Attributes:
        op: The forward op.
        inputs: Its distinct inputs; the other attributes count in them.
        wanted: The inputs whose gradients are asked for.
        outputs: The outputs of the op that have gradients.
        continued: Of the wanted inputs, those whose gradient so far MLX continues.
    """

    __slots__ = ("continued", "inputs", "op", "outputs", "wanted")

    def __init__(
        self,
        op: Op,
        inputs: tuple[Value, ...],
        wanted: tuple[int, ...],
        outputs: tuple[int, ...],
        continued: tuple[int, ...] = (),
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.wanted = wanted
        self.outputs = outputs
        self.continued = continued

    def shape_key(self) -> Any:
        """Return what makes two rules the same in a re-run, apart from the tensors."""
        op = self.op
        constants = frozen([None if isinstance(arg, Value) else arg for arg in op.args]), frozen(op.kwargs)
        return op.operation, constants, self.wanted, self.outputs, self.continued


def run_vjp(rule: Rule, *arrays: mx.array) -> list[mx.array]:
    """Return the VJP of one op: gradients of its outputs in, gradients of its wanted inputs out.

    `arrays` are the gradients of `rule.outputs`, the gradients so far of `rule.continued`, the op's inputs, and what
    is taken by functions in it that run once more for that. Where a gradient is continued, the input is made an output
    as well and its gradient so far the cotangent: MLX then adds the op's parts to it one by one, as it would in one
    graph.
    """
    op, wanted = rule.op, rule.wanted
    given, far = len(rule.outputs), len(rule.continued)
    fixed = list(arrays[given + far : given + far + len(rule.inputs)])
    cotangents = [*arrays[given : given + far], *arrays[:given]]
    if not far and is_usual(op, rule.inputs):
        return usual_vjp(rule, fixed, cotangents)
    # A value that an op takes twice (`x * x`) is one primal: MLX is to add its two parts, in its order.
    index = {value: slot for slot, value in enumerate(rule.inputs)}
    aliases = op.tape.notes.aliases

    nested = op.operation.kind == "opaque"
    forced = [k for k, output in enumerate(op.outputs) if nested and output in op.tape.notes.forced]

    def forward(*inputs: mx.array) -> list[mx.array]:
        for slot, array in zip(wanted, inputs):
            # What is wanted is handed over as tracers, all else stays a constant: MLX then computes no part of it.
            fixed[slot] = shielded(array) if nested and not forced else array
        results = op.once(lambda value: fixed[index[aliases.get(value, value)]])
        if forced:
            _eval([results[k] for k in forced])  # as the program did: MLX forgets how they were made
        # Those that no gradient has reached are left out: MLX gives a primitive zeros for such outputs of its, here as
        # in one graph (`cotangents.push_back(zeros_like(o, s))` in `vjp`, mlx/transforms.cpp).
        return [fixed[slot] for slot in rule.continued] + [results[k] for k in rule.outputs]

    later = arrays[given + far + len(rule.inputs) :]
    with taking_later(op.operation.run.taken_later, later) if later else nullcontext():  # type: ignore[attr-defined]
        gradients: list[mx.array] = _vjp(forward, [fixed[slot] for slot in wanted], cotangents)[1]
    return gradients


def is_usual(op: Op, inputs: tuple[Value, ...]) -> bool:
    """Whether an op has one output, and takes each of its inputs once and as it is, in arguments of their own; the
    others are constants. `inputs` are the distinct ones, as MLX's graph knows them."""
    if op.operation.kind != "op" or op.inputs != inputs or len(op.outputs) != 1 or op in op.pass_.tape.notes.streams:
        return False
    kwargs = op.kwargs
    if op.args is op.inputs and not kwargs:
        return True
    kinds = [type(arg) for arg in op.args]
    # As many values as inputs: none lies in a list, a slice or an option. A key is drawn anew from its state.
    return sum([kind in _VALUES for kind in kinds]) == len(inputs) and not (
        DrawnKey in kinds or (kwargs and any([type(arg) is DrawnKey for arg in kwargs.values()]))
    )


def usual_vjp(rule: Rule, fixed: list[mx.array], cotangents: list[mx.array]) -> list[mx.array]:
    """Return the VJP of such an op: the reason for a fast path."""
    op, wanted = rule.op, rule.wanted
    run = op.operation.run
    gradients: list[mx.array]
    if op.args is not op.inputs or op.kwargs:
        given, at = list(op.args), [at for at, arg in enumerate(op.args) if type(arg) in _VALUES]
        for place, array in zip(at, fixed):
            given[place] = array
        places, kwargs = [at[slot] for slot in wanted], op.kwargs

        def among_constants(*inputs: mx.array) -> Any:
            for place, array in zip(places, inputs):
                given[place] = array
            return run(*given, **kwargs)

        gradients = _vjp(among_constants, [fixed[slot] for slot in wanted], cotangents)[1]
        return gradients
    if len(wanted) == len(fixed):
        gradients = _vjp(run, fixed, cotangents)[1]
        # In the order in which MLX's walk comes by the inputs, which is that of `wanted`.
        return [gradients[slot] for slot in wanted]

    def partly(*inputs: mx.array) -> Any:
        for slot, array in zip(wanted, inputs):
            fixed[slot] = array
        return run(*fixed)

    gradients = _vjp(partly, [fixed[slot] for slot in wanted], cotangents)[1]
    return gradients


def taken_later(op: Op) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """Return what functions in the call that an op differentiates took where they ran once more, and what of the op's
    inputs stands for that."""
    rule = op.args[0] if op.args else None
    if type(rule) is not Rule or rule.op.operation.kind != "opaque":
        return (), ()
    given = len(rule.outputs) + len(rule.continued) + len(rule.inputs)
    return rule.op.operation.run.taken_later, op.inputs[given:]  # type: ignore[attr-defined]


def shielded(array: mx.array) -> mx.array:
    """Return the same array, some steps away from what `mx.vjp` has handed over.

    MLX marks an array that it hands over, and a nested gradient unmarks it; the next nested gradient takes it for a
    leftover then, and cuts it off (`make_tracer` in mlx/transforms.cpp). What is computed from it is not affected.
    """
    away: mx.array = _squeeze(_expand_dims(array, 0), 0)
    return away


def run_continued(rule: Rule, *arrays: mx.array) -> mx.array:
    """Return the VJP of one op for one input, added by MLX to the gradient that the input has so far."""
    return run_vjp(rule, *arrays)[0]


ACCUMULATE = Operation("accumulate", _add, "accumulate", kind="accumulate")
CONTINUE = Operation("accumulate", run_continued, "accumulate", kind="accumulate")


def vjp_operation(operation: Operation) -> Operation:
    """Return the operation that differentiates another: by its name alone, since that of a nested call would keep the
    call, and with it a whole tape."""
    known = _VJPS.get(operation.name)
    if known is None:
        name = f"vjp of {operation.name}"
        known = _VJPS[operation.name] = Operation(name, run_vjp, name, kind="vjp")
    return known


_VJPS: dict[str, Operation] = {}
