"""Stuck: why one op passes no gradient on, and why a tensor is 0, with the tensors that show it."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Evidence
from nnrepl.explain.disconnected import why_end
from nnrepl.explain.entry import ELEMENTWISE, FIXED, entry_for
from nnrepl.explain.local import factor_array, factor_text, in_float32
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.tape import Leaf, Op, Value

TINY = {mx.float16: 6.0e-8, mx.bfloat16: 9.2e-41, mx.float32: 1.4e-45}
"""The smallest number above 0 of each dtype (IEEE 754)."""


@dataclass(slots=True)
class Reason:
    """Why, in a sentence or two, and what shows it."""

    text: str
    evidence: list[Evidence] = field(default_factory=list)
    op: Op | None = None


def reason_for(look: Look, op: Op, gradient: Value) -> Reason:
    """Why a backward op made a gradient 0 out of one that was not."""
    if op.operation.kind == "accumulate" and rule_of(op) is None:
        return Reason("two gradients that arrive here are opposite and cancel.", _shown(look, [*op.inputs, gradient]))
    forward, of = op.of, gradient.gradient_of
    if forward is None or of is None:
        return Reason("this op gives 0.", _shown(look, [*upstream(op), gradient]))
    if not mx.issubdtype(of.dtype, mx.inexact):
        return _whole(look, op, of, gradient)
    lost = underflow(look, op, gradient)
    if lost is not None:
        return lost
    factors = factor_array(op, of, look)
    if factors is not None:
        return _elementwise(look, op, forward, of, gradient, factors)
    if forward.name in (
        "matmul",
        "addmm",
        "gather_mm",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_general",
        "quantized_matmul",
    ):
        return _product(look, op, forward, of, gradient)
    if forward.name == "softmax":
        return _softmax(look, op, forward, gradient)
    entry = entry_for(forward)
    if entry is not None and entry.kind == FIXED:
        return Reason(
            f"{words.call(forward)} passes nothing: {why_end(forward)}", _shown(look, [*upstream(op), gradient])
        )
    rule = factor_text(op, of)
    text = f"{words.call(forward)} passes nothing on" + (f": its local factor is {rule}" if rule else "")
    return Reason(text + ".", _shown(look, [*upstream(op), *forward.inputs, gradient]))


def _whole(look: Look, op: Op, of: Value, gradient: Value) -> Reason:
    """A tensor of whole numbers was differentiated: MLX rounds the gradient to 0."""
    at = of
    while at.op is not None and at.op.inputs and not mx.issubdtype(at.op.inputs[0].dtype, mx.inexact):
        at = at.op.inputs[0]
    kind = words.operand(of.dtype)
    made = ""
    if at.op is not None:
        made = f" It was made by {at.op.label} {words.call(at.op)} ({words.place(at.op.source)}), which has no slope."
    text = (
        f"{words.name(of)} holds whole numbers ({kind}): MLX cuts the gradient of whole numbers to whole "
        f"numbers, here to "
        f"0.{made}"
    )
    return Reason(text, _shown(look, [*upstream(op), of, gradient]), at.op)


def underflow(look: Look, op: Op, gradient: Value) -> Reason | None:
    """Whether the gradient is 0 only because its dtype has no smaller numbers."""
    dtype = gradient.dtype
    if dtype not in (mx.float16, mx.bfloat16):
        return None
    slot = gradient.slot if gradient.slot < len(op.outputs) else 0
    wide = in_float32(op, look)
    peak: float = look.numbers([mx.max(mx.abs(wide[slot].astype(mx.float32)))])[0]
    if peak == 0:
        return None
    kind = words.operand(dtype)
    text = (
        f"the result is too small for {kind}: in float32 the largest element would be {words.number(peak)}, and the "
        f"smallest number above 0 in {kind} is {words.number(TINY[dtype])}. Scale the loss up, or use bfloat16 "
        f"or float32 here."
    )
    return Reason(text, _shown(look, [*upstream(op), gradient]))


def _elementwise(look: Look, op: Op, forward: Op, of: Value, gradient: Value, factors: mx.array) -> Reason:
    given = upstream(op)[0]
    zero, both = look.numbers([mx.sum(factors == 0), mx.sum((factors != 0) & (given.array != 0))])
    whole = factors.size
    evidence = _shown(look, [*(value for value in dict.fromkeys(forward.inputs)), given, gradient])
    text = factor_text(op, of)
    if zero == whole:
        return Reason(_closed(look, forward, of, factors, text), evidence)
    if both == 0:
        count = look.numbers([mx.sum(given.array != 0)])[0]
        return Reason(
            f"its local factor {text} is 0 at each of the {count} places where {given.name} is not 0 "
            f"(it is 0 at {words.count_of(zero, whole)} places).",
            evidence,
        )
    return Reason(
        f"{given.name} times {text} is not 0, but the sum over what was broadcast is: the elements cancel.", evidence
    )


def _closed(look: Look, forward: Op, of: Value, factors: mx.array, text: str) -> str:
    """What to say about an elementwise op that passes nothing at all."""
    did = words.call(forward)
    units, rows = _units(factors)
    where = f"in {units} of {units} units" if units else ""
    every = f", for every row of the batch ({rows} of {rows})" if rows else ""
    other = [value for value in forward.inputs if value.canonical is not of.canonical]
    if forward.name in ("maximum", "minimum") and len(forward.args) == 2:
        limit = next((arg for arg in forward.args if arg is not of and not _same(arg, of)), 0)
        sign = "≤" if forward.name == "maximum" else "≥"
        against = limit.name if isinstance(limit, Value) else words.operand(limit)
        return f"{did} passes nothing: {of.name} {sign} {against} {where}{every}."
    if forward.name == "multiply" and other:
        return f"{did} passes nothing to {of.name}: the other factor is 0. {zero_value(look, other[0]).text}"
    if forward.name in ("tanh", "sigmoid", "erf"):
        low, high = look.numbers([mx.min(of.array), mx.max(of.array)])
        return (
            f"{did} is saturated: {of.name} is so far out ({words.number(low)} to {words.number(high)}) that "
            f"the curve is "
            f"flat there, and its slope {text} is 0 {where}{every}."
        )
    if forward.name == "clip":
        return f"{did} cuts off every element of {of.name} {where}{every}; where it cuts, it passes nothing."
    if forward.name == "where":
        return f"{did} takes no element from {of.name}: the condition chooses the other side everywhere."
    return f"{did} passes nothing: its local factor {text} is 0 {where}{every}."


def _same(arg: object, value: Value) -> bool:
    return isinstance(arg, Value) and arg.canonical is value.canonical


def _units(array: mx.array) -> tuple[int, int]:
    """The units (the last axis) and rows (all others) of an activation."""
    if array.ndim < 2:
        return (array.size if array.ndim else 1), 0
    return array.shape[-1], array.size // array.shape[-1]


def _product(look: Look, op: Op, forward: Op, of: Value, gradient: Value) -> Reason:
    """A sum of products with the other operand."""
    others = [value for value in dict.fromkeys(forward.inputs) if value.canonical is not of.canonical]
    if forward.name == "addmm" and others and others[0] is forward.args[0]:
        others = others[1:]  # the bias takes no part
    stats = look.stats(others)
    dead = next((value for value in others if stats[value].is_zero), None)
    given = upstream(op)[0]
    if dead is not None:
        zero = zero_value(look, dead)
        text = f"{factor_text(op, of) or dead.name} is 0, because {_because(zero.text)}"
        return Reason(text, _shown(look, [dead, given, gradient]), zero.op)
    text = (
        f"{given.name} and {factor_text(op, of) or 'the local factor'} are not 0, but never at the same "
        f"place, or their products cancel."
    )
    return Reason(text, _shown(look, [*others, given, gradient]))


def _because(text: str) -> str:
    return text[:1] + text[1:]


def _softmax(look: Look, op: Op, forward: Op, gradient: Value) -> Reason:
    axis = forward.kwargs.get("axis", forward.args[1] if len(forward.args) > 1 else None)
    taken = forward.inputs[0]
    length = taken.shape[axis] if isinstance(axis, int) else taken.size
    evidence = _shown(look, [*upstream(op), forward.outputs[0], gradient])
    if length == 1:
        return Reason(
            f"softmax runs over an axis of length 1 (axis {axis} of {tuple(taken.shape)}): every share is 1, "
            f"whatever goes "
            "in. Another axis is probably meant.",
            evidence,
        )
    peak = look.numbers([mx.min(mx.max(forward.outputs[0].array, axis=axis))])[0]
    if peak > 0.9999:
        return Reason("softmax is saturated: in every row one share is 1 and all others are 0, and the curve is "
                      "flat there.",
                      evidence)  # fmt: skip
    return Reason(f"{upstream(op)[0].name} is the same for all elements of a row, and the shares always add up "
                  f"to 1: no "
                  "change of the input can change the loss.", evidence)  # fmt: skip


def _shown(look: Look, values: list[Value]) -> list[Evidence]:
    from nnrepl.explain.links import shown

    return [Evidence(value.name, shown(look, value)) for value in dict.fromkeys(values)]


# -- zeros in the forward pass -----------------------------------------------------------------------------------


def zero_value(look: Look, value: Value) -> Reason:
    """Where the zeros of a forward value began."""
    seen = 0
    while seen < 1000:
        seen += 1
        op = value.op
        if op is None:
            kind = (
                "a parameter that is 0" if isinstance(value, Leaf) and value.kind == "parameter" else "0 as it came in"
            )
            return Reason(f"{value.name} is {kind}.", _shown(look, [value]))
        floats = [taken for taken in dict.fromkeys(op.inputs) if mx.issubdtype(taken.dtype, mx.inexact)]
        stats = look.stats(floats)
        dead = [taken for taken in floats if stats[taken].is_zero]
        if dead and op.name not in ("maximum", "minimum", "where"):
            value = dead[0]
            continue
        return Reason(_made_zero(op, value), _shown(look, [*floats, value]), op)
    return Reason(f"{value.name} is 0.", _shown(look, [value]))


def _made_zero(op: Op, value: Value) -> str:
    where = words.place(op.source)
    at = f" ({op.label}, {where})" if where else f" ({op.label})"
    entry = entry_for(op)
    if op.name == "maximum" and entry is not None:
        other = next((arg for arg in op.args if not isinstance(arg, Value)), 0)
        taken = next((arg for arg in op.args if isinstance(arg, Value)), value)
        units, rows = _units(value.array)
        every = f" in every row of the batch ({rows})" if rows > 1 else ""
        return (
            f"{value.name} = {words.call(op)} is 0 everywhere{at}: {taken.name} ≤ {words.operand(other)} in "
            f"{units} of "
            f"{units} units{every}."
        )
    if op.name in ("zeros", "zeros_like"):
        return f"{value.name} was made as zeros{at}."
    if op.name == "array":
        return f"{value.name} is 0 as the program gave it{at}."
    text = f" = {entry.text}" if entry is not None and entry.kind == ELEMENTWISE else ""
    return f"{value.name} = {words.call(op)}{text and ''} gives 0 everywhere{at}."
