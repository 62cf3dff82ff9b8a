"""Sizes: the sums that a backward op makes, were none of their terms negative. Beside them one sees what cancels."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.explain.known import filled
from nnrepl.explain.local import factor_array
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.ops import Trait, has
from nnrepl.ops.entry import unbroadcast
from nnrepl.tape import Op, Value


def sizes(look: Look, op: Op, value: Value, wide: bool = False) -> mx.array | None:
    """Return the sums that a VJP makes, of the absolute values of their terms; None where that is not known.

    Args:
        wide: Compute the sums of a product in float64.
    """
    forward, of = op.of, value.gradient_of
    if forward is None or of is None or rule_of(op) is None:
        return None
    look.see(op.inputs)
    given = upstream(op)[0]
    factors = factor_array(op, of, look)
    if factors is not None:
        return unbroadcast(mx.abs(given.array * factors), value.shape) if given.shape != value.shape else None
    if has(forward.name, Trait.DISTRIBUTES) and given.shape == value.shape:
        axis = forward.kwargs.get("axis", forward.args[1] if len(forward.args) > 1 else None)
        return _of_shares(look.array(forward.outputs[0]), mx.abs(given.array), axis)
    if has(forward.name, Trait.ATTENDS):
        return _of_attention(look, forward, of, given)
    if has(forward.name, Trait.PRODUCT):
        absolute = _absolute(op, mx.float64 if wide else None)
        return absolute[value.slot if value.slot < len(absolute) else 0]
    return None


def _absolute(op: Op, kind: mx.Dtype | None) -> list[mx.array]:
    def without_signs(taken: Value) -> mx.array:
        if not mx.issubdtype(taken.dtype, mx.inexact):
            return taken.array
        return mx.abs(taken.array) if kind is None else mx.abs(taken.array).astype(kind)

    if kind is None:
        return op.compute(without_signs)
    with mx.stream(mx.cpu):
        return op.compute(without_signs)


def _of_shares(shares: mx.array, g: mx.array, axis: int | None) -> mx.array:
    """Of y · (g − Σ g·y), for what is not negative."""
    return shares * (g + mx.sum(g * shares, axis=axis, keepdims=True))


def _of_attention(look: Look, forward: Op, of: Value, given: Value) -> mx.array | None:
    """Of the queries' and the keys' gradients, which come through the shares: gS = p · (gP − Σ gP·p), gP = g @ vᵀ."""
    shares = attended(look, forward)
    asked = next((at for at in (0, 1) if _is(forward.args[at], of)), None)
    if shares is None or asked is None:
        return None
    other, v = forward.args[1 - asked], forward.args[2]
    queries = shares.shape[1]
    scale = abs(float(forward.kwargs.get("scale", 1.0)))

    def repeated(taken: Value) -> mx.array:
        array = mx.abs(look.array(taken).astype(mx.float32))
        return mx.repeat(array, queries // array.shape[1], axis=1)

    g = mx.abs(given.array.astype(mx.float32)) @ mx.swapaxes(repeated(v), -1, -2)
    scores = _of_shares(shares.astype(mx.float32), g, -1) * scale
    found = (scores if asked == 0 else mx.swapaxes(scores, -1, -2)) @ repeated(other)
    batch, heads, length, width = of.shape
    return found.reshape(batch, heads, -1, length, width).sum(axis=2)


def _is(arg: object, value: Value) -> bool:
    return isinstance(arg, Value) and arg.canonical is value.canonical


def attended(look: Look, forward: Op) -> mx.array | None:
    """Return the shares of an attention, by asking it about values that are the unit vectors; None where it refuses."""
    if len(forward.args) < 3 or not all(isinstance(arg, Value) for arg in forward.args[:3]):
        return None
    keys: Value = forward.args[1]
    values: Value = forward.args[2]
    length = keys.shape[-2]
    units = mx.broadcast_to(mx.eye(length, dtype=values.dtype), (*values.shape[:-2], length, length))
    look.see(forward.inputs)
    args, kwargs = filled(forward, lambda taken: taken.array)
    args[2] = units
    try:
        shares: mx.array = forward.operation.run(*args, **kwargs)
    except (ValueError, RuntimeError):
        return None
    return shares
