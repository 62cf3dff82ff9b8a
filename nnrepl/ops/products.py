"""Products: sums of products of matrices and their relatives."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, product
from typing import Any

import mlx.core as mx

from nnrepl.ops.bilinear import backward, bilinear, forward, matrix_gradient, matrix_terms, product_of, sum_of
from nnrepl.ops.case import Case, Index
from nnrepl.ops.entry import PRODUCTS, Slope, backwards, formula, forwards, unbroadcast
from nnrepl.ops.evaluated import Line
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.numbers import element
from nnrepl.ops.traits import Trait


def _matrices(a: mx.array, b: mx.array) -> tuple[mx.array, mx.array]:
    """Vectors as matrices of one row or one column."""
    return a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b


def _cotangent(g: mx.array, a: mx.array, b: mx.array) -> mx.array:
    if a.ndim == 1:
        g = mx.expand_dims(g, -1 if b.ndim == 1 else -2)
    return mx.expand_dims(g, -1) if b.ndim == 1 else g


def _matmul_a(g: mx.array, y: Any, a: mx.array, b: mx.array) -> mx.array:
    left, right = _matrices(a, b)
    return unbroadcast(_cotangent(g, a, b) @ mx.swapaxes(right, -1, -2), left.shape).reshape(a.shape)


def _matmul_b(g: mx.array, y: Any, a: mx.array, b: mx.array) -> mx.array:
    left, right = _matrices(a, b)
    return unbroadcast(mx.swapaxes(left, -1, -2) @ _cotangent(g, a, b), right.shape).reshape(b.shape)


@formula("matmul", "a @ b", "Each number is a row of the left times a column of the right, added up. Backwards: "
         "each side gets what arrives times the other side, transposed.",
         PRODUCTS, {"a": Slope("g @ bᵀ", _matmul_a), "b": Slope("aᵀ @ g", _matmul_b)},
         traits=(Trait.ROWS_BY_COLUMNS, Trait.PRODUCT))  # fmt: skip
def _matmul(a: mx.array, b: mx.array) -> mx.array:
    left, right = _matrices(a, b)
    products = left[..., :, :, None] * right[..., None, :, :]
    y = mx.sum(products, axis=-2)
    y = mx.squeeze(y, -1) if b.ndim == 1 else y
    return mx.squeeze(y, -1 if b.ndim == 1 else -2) if a.ndim == 1 else y


def _addmm_c(g: mx.array, y: Any, c: Any, a: Any, b: Any, alpha: float = 1.0, beta: float = 1.0) -> mx.array:
    return unbroadcast(g * beta, c.shape)


def _addmm_a(g: mx.array, y: Any, c: Any, a: mx.array, b: mx.array, alpha: float = 1.0, beta: float = 1.0) -> mx.array:
    return _matmul_a(g * alpha, y, a, b)


def _addmm_b(g: mx.array, y: Any, c: Any, a: mx.array, b: mx.array, alpha: float = 1.0, beta: float = 1.0) -> mx.array:
    return _matmul_b(g * alpha, y, a, b)


@formula("addmm", "alpha · (a @ b) + beta · c", "A matrix product and a sum in one: a linear layer with its bias.",
         PRODUCTS, {"c": Slope("beta · g", _addmm_c), "a": Slope("alpha · g @ bᵀ", _addmm_a),
                    "b": Slope("alpha · aᵀ @ g", _addmm_b)},
         traits=(Trait.ROWS_BY_COLUMNS, Trait.PRODUCT, Trait.ADDS))  # fmt: skip
def _addmm(c: mx.array, a: mx.array, b: mx.array, alpha: float = 1.0, beta: float = 1.0) -> mx.array:
    product = mx.matmul(a, b)
    product = product if alpha == 1 else alpha * product
    offset = c if beta == 1 else beta * c
    return product + offset


def _scale(value: Any) -> tuple[Node, ...]:
    return () if value == 1 else (literal(value),)


@forwards("matmul")
def _matmul_forward(case: Case, slot: int, index: Index) -> Line | None:
    terms = matrix_terms(case, index)
    return Line(element(case.y[0].name, index), sum_of(terms)) if terms else None


@backwards("matmul")
def _matmul_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    terms = matrix_gradient(case, symbol, index)
    return Line(left, sum_of(terms)) if terms else None


@forwards("addmm")
def _addmm_forward(case: Case, slot: int, index: Index) -> Line | None:
    terms = matrix_terms(case, index, *_scale(case.bound["alpha"]))
    if terms is None:
        return None
    offset = case.operand("c").node(index)
    beta = _scale(case.bound["beta"])
    return Line(element(case.y[0].name, index), sum_of([*terms, product_of(*beta, offset) if beta else offset]))


@backwards("addmm")
def _addmm_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    if symbol == "c":
        return _addmm_offset(case, left, index)
    terms = matrix_gradient(case, symbol, index, *_scale(case.bound["alpha"]))
    return Line(left, sum_of(terms)) if terms else None


def _addmm_offset(case: Case, left: str, index: Index) -> Line | None:
    """Add up what arrives wherever the offset (a bias) was repeated."""
    c, g = case.operand("c"), case.g[0]
    if g is None:
        return None
    extra = len(g.shape) - len(c.shape)
    axes = [
        range(extent) if at < extra or c.shape[at - extra] == 1 else (index[at - extra],)
        for at, extent in enumerate(g.shape)
    ]
    places = list(islice(product(*axes), MOST + 1))
    if len(places) > MOST:
        return None
    g.want(places)
    beta = _scale(case.bound["beta"])
    terms = [product_of(g.node(place), *beta) if beta else g.node(place) for place in places]
    return Line(left, sum_of(terms)) if terms else None


MOST = 4000
"""So many terms are added up at most."""


@formula("inner", "a @ bᵀ", "Rows of the left times rows of the right.", traits=(Trait.PRODUCT,))
def _inner(a: mx.array, b: mx.array) -> mx.array:
    return mx.matmul(a, mx.swapaxes(b, -1, -2)) if b.ndim > 1 else mx.sum(a * b, axis=-1)


@formula(
    "outer", "{a}[i] · {b}[j]", "Every number of the left times every number of the right.", traits=(Trait.PRODUCT,)
)
def _outer(a: mx.array, b: mx.array) -> mx.array:
    return a.flatten()[:, None] * b.flatten()[None]


@formula(
    "tensordot",
    "Σ {a} · {b} over the axes {axes}",
    "Multiplies and adds up along pairs of axes.",
    traits=(Trait.PRODUCT,),
)
def _tensordot(a: mx.array, b: mx.array, axes: Any = 2) -> mx.array:
    if isinstance(axes, int):
        left, right = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    else:
        left, right = [[side] if isinstance(side, int) else list(side) for side in axes]
        left, right = [at % a.ndim for at in left], [at % b.ndim for at in right]
    keep_a = [at for at in range(a.ndim) if at not in left]
    keep_b = [at for at in range(b.ndim) if at not in right]
    rows = mx.transpose(a, keep_a + left)
    columns = mx.transpose(b, right + keep_b)
    count = 1
    for at in left:
        count *= a.shape[at]
    product = mx.reshape(rows, (-1, count)) @ mx.reshape(columns, (count, -1))
    return mx.reshape(product, [a.shape[at] for at in keep_a] + [b.shape[at] for at in keep_b])


@formula("einsum", "{subscripts}: Σ over the letters that are not in the result",
         "Multiplies along named axes, and adds up along those that the result does not have.",
         traits=(Trait.PRODUCT,))  # fmt: skip
def _einsum(subscripts: str, *operands: mx.array) -> mx.array:
    taken, _, result = subscripts.replace(" ", "").partition("->")
    terms = taken.split(",")
    if "->" not in subscripts:
        result = "".join(sorted(letter for letter in set(taken) - {","} if taken.count(letter) == 1))
    if "." in subscripts:
        return mx.einsum(subscripts, *operands)
    letters = list(result) + sorted(set(taken) - set(result) - {","})
    product: Any = 1
    for term, operand in zip(terms, operands):
        product = product * _spread_letters(operand, term, letters)
    extra = list(range(len(result), len(letters)))
    return mx.sum(product, axis=extra) if extra else product


def _spread_letters(operand: mx.array, term: str, letters: list[str]) -> mx.array:
    """Return an operand with an axis for every letter, in order."""
    while len(set(term)) < len(term):
        twice = next(letter for letter in term if term.count(letter) > 1)
        first, second = [at for at, letter in enumerate(term) if letter == twice][:2]
        operand = mx.diagonal(operand, 0, first, second)
        term = "".join(letter for at, letter in enumerate(term) if at not in (first, second)) + twice
    order = sorted(range(len(term)), key=lambda at: letters.index(term[at]))
    operand = mx.transpose(operand, order)
    return mx.expand_dims(operand, [at for at, letter in enumerate(letters) if letter not in term])


@formula("gather_mm", "{a}[{lhs_indices}] @ {b}[{rhs_indices}]",
         "Matrix products of chosen pairs of matrices: each token with the weights of its expert. The gradient of a "
         "matrix that was chosen several times is the sum over its uses.",
         traits=(Trait.PRODUCT, Trait.PICKS))  # fmt: skip
def _gather_mm(
    a: mx.array, b: mx.array, lhs_indices: Any = None, rhs_indices: Any = None, sorted_indices: bool = False
) -> mx.array:
    left, right = chosen(a, lhs_indices), chosen(b, rhs_indices)
    return mx.matmul(left, right)


def chosen(matrices: mx.array, indices: Any) -> mx.array:
    """Return the matrices that the indices name, as if all batch axes were one."""
    if indices is None:
        return matrices
    rows, columns = matrices.shape[-2:]
    flat = mx.reshape(matrices, (-1, rows, columns))
    return mx.take(flat, indices, axis=0)


bilinear("a", "b", "inner", "outer", "tensordot", "gather_mm")


@forwards("einsum")
def _einsum_forward(case: Case, slot: int, index: Index) -> Line | None:
    return forward(_pair(case), "a", "b", slot, index) if len(case.bound["operands"]) == 2 else None


@backwards("einsum")
def _einsum_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    if len(case.bound["operands"]) != 2 or symbol not in ("a", "b"):
        return None
    return backward(_pair(case), symbol, "b" if symbol == "a" else "a", left, index)


def _pair(case: Case) -> Case:
    """Return the two operands of einsum under names of their own."""
    a, b = case.bound["operands"]
    return replace(case, bound={**case.bound, "a": a, "b": b})


@formula("hadamard_transform", "scale · H @ {a}",
         "Multiplies with a matrix of ones and minus ones, whose rows are at right angles.")  # fmt: skip
def _hadamard(a: mx.array, scale: float | None = None) -> mx.array:
    n = a.shape[-1]
    power = n & -n
    if n != power:
        return mx.hadamard_transform(a, scale)
    h = mx.array([[1.0]], a.dtype)
    while h.shape[0] < n:
        h = mx.concatenate([mx.concatenate([h, h], axis=1), mx.concatenate([h, -h], axis=1)], axis=0)
    return mx.matmul(a, h) * (n**-0.5 if scale is None else scale)
