"""Worked: the arithmetic of one element of an op of the tape, forwards and backwards, with the real numbers."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.explain.cases import ALL, Names, Sample, case_of, operand, sample_of
from nnrepl.explain.elements import Index, number_at
from nnrepl.explain.known import Entry, entry_for
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.ops import arithmetic
from nnrepl.ops.bilinear import product_of, sum_of
from nnrepl.ops.case import Operand
from nnrepl.ops.evaluated import Line, Worked, worked_out
from nnrepl.ops.expression import quantity
from nnrepl.ops.numbers import element, ravel, unravel
from nnrepl.session.expressions import aside
from nnrepl.tape import Op, Value


def forward(look: Look, op: Op, entry: Entry, value: Value, index: Index, names: Names) -> Worked | None:
    """How one element of a result was computed; None where only `into` can tell."""
    look.see([*op.inputs, value])
    sample, place = sample_of(op, value, index)
    with aside():
        return arithmetic.forward(case_of(look, op, entry, names, sample), value.slot, place)


def backward(look: Look, op: Op, gradient: Value, index: Index, names: Names) -> Worked | None:
    """How one element of a gradient was computed; None where nothing that was checked can be said."""
    rule = rule_of(op)
    if rule is None:
        return _added(look, op, gradient, index, names)
    forward, of = op.of, gradient.gradient_of
    if forward is None or of is None:
        return None
    look.see([*op.inputs, *forward.inputs, *forward.outputs, gradient])
    entry = entry_for(op)
    so_far = _so_far(look, op, of, names)
    sample, place = sample_of(op, gradient, index)
    with aside():
        if entry is not None:
            case = case_of(look, op, entry, names, sample)
            target = next((one for one in case.operands() if one.holds(of.canonical)), None)
            if target is not None:
                arrived = _so_far(look, op, of, names, sample)
                found = arithmetic.backward(case, target, operand(look, gradient, names, sample), place, arrived)
                if found is not None:
                    return found
        return _by_jacobian(look, op, gradient, index, names, so_far)


def _so_far(look: Look, op: Op, of: Value, names: Names, sample: Sample = ALL) -> Operand | None:
    """Return what had arrived of a gradient before this op, where MLX continues it."""
    rule = rule_of(op)
    assert rule is not None
    for slot, given in zip(rule.continued, op.inputs[len(rule.outputs) :]):
        if rule.inputs[slot].canonical is of.canonical:
            return operand(look, given, names, sample)
    return None


def _added(look: Look, op: Op, gradient: Value, index: Index, names: Names) -> Worked | None:
    """Parts of a gradient that arrive on several ways are added."""
    if op.operation.kind != "accumulate":
        return None
    look.see([*op.inputs, gradient])
    parts = [operand(look, part, names) for part in op.inputs]
    with aside():
        line = Line(element(names(gradient), index), sum_of([part.node(index) for part in parts]))
        return worked_out(line, operand(look, gradient, names), index)


def _by_jacobian(
    look: Look, op: Op, gradient: Value, index: Index, names: Names, so_far: Operand | None
) -> Worked | None:
    """Return the chain rule with the op's numerical Jacobian: how much each element of the result changes with this
    one."""
    forward, of, rule = op.of, gradient.gradient_of, rule_of(op)
    if forward is None or forward.refusal or of is None or rule is None:
        return None
    terms = [] if so_far is None else [quantity(element(so_far.name, index), so_far.at(index))]
    for slot, given in zip(rule.outputs, upstream(op)):
        result = forward.outputs[slot]
        column = _column(forward, of, slot, index)
        if column is None:
            return None
        slopes: Any = column.flatten().tolist()
        used = [at for at, slope in enumerate(slopes) if slope != 0]
        if len(used) > _MOST:
            return None
        arrived = operand(look, given, names)
        places = [unravel(at, result.shape) for at in used]
        arrived.want(places)
        d = element(names(of), index)
        terms.extend(
            product_of(arrived.node(place), quantity(f"∂{element(names(result), place)}/∂{d}", slopes[at]))
            for at, place in zip(used, places)
        )
    line = Line(element(names(gradient), index), sum_of(terms)) if terms else None
    return worked_out(line, operand(look, gradient, names), index)


_MOST = 4000


def _column(forward: Op, of: Value, slot: int, index: Index) -> mx.array | None:
    """How much each element of a result changes with one element of an input, by MLX's jvp; None where it has none."""
    one = (mx.arange(of.size) == ravel(index, of.shape)).astype(of.dtype).reshape(of.shape)
    taken = next(value for value in forward.inputs if value.canonical is of.canonical)

    def run(array: mx.array) -> list[mx.array]:
        return [forward.compute(lambda other: array if other.canonical is of.canonical else other.array)[slot]]

    try:
        column: mx.array = mx.jvp(run, [taken.array], [one])[1][0]
        mx.eval(column)
    except (ValueError, RuntimeError):
        return None
    return column


def result_at(look: Look, value: Value, index: Index) -> Any:
    """Return the number that an op has computed."""
    return number_at(look, value, index)


def linear_in(look: Look, op: Op, taken: Value, value: Value, index: Index) -> mx.array:
    """How much one element of a result changes with each element of an input: a row of the Jacobian, by MLX's VJP."""
    look.see(op.inputs)
    one = mx.zeros((value.size,), value.dtype)
    one[ravel(index, value.shape)] = 1
    cotangents = [
        mx.reshape(one, value.shape) if output is value else mx.zeros(output.shape, output.dtype)
        for output in op.outputs
    ]

    def run(array: mx.array) -> list[mx.array]:
        return op.compute(lambda other: array if other is taken else other.array)

    return mx.vjp(run, [taken.array], cotangents)[1][0]
