"""Reductions, running totals and order: many numbers become one, or are sorted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import COMPOSITE, FIXED, PRODUCTS, Entry, Slope, enter, formula
from nnrepl.ops.traits import Trait

Axis = int | list[int] | tuple[int, ...] | None


def axes_of(a: mx.array, axis: Axis) -> list[int]:
    """The axes that are meant, counted from 0."""
    wanted = range(a.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    return sorted(at % a.ndim if a.ndim else 0 for at in wanted)


def count_of(a: mx.array, axis: Axis) -> int:
    """How many numbers become one."""
    return math.prod(a.shape[at] for at in axes_of(a, axis)) if a.ndim else 1


def spread(g: mx.array, a: mx.array, axis: Axis, keepdims: bool = False) -> mx.array:
    """A reduced tensor, repeated along the axes that are gone."""
    if not keepdims and a.ndim:
        g = mx.expand_dims(g, axes_of(a, axis))
    return mx.broadcast_to(g, a.shape)


def _sum_slope(g: Any, y: Any, a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    return spread(g, a, axis, keepdims)


@formula("sum", "Σ a", "Adds up. Every number that went in gets the same gradient: that of the sum.", PRODUCTS,
         {"a": Slope("g, repeated", _sum_slope)}, traits=(Trait.REDUCES, Trait.SPREADS))  # fmt: skip
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


def _mean_slope(g: mx.array, y: Any, a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    return spread(g / count_of(a, axis), a, axis, keepdims)


@formula("mean", "1/n · Σ a", "The average. Every number gets an equal share of the gradient: one n-th.", PRODUCTS,
         {"a": Slope("g / n, repeated", _mean_slope)}, traits=(Trait.REDUCES, Trait.SPREADS))  # fmt: skip
def _mean(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    total = mx.sum(a, axis=axis, keepdims=keepdims)
    n = count_of(a, axis)
    return total / n


def _var_slope(g: mx.array, y: Any, a: mx.array, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> mx.array:
    mu = mx.mean(a, axis=axis, keepdims=True)
    return spread(g, a, axis, keepdims) * (2 * (a - mu) / (count_of(a, axis) - ddof))


@formula("var", "1/(n − ddof) · Σ (a − μ)²,  μ = 1/n · Σ a",
         "The mean of the squared distances from the mean.",
         slopes={"a": Slope("g · 2 · (a − μ) / (n − ddof)", _var_slope)}, traits=(Trait.REDUCES,))  # fmt: skip
def _var(a: mx.array, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> mx.array:
    mu = mx.mean(a, axis=axis, keepdims=True)
    distance = a - mu
    squares = mx.square(distance)
    total = mx.sum(squares, axis=axis, keepdims=keepdims)
    n = count_of(a, axis)
    return total / (n - ddof)


def _std_slope(
    g: mx.array, y: mx.array, a: mx.array, axis: Axis = None, keepdims: bool = False, ddof: int = 0
) -> mx.array:
    return _var_slope(g / (2 * y), y, a, axis, keepdims, ddof)


@formula("std", "√(1/(n − ddof) · Σ (a − μ)²)", "The typical distance from the mean: the root of the variance.",
         slopes={"a": Slope("g · (a − μ) / (y · (n − ddof))", _std_slope)}, valid="not all numbers the "
             "same", traits=(Trait.REDUCES,))  # fmt: skip
def _std(a: mx.array, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> mx.array:
    variance = mx.var(a, axis=axis, keepdims=keepdims, ddof=ddof)
    return mx.sqrt(variance)


def _extreme_slope(g: mx.array, y: mx.array, a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    winners = a == spread(y, a, axis, keepdims)
    share = mx.sum(winners, axis=axes_of(a, axis) or None, keepdims=True)
    return spread(g, a, axis, keepdims) / share * winners


def _extreme(name: str, larger: str, keep: Callable[[mx.array, mx.array], mx.array]) -> None:
    def forward(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
        axes = axes_of(a, axis)
        order = mx.transpose(a, [*axes, *(at for at in range(a.ndim) if at not in axes)])
        rows = order.reshape([-1, *order.shape[len(axes) :]])
        best = rows[0]
        for at in range(1, rows.shape[0]):
            best = keep(best, rows[at])
        return mx.expand_dims(best, axes) if keepdims and axes else best

    slope = Slope(f"g · [a is the {larger}] / how many are", _extreme_slope)
    words = f"The {larger} number. Only it gets the gradient; several that are equally {larger} share it."
    enter(Entry(name, f"{name} a", words, forward, {"a": slope}, COMPOSITE,
                traits=frozenset({Trait.REDUCES, Trait.CHOOSES})))  # fmt: skip


# mx.maximum is looked up when it is called, so that `into` can record it.
_extreme("max", "largest", lambda a, b: mx.maximum(a, b))
_extreme("min", "smallest", lambda a, b: mx.minimum(a, b))


def _others(a: mx.array) -> mx.array:
    """Along the last axis, the product of all the others."""
    count = a.shape[-1]
    rows = mx.broadcast_to(a[..., None, :], (*a.shape, count))
    return mx.prod(mx.where(mx.eye(count).astype(mx.bool_), mx.ones_like(rows), rows), axis=-1)


def _prod_slope(g: mx.array, y: Any, a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    axes = axes_of(a, axis)
    order = [*(at for at in range(a.ndim) if at not in axes), *axes]
    turned = mx.transpose(a, order)
    rest = _others(turned.reshape([*turned.shape[: a.ndim - len(axes)], -1])).reshape(turned.shape)
    back = sorted(range(a.ndim), key=order.__getitem__)
    return spread(g, a, axis, keepdims) * mx.transpose(rest, back)


@formula("prod", "Π a", "Multiplies all. Each number's gradient is the product of all the others.",
         slopes={"a": Slope("g · Π of the others", _prod_slope)}, traits=(Trait.REDUCES,))  # fmt: skip
def _prod(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    axes = axes_of(a, axis)
    order = mx.transpose(a, [*axes, *(at for at in range(a.ndim) if at not in axes)])
    rows = order.reshape([-1, *order.shape[len(axes) :]])
    total = rows[0]
    for at in range(1, rows.shape[0]):
        total = total * rows[at]
    return mx.expand_dims(total, axes) if keepdims and axes else total


def _logsumexp_slope(g: mx.array, y: mx.array, a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    return spread(g, a, axis, keepdims) * mx.exp(a - spread(y, a, axis, keepdims))


@formula("logsumexp", "ln Σ exp(a)",
         "A soft maximum: the logarithm of the sum of exponentials. The largest number m is taken out first, so that "
         "no exponential overflows. The gradient is shared out as softmax does.",
         slopes={"a": Slope("g · exp(a − y)", _logsumexp_slope)}, traits=(Trait.REDUCES, Trait.SHARES))  # fmt: skip
def _logsumexp(a: mx.array, axis: Axis = None, keepdims: bool = False) -> mx.array:
    m = mx.stop_gradient(mx.max(a, axis=axis, keepdims=True))
    e = mx.exp(a - m)
    total = mx.sum(e, axis=axis, keepdims=True)
    result = m + mx.log(total)
    axes = axes_of(a, axis)
    return result if keepdims or not axes else mx.squeeze(result, axes)


def _softmax_slope(g: mx.array, y: mx.array, a: mx.array, axis: Axis = None, precise: bool = False) -> mx.array:
    axes = axes_of(a, axis)
    return y * (g - mx.sum(g * y, axis=axes, keepdims=True))


@formula("softmax", "exp(a) / Σ exp(a)",
         "Turns numbers into shares that are positive and add up to 1. The largest number m is taken out first, "
         "so that "
         "no exponential overflows; the shares stay the same.",
         slopes={"a": Slope("y · (g − Σ g · y)", _softmax_slope)}, traits=(Trait.SHARES, Trait.SATURATES))  # fmt: skip
def _softmax(a: mx.array, axis: Axis = None, precise: bool = False) -> mx.array:
    axes = axes_of(a, axis)
    m = mx.stop_gradient(mx.max(a, axis=axes, keepdims=True))
    e = mx.exp(a - m)
    total = mx.sum(e, axis=axes, keepdims=True)
    return e / total


def _norm_slope(
    g: mx.array, y: mx.array, a: mx.array, ord: Any = None, axis: Axis = None, keepdims: bool = False
) -> mx.array:
    return mx.vjp(lambda x: _norm(x, ord, axis, keepdims), [a], [g])[1][0]


@formula("linalg.norm", "√Σ a²", "The length: the root of the sum of squares. At length 0 its slope is 0/0.",
         slopes={"a": Slope("g · a / y", _norm_slope)}, valid="not all numbers 0",
         traits=(Trait.REDUCES,))  # fmt: skip
def _norm(a: mx.array, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> mx.array:
    axes = axes_of(a, axis)
    if ord in (None, 2, 2.0, "f", "fro") and (ord not in (2, 2.0) or len(axes) == 1):
        squares = mx.square(mx.abs(a))
        return mx.sqrt(mx.sum(squares, axis=axes, keepdims=keepdims))
    if ord in (1, 1.0) and len(axes) == 1:
        return mx.sum(mx.abs(a), axis=axes, keepdims=keepdims)
    if ord == float("inf") and len(axes) == 1:
        return mx.max(mx.abs(a), axis=axes, keepdims=keepdims)
    return mx.linalg.norm(a, ord, axes if axis is not None else None, keepdims)


# -- running totals ------------------------------------------------------------------------------------------------


def _along(a: mx.array, axis: int | None) -> tuple[mx.array, int]:
    return (a.flatten(), 0) if axis is None else (a, axis % a.ndim)


def _reach(count: int, reverse: bool, inclusive: bool) -> mx.array:
    """Which inputs (second index) a running total (first index) has seen."""
    i, j = mx.arange(count)[:, None], mx.arange(count)[None]
    if reverse:
        return j >= i if inclusive else j > i
    return j <= i if inclusive else j < i


def _cumsum_slope(
    g: mx.array, y: Any, a: mx.array, axis: int | None = None, reverse: bool = False, inclusive: bool = True
) -> mx.array:
    flat, at = _along(a, axis)
    seen = _reach(flat.shape[at], reverse, inclusive).astype(g.dtype)
    return mx.moveaxis(mx.moveaxis(g, at, -1) @ seen, -1, at).reshape(a.shape)


@formula("cumsum", "a[0] + … + a[i]", "The running total. A number gets the gradients of all totals that it is "
                                      "part of.",
         slopes={"a": Slope("Σ g of the totals that contain it", _cumsum_slope)},
         traits=(Trait.ACCUMULATES,))  # fmt: skip
def _cumsum(a: mx.array, axis: int | None = None, reverse: bool = False, inclusive: bool = True) -> mx.array:
    flat, at = _along(a, axis)
    seen = _reach(flat.shape[at], reverse, inclusive)
    rows = mx.moveaxis(flat, at, -1)
    parts = mx.where(seen, rows[..., None, :], mx.zeros_like(rows[..., None, :]))
    return mx.moveaxis(mx.sum(parts, axis=-1), -1, at)


@formula("cumprod", "a[0] · … · a[i]", "The running product.", traits=(Trait.ACCUMULATES,))
def _cumprod(a: mx.array, axis: int | None = None, reverse: bool = False, inclusive: bool = True) -> mx.array:
    flat, at = _along(a, axis)
    seen = _reach(flat.shape[at], reverse, inclusive)
    rows = mx.moveaxis(flat, at, -1)
    parts = mx.where(seen, rows[..., None, :], mx.ones_like(rows[..., None, :]))
    return mx.moveaxis(mx.prod(parts, axis=-1), -1, at)


# -- order ---------------------------------------------------------------------------------------------------------

for _name, _text, _run, _words in (
    ("argmax", "the place of max a", lambda a, axis=None, keepdims=False: mx.argmin(-1 * a, axis, keepdims),
     "Where the largest number stands. A place has no slope: the gradient ends here."),
    ("argmin", "the place of min a", lambda a, axis=None, keepdims=False: mx.argmax(-1 * a, axis, keepdims),
     "Where the smallest number stands. A place has no slope: the gradient ends here."),
    ("argsort", "the places of a in order", None, "In which order the numbers stand. Places have no slope."),
    ("argpartition", "the places of a, the k smallest first", None,
     "Where the smallest numbers stand, in any order. Places have no slope."),
    ("any", "one of a", lambda a, axis=None, keepdims=False: mx.max(a != 0, axis, keepdims),
     "Whether one of them holds. Yes or no has no slope."),
    ("all", "all of a", lambda a, axis=None, keepdims=False: mx.min(a != 0, axis, keepdims),
     "Whether all of them hold. Yes or no has no slope."),
):  # fmt: skip
    enter(Entry(_name, _text, _words, _run, {}, FIXED, traits=frozenset({Trait.ANSWERS, Trait.REDUCES} if _run else {
        Trait.ANSWERS})))  # fmt: skip


def _picked_slope(places: Any) -> Any:
    """The gradient of numbers that were picked goes back to where they stood."""

    def slope(g: mx.array, y: Any, a: mx.array, *more: Any, axis: Any = -1) -> mx.array:
        at = places(a, *more, axis=axis)
        zeros = mx.zeros(a.shape if axis is not None else (a.size,), a.dtype)
        return mx.put_along_axis(zeros, at, g, -1 if axis is None else axis).reshape(a.shape)

    return slope


def _sort(a: mx.array, axis: int | None = -1) -> mx.array:
    if axis is None:
        a, axis = a.flatten(), 0
    return mx.take_along_axis(a, mx.argsort(a, axis=axis), axis)


def _sort_places(a: mx.array, axis: int | None = -1) -> mx.array:
    return mx.argsort(a.flatten() if axis is None else a, axis=-1 if axis is None else axis)


enter(Entry("sort", "a in order", "The same numbers, the smallest first. Each gradient goes back to where its number "
            "stood.", _sort, {"a": Slope("g, put back in place", lambda g, y, a, axis=-1: _picked_slope(_sort_places)(
                g, y, a, axis=axis))}, COMPOSITE, traits=frozenset({Trait.ARRANGES})))  # fmt: skip


@formula("topk", "the k largest of a", "The largest numbers. Each gradient goes back to where its number stood; the "
         "others get 0.", traits=(Trait.PICKS,))  # fmt: skip
def _topk(a: mx.array, k: int, axis: int | None = -1) -> mx.array:
    if axis is None:
        a, axis = a.flatten(), 0
    places = mx.argpartition(a, -k, axis=axis)
    last = mx.split(places, [a.shape[axis] - k], axis=axis)[1]
    return mx.take_along_axis(a, last, axis)
