"""Running totals: each result is made of all numbers up to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import mlx.core as mx

from nnrepl.ops.case import Case, Index
from nnrepl.ops.entry import COMPOSITE, Row, Run, backwards, reworded
from nnrepl.ops.evaluated import Line
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.pointwise import pointwise
from nnrepl.ops.traits import Trait


def _axis(bound: Mapping[str, Any], rank: int) -> list[int]:
    axis = bound.get("axis")
    return [(axis or 0) % rank] if rank else []


RUNNING = Row(_axis, running=True)
"""Each number is seen together with those before it."""


def _reach(count: int, reverse: bool, inclusive: bool) -> mx.array:
    """Which inputs (second index) a running total (first index) has seen."""
    i, j = mx.arange(count)[:, None], mx.arange(count)[None]
    if reverse:
        return j >= i if inclusive else j > i
    return j <= i if inclusive else j < i


def _scan(combine: Run, empty: float) -> Run:
    """Return a running total taken apart: every total is computed from all that it has seen."""

    def forward(a: mx.array, axis: int | None = None, reverse: bool = False, inclusive: bool = True) -> mx.array:
        flat, at = (a.flatten(), 0) if axis is None else (a, axis % a.ndim)
        seen = _reach(flat.shape[at], reverse, inclusive)
        rows = mx.moveaxis(flat, at, -1)
        parts = mx.where(seen, rows[..., None, :], mx.full(rows[..., None, :].shape, empty, rows.dtype))
        return mx.moveaxis(combine(parts), -1, at)

    return forward


def _running(name: str, text: str, slopes: dict[str, str], words: str, combine: Run, empty: float) -> None:
    """Enter a running total. `words` has {up} for which numbers it goes over, which depends on the options."""
    pointwise(
        name, text, slopes, words.format(up="up to it"), parameters="a, axis=None, reverse=False, inclusive=True",
        row=RUNNING, kind=COMPOSITE, traits=(Trait.ACCUMULATES,), forward=_scan(combine, empty),
    )  # fmt: skip
    for (reverse, inclusive), up in (((0, 0), "before it"), ((1, 1), "from it on"), ((1, 0), "after it")):
        reworded(name, partial(_goes, reverse, inclusive), words=words.format(up=up))


def _goes(reverse: int, inclusive: int, bound: Mapping[str, Any]) -> bool:
    """Whether a running total goes this way."""
    return (bool(bound["reverse"]), bool(bound["inclusive"])) == (bool(reverse), bool(inclusive))


_running("cumsum", "Σ a", {"a": "Σ g"},
         "The running total: each place gets the sum of the numbers {up}. Backwards: a number gets the "
         "gradients of all totals "
         "that it is part of.", lambda parts: mx.sum(parts, axis=-1), 0)  # fmt: skip
_running("cumprod", "Π a", {"a": "1 / a · Σ g · y"},
         "The running product: each place gets the product of the numbers {up}. Backwards: a number's gradient "
         "comes from all "
         "products that it is part of, each without the number itself.", lambda parts: mx.prod(parts, axis=-1),
         1)  # fmt: skip
_running("cummax", "max a", {}, "Each place gets the largest of the numbers {up}. Backwards: each gradient goes "
         "to the number "
         "that it was.", lambda parts: mx.max(parts, axis=-1), float("-inf"))  # fmt: skip
_running("cummin", "min a", {}, "Each place gets the smallest of the numbers {up}. Backwards: each gradient "
         "goes to the number "
         "that it was.", lambda parts: mx.min(parts, axis=-1), float("inf"))  # fmt: skip
_running("logcumsumexp", "ln(Σ exp(a))", {"a": "exp(a) · Σ g / exp(y)"},
         "The running soft maximum: Σ goes over the numbers {up}.",
         lambda parts: mx.logsumexp(parts, axis=-1), float("-inf"))  # fmt: skip


@backwards("cummax", "cummin")
def _newest_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    """Return a number gets the gradients of all places for which it was the newest largest one."""
    a, y, given = case.operand("a"), case.y[0], case.g[0]
    bound, axis = case.bound, case.bound.get("axis")
    if given is None or axis is None or not bound["inclusive"]:
        return None
    at = axis % len(a.shape)
    row = [(*index[:at], step, *index[at + 1 :]) for step in range(a.shape[at])]
    if bound["reverse"]:
        row.reverse()
    own_place = row.index(index)
    for operand in (a, y, given):
        operand.want(row)
    own = a.at(index)
    terms = []
    for step, place in enumerate(row[own_place:]):
        newer = any(a.at(other) == own for other in row[own_place + 1 : own_place + step + 1])
        if y.at(place) == own and not newer:
            terms.append(given.node(place))
    if not terms:
        return Line(left, literal(0), remark="another number was taken at every place")
    return Line(left, terms[0] if len(terms) == 1 else Node("series", tuple(terms), "Σ"))
