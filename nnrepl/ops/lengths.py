"""Lengths: the norms of vectors and matrices. Which one is meant, `ord` says; each has a formula of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx

from nnrepl.ops.bilinear import sum_of
from nnrepl.ops.case import Case, Index
from nnrepl.ops.entry import COMPOSITE, WHOLE, Entry, Slope, enter, variants
from nnrepl.ops.evaluated import Line
from nnrepl.ops.expression import Node, quantity
from nnrepl.ops.numbers import element
from nnrepl.ops.pointwise import along, described
from nnrepl.ops.reductions import REDUCED
from nnrepl.ops.traits import Trait

_PARAMETERS = "a, ord=None, axis=None, keepdims=False"
_INF = float("inf")
_NAMES = ("linalg.norm", "matrix_norm")
"""Two names of one function."""


def _norm(a: mx.array, ord: Any = None, axis: Any = None, keepdims: bool = False) -> mx.array:
    return mx.linalg.norm(a, ord, axis, keepdims)


def _length(text: str, slope: str, words: str, valid: str = "", forward: Any = None) -> Entry:
    return described(
        "linalg.norm", text, {"a": slope} if slope else {}, words, parameters=_PARAMETERS, row=REDUCED, kind=COMPOSITE,
        valid=valid, traits=(Trait.REDUCES,), forward=forward,
    )  # fmt: skip


def _root_of_squares(a: mx.array, ord: Any = None, axis: Any = None, keepdims: bool = False) -> mx.array:
    squares = mx.square(mx.abs(a))
    return mx.sqrt(mx.sum(squares, axis=along({"axis": axis}, a.ndim), keepdims=keepdims))


_USUAL = _length(
    "√(Σ |a|²)", "g · a / y", "The length: the root of the sum of squares. At length 0 its slope is 0/0.",
    "not all numbers 0", _root_of_squares,
)  # fmt: skip
for _name in _NAMES:
    enter(replace(_USUAL, name=_name))


def _not_zero(a: mx.array, ord: Any = None, axis: Any = None, keepdims: bool = False) -> mx.array:
    return mx.sum((a != 0).astype(a.dtype), axis=along({"axis": axis}, a.ndim), keepdims=keepdims)


_OF_VECTORS = {
    1.0: _length("Σ |a|", "g · sign(a)", "The sum of the sizes: the way along the axes of a grid."),
    _INF: _length(
        "max |a|", "g · sign(a) · [|a| = y] / Σ [|a| = y]", "The largest size. Backwards: only it gets the gradient."
    ),
    -_INF: _length(
        "min |a|", "g · sign(a) · [|a| = y] / Σ [|a| = y]", "The smallest size. Backwards: only it gets the gradient."
    ),
    0.0: _length("Σ [a ≠ 0]", "", "How many numbers are not 0. It has no slope.", forward=_not_zero),
}
_OF_POWERS = _length(
    "(Σ |a|^ord)^(1 / ord)", "g · sign(a) · (|a| / y)^(ord − 1)", "The length by powers of {ord} instead of squares."
)


def _sum_of_one(case: Case, slot: int, index: Index) -> Line | None:
    """Return the sizes of the row or column that counts."""
    a, order = case.operand("a"), float(case.bound["ord"])
    rank = len(a.shape)
    axes = along(case.bound, rank)
    # `axis=(1, 0)` exchanges what rows and columns are.
    given = case.bound["axis"]
    rows, columns = [at % rank for at in given] if isinstance(given, (list, tuple)) else axes
    added, kept = (rows, columns) if abs(order) == 1.0 else (columns, rows)
    outer = list(index) if case.bound["keepdims"] else _widened(index, axes, rank)

    def places(at: int) -> list[Index]:
        found = []
        for step in range(a.shape[added]):
            place = list(outer)
            place[added], place[kept] = step, at
            found.append(tuple(place))
        return found

    every = [places(at) for at in range(a.shape[kept])]
    a.want([place for one in every for place in one])
    sums = [sum(abs(a.at(place)) for place in one) for one in every]
    at = sums.index(max(sums) if order > 0 else min(sums))
    terms = [Node("abs", (a.node(place),)) for place in every[at]]
    what = ("column" if abs(order) == 1.0 else "row") + f" {at}"
    which = "largest" if order > 0 else "smallest"
    return Line(element(case.y[slot].name, index), sum_of(terms), remark=f"{what} has the {which} sum")


def _widened(index: Index, axes: list[int], rank: int) -> list[int]:
    """Return an element of the result as a place of what went in."""
    rest = iter(index)
    return [0 if at in axes else next(rest) for at in range(rank)]


def _of_matrix(text: str, words: str) -> Entry:
    def slope(g: mx.array, y: mx.array, a: mx.array, *given: Any, **options: Any) -> mx.array:
        found: mx.array = mx.vjp(lambda x: _norm(x, *given, **options), [a], [g])[1][0]
        return found

    slopes = {"a": Slope("{g} times the sign of each number that counts", slope)}
    return Entry("linalg.norm", text, words, _norm, slopes, WHOLE, traits=frozenset({Trait.REDUCES}),
                 forwards=_sum_of_one)  # fmt: skip


_SUMS = "Adds up the sizes of each {0}, and takes the {1} of these sums."
_OF_MATRICES = {
    1.0: _of_matrix("the largest Σ |{a}| of a column", _SUMS.format("column", "largest")),
    -1.0: _of_matrix("the smallest Σ |{a}| of a column", _SUMS.format("column", "smallest")),
    _INF: _of_matrix("the largest Σ |{a}| of a row", _SUMS.format("row", "largest")),
    -_INF: _of_matrix("the smallest Σ |{a}| of a row", _SUMS.format("row", "smallest")),
}


def _of_singular_values(case: Case, slot: int, index: Index) -> Line | None:
    """Return the singular values that count, which MLX computes by itself."""
    a, order = case.operand("a"), case.bound["ord"]
    if len(a.shape) != 2:
        return None
    found: Any = mx.linalg.svd(a.array.astype(mx.float32), compute_uv=False, stream=mx.cpu)
    values = found.tolist()
    nodes = [quantity(f"s{at + 1}", value, 1e-5 * max(values)) for at, value in enumerate(values)]
    node = sum_of(nodes) if order == "nuc" else nodes[0] if float(order) > 0 else nodes[-1]
    return Line(element(case.y[slot].name, index), node, epsilon=1e-5, remark=f"the singular values of {a.name}")


_WORDS = "How much the matrix stretches: linalg.svd shows its singular values. MLX has no gradient of them."
_BY_SINGULAR_VALUES: dict[float | str, Entry] = {
    order: Entry("linalg.norm", f"the {which} of {{a}}", _WORDS, _norm, {}, WHOLE, traits=frozenset({Trait.REDUCES}),
                 forwards=_of_singular_values)
    for order, which in ((2.0, "largest singular value"), (-2.0, "smallest singular value"),
                         ("nuc", "sum of the singular values"))
}  # fmt: skip
_OTHERS = (*_OF_VECTORS.values(), _OF_POWERS, *_OF_MATRICES.values(), *_BY_SINGULAR_VALUES.values())


def _kind(bound: Mapping[str, Any]) -> Entry:
    """Return the entry that belongs to `ord` and to whether vectors or matrices are measured."""
    kind = bound["ord"]
    axes = along(bound, len(bound["a"].shape))
    order = float(kind) if isinstance(kind, (int, float)) else kind
    if order in (None, "f", "fro") or (order == 2.0 and len(axes) == 1):
        return _USUAL
    if len(axes) == 1:
        return _OF_VECTORS.get(order, _OF_POWERS)
    return _OF_MATRICES[order] if order in _OF_MATRICES else _BY_SINGULAR_VALUES[order]


for _name in _NAMES:
    variants(_name, _OTHERS if _name == _NAMES[0] else ())(_kind)
