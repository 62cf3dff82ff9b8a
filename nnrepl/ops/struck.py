"""Struck: the arithmetic of `x.at[i].add(v)` and its kin: which numbers of v meet an element is read off by letting
each of them leave a 1 at its place."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.case import Case, Index, Operand
from nnrepl.ops.entry import backwards, forwards
from nnrepl.ops.evaluated import Line
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.numbers import element, unravel


def _filled(given: Any) -> Any:
    """Return an index with the numbers of its tensors."""
    if isinstance(given, Operand):
        return given.array
    return tuple(map(_filled, given)) if isinstance(given, (list, tuple)) else given


def _put(case: Case, value: mx.array) -> mx.array:
    result: mx.array = mx.zeros(case.operand("a").shape).at[_filled(case.bound["index"])].add(value)
    return result


def _value(case: Case) -> Operand | None:
    given = case.bound["value"]
    return given if isinstance(given, Operand) else None


def _met(case: Case, index: Index) -> list[Node]:
    """Return the numbers that are put where an element is, each as often as it is."""
    value = _value(case)
    one = mx.zeros(case.operand("a").shape)
    one[index] = 1
    ones = mx.ones(() if value is None else value.shape)
    counts: Any = mx.vjp(lambda array: _put(case, array), [ones], [one])[1][0].flatten().tolist()
    if value is None:
        return [literal(case.bound["value"])] * int(counts[0])
    hits = [unravel(at, value.shape) for at, count in enumerate(counts) for _ in range(int(count))]
    value.want(hits)
    return [value.node(place) for place in hits]


@forwards("at.add", "at.subtract", "at.multiply", "at.divide", "at.maximum", "at.minimum")
def _forward(case: Case, slot: int, index: Index) -> Line | None:
    a, how = case.operand("a"), case.entry.name
    met, left = _met(case, index), element(case.y[slot].name, index)
    if not met:
        return Line(left, a.node(index), remark="nothing is put there")
    parts = (a.node(index), *met)
    if how in ("at.maximum", "at.minimum"):
        return Line(left, Node("series", parts, how[3:6]))
    kind = "sum" if how in ("at.add", "at.subtract") else "product"
    sign = {"at.add": "+", "at.subtract": "−", "at.multiply": "·", "at.divide": "/"}[how]
    first = "+" if kind == "sum" else "·"
    return Line(left, Node(kind, parts, first + sign * len(met)))


@backwards("at.add", "at.subtract", "at.multiply", "at.divide")
def _backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    given, value, how = case.g[0], _value(case), case.entry.name
    if given is None:
        return None
    if symbol == "a":
        met = _met(case, index) if how in ("at.multiply", "at.divide") else []
        sign = "·" if how == "at.multiply" else "/"
        node = Node("product", (given.node(index), *met), "·" + sign * len(met)) if met else given.node(index)
        return Line(left, node)
    if value is None or how not in ("at.add", "at.subtract"):
        return None
    mine = mx.zeros(value.shape)
    mine[index] = 1
    counts: Any = _put(case, mine).flatten().tolist()
    places = [unravel(at, given.shape) for at, count in enumerate(counts) for _ in range(int(count))]
    if not places:
        return Line(left, literal(0), remark="it was put nowhere")
    given.want(places)
    terms = tuple(given.node(place) for place in places)
    total = terms[0] if len(terms) == 1 else Node("series", terms, "Σ")
    return Line(left, total if how == "at.add" else Node("negative", (total,)))
