"""Reductions: many numbers along some axes become one, or shares of one."""

from __future__ import annotations

import math

import mlx.core as mx

from nnrepl.ops.entry import COMPOSITE, PRODUCTS, Row
from nnrepl.ops.pointwise import along, pointwise
from nnrepl.ops.traits import Trait

_AXIS = "a, axis=None, keepdims=False"
Axis = int | list[int] | tuple[int, ...] | None

REDUCED = Row(along, reduces=True)
"""A row becomes one number."""
ROWS = Row(along)
"""Each number is seen together with its row."""


def axes_of(a: mx.array, axis: Axis) -> list[int]:
    """Return the axes that are meant, counted from 0."""
    return along({"axis": axis}, a.ndim)


def count_of(a: mx.array, axis: Axis) -> int:
    """How many numbers become one."""
    return math.prod(a.shape[at] for at in axes_of(a, axis)) if a.ndim else 1


def _sum(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    axes = axes_of(a, axis)
    if not axes:
        return a * 1
    ones = mx.ones([count_of(a, axis)], a.dtype if mx.issubdtype(a.dtype, mx.inexact) else mx.float32)
    rest = [at for at in range(a.ndim) if at not in axes]
    rows = mx.transpose(a, [*rest, *axes]).reshape([a.shape[at] for at in rest] + [-1])
    total = (rows.astype(ones.dtype)[..., None, :] @ ones[:, None])[..., 0, 0]
    whole = a.dtype if a.dtype != mx.bool_ else mx.int32
    total = total if mx.issubdtype(a.dtype, mx.inexact) else mx.round(total).astype(whole)
    return mx.expand_dims(total, axes) if keepdims else total


pointwise(
    "sum", "Σ a", {"a": "g"}, "Adds up. Backwards: every number that went in gets the same gradient, that of the sum.",
    parameters=_AXIS, row=REDUCED, kind=PRODUCTS, traits=(Trait.TOTALS, Trait.REDUCES, Trait.SPREADS), forward=_sum,
)  # fmt: skip


def _mean(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    total = mx.sum(a, axis=axis, keepdims=keepdims)
    n = count_of(a, axis)
    return total / n


pointwise(
    "mean", "1/n · Σ a", {"a": "g / n"},
    "The average. Backwards: every number gets an equal share of the gradient, one n-th.",
    parameters=_AXIS, row=REDUCED, kind=PRODUCTS, traits=(Trait.AVERAGES, Trait.REDUCES, Trait.SPREADS), forward=_mean,
)  # fmt: skip


def _var(a: mx.array, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> mx.array:
    mu = mx.mean(a, axis=axis, keepdims=True)
    distance = a - mu
    squares = mx.square(distance)
    total = mx.sum(squares, axis=axis, keepdims=keepdims)
    n = count_of(a, axis)
    return total / (n - ddof)


pointwise(
    "var", "1 / (n − ddof) · Σ (a − μ)²,  μ = mean a", {"a": "g · 2 · (a − μ) / (n − ddof),  μ = mean a"},
    "The mean of the squared distances from the mean. Backwards: the gradient of a number is its own distance, "
    "doubled: moving "
    "the mean along changes nothing, because the distances add up to 0.",
    parameters=f"{_AXIS}, ddof=0", row=REDUCED, kind=COMPOSITE, traits=(Trait.REDUCES,), forward=_var,
)  # fmt: skip


def _std(a: mx.array, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> mx.array:
    variance = mx.var(a, axis=axis, keepdims=keepdims, ddof=ddof)
    return mx.sqrt(variance)


pointwise(
    "std", "√(1 / (n − ddof) · Σ (a − μ)²),  μ = mean a", {"a": "g · (a − μ) / (y · (n − ddof)),  μ = mean a"},
    "The typical distance from the mean: the root of the variance.",
    parameters=f"{_AXIS}, ddof=0", row=REDUCED, kind=COMPOSITE, valid="not all numbers the same",
    traits=(Trait.REDUCES,), forward=_std,
)  # fmt: skip


def _extreme(name: str, larger: str, *traits: Trait) -> None:
    def forward(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
        axes = axes_of(a, axis)
        order = mx.transpose(a, [*axes, *(at for at in range(a.ndim) if at not in axes)])
        rows = order.reshape([-1, *order.shape[len(axes) :]])
        best = rows[0]
        for at in range(1, rows.shape[0]):
            # Looked up when it is called, so that `into` can record it.
            best = mx.maximum(best, rows[at]) if name == "max" else mx.minimum(best, rows[at])
        return mx.expand_dims(best, axes) if keepdims and axes else best

    pointwise(
        name, f"{name} a", {"a": "g · [a = y] / Σ [a = y]"},
        f"The {larger} number. Backwards: only it gets the gradient; several that are equal share it.",
        parameters=_AXIS, row=REDUCED, kind=COMPOSITE, traits=(*traits, Trait.REDUCES, Trait.CHOOSES, Trait.SWALLOWS),
        forward=forward,
    )  # fmt: skip


_extreme("max", "largest", Trait.LARGEST)
_extreme("min", "smallest", Trait.SMALLEST)


def _prod(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    axes = axes_of(a, axis)
    order = mx.transpose(a, [*axes, *(at for at in range(a.ndim) if at not in axes)])
    rows = order.reshape([-1, *order.shape[len(axes) :]])
    total = rows[0]
    for at in range(1, rows.shape[0]):
        total = total * rows[at]
    return mx.expand_dims(total, axes) if keepdims and axes else total


pointwise(
    "prod", "Π a", {"a": "g · Π other a"}, "Multiplies all. Backwards: each number's gradient is the product of "
    "all the others.",
    parameters=_AXIS, row=REDUCED, kind=COMPOSITE, traits=(Trait.REDUCES,), forward=_prod,
)  # fmt: skip


def _logsumexp(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    m = mx.stop_gradient(mx.max(a, axis=axis, keepdims=True))
    e = mx.exp(a - m)
    total = mx.sum(e, axis=axis, keepdims=True)
    result = m + mx.log(total)
    axes = axes_of(a, axis)
    return result if keepdims or not axes else mx.squeeze(result, axes)


pointwise(
    "logsumexp", "m + ln(Σ exp(a − m)),  m = max a", {"a": "g · exp(a − y)"},
    "A soft maximum, ln(Σ exp({a})): the logarithm of the sum of exponentials. The largest number {m} is taken out "
    "first, so that no exponential overflows. Backwards: the gradient is shared out as softmax does: exp({a} − {y}) "
    "are the shares.",
    parameters=_AXIS, row=REDUCED, kind=COMPOSITE, traits=(Trait.LOG_SUM, Trait.REDUCES, Trait.SHARES, Trait.SWALLOWS),
    forward=_logsumexp,
)  # fmt: skip


def _softmax(a: mx.array, axis: Axis = None, precise: bool = False) -> mx.array:
    axes = axes_of(a, axis)
    m = mx.stop_gradient(mx.max(a, axis=axes, keepdims=True))
    e = mx.exp(a - m)
    total = mx.sum(e, axis=axes, keepdims=True)
    return e / total


pointwise(
    "softmax", "exp(a − m) / Σ exp(a − m),  m = max a", {"a": "y · (g − Σ g · y)"},
    "Turns numbers into shares that are positive and add up to 1. The largest number {m} is taken out first, so that "
    "no exponential overflows; the shares stay the same. Backwards: a share grows only as far as its gradient beats "
    "the average gradient (the Σ), in which each counts by its share.",
    parameters="a, axis=None, precise=False", row=ROWS, kind=COMPOSITE,
    traits=(Trait.DISTRIBUTES, Trait.SHARES, Trait.SATURATES, Trait.SWALLOWS), forward=_softmax,
)  # fmt: skip
