"""Fused ops: what a network does often, in one op. Each formula is the op taken apart into textbook ops.

Sources: mlx/fast.cpp (the fallbacks of layer_norm, rms_norm, rope and scaled_dot_product_attention).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import Slope, formula
from nnrepl.ops.traits import Trait


def _slope_of(forward: Any, which: int) -> Any:
    """The gradient of one argument, through the textbook ops that the formula consists of."""

    def run(g: mx.array, y: Any, *args: Any, **kwargs: Any) -> mx.array:
        given = list(args)

        def partly(part: mx.array) -> mx.array:
            given[which] = part
            result: mx.array = forward(*given, **kwargs)
            return result

        return mx.vjp(partly, [args[which]], [g.astype(args[which].dtype)])[1][0]

    return run


def _slope_by_name(forward: Any, name: str) -> Any:
    """The same for an argument that is given by name."""

    def run(g: mx.array, y: Any, *args: Any, **kwargs: Any) -> mx.array:
        part = kwargs[name]
        return mx.vjp(lambda part: forward(*args, **{**kwargs, name: part}), [part], [g])[1][0]

    return run


def _rope(
    x: mx.array, dims: int, *, traditional: bool, base: float | None, scale: float, offset: Any, freqs: Any = None
) -> mx.array:
    length = x.shape[-2]
    start = offset if isinstance(offset, mx.array) else mx.array(offset)
    start = mx.reshape(start, (-1, *[1] * (x.ndim - 2))) if start.ndim else start
    positions = (mx.arange(length, dtype=mx.float32) + start) * scale
    if freqs is None:
        half = dims // 2
        freqs = mx.exp(mx.arange(0, half, dtype=mx.float32) * (mx.log(mx.array(float(base or 1))) / half))
    theta = positions[..., None] / freqs
    cos, sin = mx.cos(theta), mx.sin(theta)
    turned, rest = (x, None) if dims == x.shape[-1] else mx.split(x, [dims], axis=-1)
    if traditional:
        pairs = mx.unflatten(turned, -1, (-1, 2))
        a, b = pairs[..., 0], pairs[..., 1]
    else:
        a, b = mx.split(turned, 2, axis=-1)
    first = a * cos - b * sin
    second = a * sin + b * cos
    result = (
        mx.flatten(mx.stack([first, second], axis=-1), -2) if traditional else mx.concatenate([first, second], axis=-1)
    )
    result = result.astype(x.dtype)
    return result if rest is None else mx.concatenate([result, rest], axis=-1)


formula(
    "fast.rope", "pairs (a, b) turned by θ = position · scale / base^(2k/dims):  (a·cos θ − b·sin θ, a·sin θ + "
                 "b·cos θ)",
    "Turns pairs of numbers by an angle that grows with the position, so that attention can tell how far apart two "
    "positions are. The gradient is turned back by the same angle.",
    slopes={"x": Slope("{g}, turned back by −θ", _slope_of(_rope, 0))},
)(_rope)  # fmt: skip


def _attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Any = None, sinks: Any = None) -> mx.array:
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = mx.repeat(k, groups, axis=1), mx.repeat(v, groups, axis=1)
    scores = mx.matmul(q * scale, mx.swapaxes(k, -1, -2))
    if isinstance(mask, str):
        rows, columns = scores.shape[-2:]
        mask = mx.arange(columns - rows, columns)[:, None] >= mx.arange(columns)[None]
    if mask is not None and mask.dtype == mx.bool_:
        scores = mx.where(mask, scores, mx.array(float("-inf"), scores.dtype))
    elif mask is not None:
        scores = scores + mask
    if sinks is not None:
        extra = mx.broadcast_to(mx.reshape(sinks, (1, -1, 1, 1)), (*scores.shape[:-1], 1))
        scores = mx.concatenate([extra, scores], axis=-1)
    weights = mx.softmax(scores, axis=-1, precise=True)
    if sinks is not None:
        weights = mx.split(weights, [1], axis=-1)[1]
    return mx.matmul(weights, v)


formula(
    "fast.scaled_dot_product_attention", "softmax({scale} · {q} @ {k}ᵀ + {mask}) @ {v}",
    "Each position asks (q) all positions (k) how much they matter, turns the answers into shares that add up "
    "to 1, and "
    "takes the average of what they say (v) by these shares.",
    slopes={"q": Slope("scale · gS @ k,  gS = p · (gP − Σ gP · p), gP = g @ vᵀ, p = "
                       "softmax(…)", _slope_of(_attention, 0)),
            "k": Slope("scale · gSᵀ @ q", _slope_of(_attention, 1)), "v": Slope("pᵀ @ g", _slope_of(_attention, 2)),
            "mask": Slope("gS", _slope_by_name(_attention, "mask")),
            "sinks": Slope("the part of gS at the sinks", _slope_by_name(_attention, "sinks"))},
    traits=(Trait.SHARES, Trait.SATURATES),
)(_attention)  # fmt: skip
