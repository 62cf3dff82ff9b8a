"""Moves: where the numbers of a result came from, read off by moving numbered places in the same way."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.case import Case, Index, Operand
from nnrepl.ops.entry import forwards
from nnrepl.ops.evaluated import Line, ReadNumber
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.numbers import element, number, ravel, unravel

_START = 1 << 20


def origins(case: Case) -> tuple[list[mx.array], list[tuple[int, Operand]]]:
    """Where the numbers of a move came from: every input's elements are numbered, and moved by the op itself.

    Returns the numbers at each place of each output (below the first start: no input's), and from where on each input
    is numbered.
    """
    start = _START
    starts: list[tuple[int, Operand]] = []
    numbered: dict[Operand, mx.array] = {}
    operands = case.operands()
    for taken in operands:
        if mx.issubdtype(taken.dtype, mx.inexact) or len(operands) == 1:
            numbered[taken] = mx.reshape(mx.arange(start, start + taken.size), taken.shape)
            starts.append((start, taken))
            start += taken.size
    if start >= 1 << 31 or case.compute is None:
        return [], []

    def places(taken: Operand) -> mx.array:
        found = numbered.get(taken)
        return taken.array if found is None else found

    return case.compute(places), starts


def forward(case: Case, slot: int, index: Index) -> Line | None:
    """One element of a result: the element that it was."""
    moved, starts = origins(case)
    if not moved:
        return None
    at = moved[slot][index] if index else moved[slot]
    code: Any = at.item()
    left = element(case.y[slot].name, index)
    for start, taken in starts:
        if start <= code < start + taken.size:
            node = taken.node(unravel(code - start, taken.shape))
            return Line(left, node, tuple(_read(case, index)), remark="moved, not changed")
    return Line(left, literal(case.y[slot].at(index)), remark="it comes from no tensor: a filling")


def backward(case: Case, of: Operand, left: str, index: Index) -> Line | None:
    """One element of the gradient of a tensor that was moved: the sum over the places to which it went."""
    moved, starts = origins(case)
    start = next((first for first, taken in starts if taken is of), None)
    if start is None:
        return None
    code = start + ravel(index, of.shape)
    terms: list[Node] = []
    for given, places in zip(case.g, moved):
        if given is not None:
            hits = _places(places, code)
            wanted = [unravel(hit, given.shape) for hit in hits]
            given.want(wanted)
            terms.extend(given.node(place) for place in wanted)
    if not terms:
        return Line(left, literal(0), remark="it was not taken: no gradient comes back")
    return Line(left, terms[0] if len(terms) == 1 else Node("series", tuple(terms), "Σ"))


def _places(moved: mx.array, code: int) -> list[int]:
    flat = moved.flatten()
    count: Any = mx.sum(flat == code).item()
    found: Any = mx.argsort(flat != code)[:count].tolist()
    return sorted(found)


def _read(case: Case, index: Index) -> list[ReadNumber]:
    """Which number of the index named the place: `tokens[0,1] = 4`."""
    name = case.entry.name
    at = case.bound.get("indices", case.bound.get("index"))
    if not isinstance(at, Operand) or at.dtype == mx.bool_:
        return []
    axis = case.bound.get("axis")
    if name == "take_along_axis":
        own = index if axis is not None else ()
    else:
        first = 0 if name == "getitem" or axis is None else axis % len(case.operand("a").shape)
        own = index[first : first + len(at.shape)]
    if len(own) != len(at.shape):
        return []
    rows = name in ("getitem", "take") and len(case.operand("a").shape) == 2 and (name == "getitem" or axis == 0)
    return [ReadNumber(at, own, f"so {'row' if rows else 'number'} {number(at.at(own))} is taken")]


forwards("take", "take_along_axis", "getitem")(forward)
