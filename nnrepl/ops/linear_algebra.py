"""Linear algebra: sums along diagonals, products of vectors, determinants, inverses and factors of matrices.

Source of the gradients: Giles 2008, "An extended collection of matrix derivative results".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from nnrepl.ops.bilinear import bilinear, product_of, sum_of
from nnrepl.ops.case import Case, Index, Operand
from nnrepl.ops.entry import Run, Slope, backwards, forwards, reworded
from nnrepl.ops.evaluated import Line
from nnrepl.ops.expression import Node, quantity
from nnrepl.ops.linear import linear
from nnrepl.ops.numbers import element
from nnrepl.ops.pointwise import whole
from nnrepl.ops.traits import Trait

whole("trace", "a, offset=0, axis1=0, axis2=1, dtype=None", "Σ {a}[i, i + {offset}]",
      "Adds up the diagonal. Backwards: each number on it gets the whole gradient, all others none.",
      lambda *a, **k: mx.trace(*a, **k), traits=(Trait.REDUCES, Trait.PICKS))  # fmt: skip
whole("diff", "a, n=1, axis=-1", "{a}[i+1] − {a}[i], {n} time(s) along axis {axis}",
      "Each number less the one before it.", lambda *a, **k: mx.diff(*a, **k))  # fmt: skip
whole("kron", "a, b", "every number of {a} times the whole of {b}", "Kronecker's product: a grid of copies of {b}, "
      "each multiplied by one number of {a}.", lambda *a, **k: mx.kron(*a, **k), traits=(Trait.PRODUCT,))  # fmt: skip
whole("vecdot", "a, b, axis=-1", "Σ {a} · {b} along axis {axis}", "Multiplies pair by pair, and adds up.",
      lambda *a, **k: mx.vecdot(*a, **k), traits=(Trait.PRODUCT, Trait.REDUCES))  # fmt: skip
whole("linalg.cross", "a, b, axis=-1", "{a} × {b}", "The cross product: at right angles to both, as long as the area "
      "between them.", lambda *a, **k: mx.linalg.cross(*a, **k), traits=(Trait.PRODUCT,))  # fmt: skip
whole("convolve", "a, v, mode='full'", "Σ {a}[i] · {v}[n − i]", "One row slides over the other, turned round; at each "
      "place what lies over each other is multiplied and added up.", lambda *a, **k: mx.convolve(*a, **k),
      traits=(Trait.PRODUCT,))  # fmt: skip
whole("block_masked_mm", "a, b, block_size=64, mask_out=None, mask_lhs=None, mask_rhs=None",
      "{a} @ {b}, block by block",
      "A matrix product in which whole blocks can be left out.", lambda *a, **k: mx.block_masked_mm(*a, **k),
      traits=(Trait.PRODUCT,))  # fmt: skip
whole("segmented_mm", "a, b, segments", "{a} @ {b}, over each segment of the inner axis by itself",
      "Matrix products of parts of two matrices.", lambda *a, **k: mx.segmented_mm(*a, **k),
      traits=(Trait.PRODUCT,))  # fmt: skip

linear("a", "trace", "diff")
bilinear("a", "b", "kron", "vecdot", "linalg.cross")
bilinear("a", "v", "convolve")


# -- determinant and inverse -------------------------------------------------------------------------------------------


def _matrix(name: str, text: str, words: str, run: Run, slopes: dict[str, Slope] | None = None, valid: str = "",
            parameters: str = "a") -> None:  # fmt: skip
    whole(name, parameters, text, words, run, slopes, valid)


def _transposed(a: mx.array) -> mx.array:
    return mx.swapaxes(a, -1, -2)


def _det_slope(g: mx.array, y: mx.array, a: mx.array) -> mx.array:
    return (g * y)[..., None, None] * _transposed(mx.linalg.inv(a, stream=mx.cpu))


def _inv_slope(g: mx.array, y: mx.array, a: mx.array) -> mx.array:
    return -(_transposed(y) @ g @ _transposed(y))


def _solve_b(g: mx.array, y: mx.array, a: mx.array, b: mx.array) -> mx.array:
    return mx.linalg.solve(_transposed(a), g, stream=mx.cpu)


def _solve_a(g: mx.array, y: mx.array, a: mx.array, b: mx.array) -> mx.array:
    through = _solve_b(g, y, a, b)
    if b.ndim == 1:
        return -(through[:, None] @ y[None])
    return -(through @ _transposed(y))


_matrix("linalg.det", "det {a}", "The determinant: by how much the matrix stretches volumes. It is 0 where the matrix "
        "has no inverse.", lambda a: mx.linalg.det(a), {"a": Slope("{g} · {y} · ({a}⁻¹)ᵀ", _det_slope)})  # fmt: skip
_matrix("linalg.slogdet", "sign and ln |det {a}|", "The determinant as a sign and a logarithm, which does not "
        "overflow.",
        lambda a: mx.linalg.slogdet(a))  # fmt: skip
_matrix("linalg.inv", "{a}⁻¹, the matrix with {a} @ {a}⁻¹ = 1", "The inverse: it undoes what the matrix does.",
        lambda a: mx.linalg.inv(a), {"a": Slope("−{y}ᵀ @ {g} @ {y}ᵀ", _inv_slope)}, valid="det ≠ 0")  # fmt: skip
_matrix("linalg.tri_inv", "{a}⁻¹", "The inverse of a triangular matrix.",
        lambda a, upper=False: mx.linalg.tri_inv(a, upper), parameters="a, upper=False")  # fmt: skip
_matrix("linalg.pinv", "the pseudo-inverse of {a}", "The inverse as far as there is one: the best solution in the "
        "sense of least squares.", lambda a: mx.linalg.pinv(a))  # fmt: skip
_matrix("linalg.solve", "{a}⁻¹ @ {b}, the y with {a} @ y = {b}", "Solves a system of linear equations.",
        lambda a, b: mx.linalg.solve(a, b), {"a": Slope("−({a}⁻ᵀ @ {g}) @ {y}ᵀ", _solve_a),
                                             "b": Slope("{a}⁻ᵀ @ {g}", _solve_b)},
        valid="det ≠ 0", parameters="a, b")  # fmt: skip
_matrix("linalg.solve_triangular", "the y with {a} @ y = {b}", "Solves a triangular system, one row after the other.",
        lambda a, b, upper=False: mx.linalg.solve_triangular(a, b, upper=upper),
        parameters="a, b, upper=False")  # fmt: skip
_matrix("linalg.cholesky", "L, triangular, with L @ Lᵀ = {a}", "The root of a symmetric positive matrix.",
        lambda a, upper=False: mx.linalg.cholesky(a, upper), valid="symmetric and positive",
        parameters="a, upper=False")  # fmt: skip
_matrix("linalg.cholesky_inv", "({a} @ {a}ᵀ)⁻¹", "The inverse of a matrix, from its Cholesky factor.",
        lambda a, upper=False: mx.linalg.cholesky_inv(a, upper), parameters="a, upper=False")  # fmt: skip

for _name, _text, _words, _parameters in (
    ("linalg.eigh", "λ, v with {a} @ v = v · λ", "Eigenvalues, the smallest first, and eigenvectors of a symmetric "
     "matrix: the directions that it only stretches.", "a, UPLO='L'"),
    ("linalg.eigvalsh", "λ with {a} @ v = v · λ", "Eigenvalues of a symmetric matrix.", "a, UPLO='L'"),
    ("linalg.eig", "λ, v with {a} @ v = v · λ", "Eigenvalues and eigenvectors of any square matrix.", "a"),
    ("linalg.eigvals", "λ with {a} @ v = v · λ", "Eigenvalues of any square matrix.", "a"),
    ("linalg.svd", "u, s, vᵀ with u @ diag(s) @ vᵀ = {a}", "Singular values: every matrix is a turn, a stretch along "
     "the axes by s, and another turn.", "a, compute_uv=True"),
    ("linalg.lu", "p, l, u with l @ u = {a}, its rows in the order p", "Splits a matrix into a lower and an upper "
     "triangle.", "a"),
    ("linalg.lu_factor", "l and u in one matrix, and the rows that were exchanged", "Splits a matrix into two "
     "triangles.", "a"),
    ("linalg.qr", "q, r with q @ r = {a}", "Splits a matrix into one with right angles and a triangular one.", "a"),
):  # fmt: skip
    _matrix(_name, _text, _words, (lambda name: lambda *a, **k: getattr(mx.linalg, name)(*a, **k))(_name[7:]),
            parameters=_parameters)  # fmt: skip


reworded("linalg.svd", lambda bound: not bound["compute_uv"], "s with u @ diag(s) @ vᵀ = {a}",
         "Singular values alone: how much the matrix stretches along each of its axes.")  # fmt: skip
reworded("linalg.cholesky", lambda bound: bool(bound["upper"]), "U, triangular, with Uᵀ @ U = {a}")
reworded("linalg.cholesky_inv", lambda bound: bool(bound["upper"]), "({a}ᵀ @ {a})⁻¹")


def _sign(order: Sequence[int]) -> int:
    """Whether it takes an even or an odd number of exchanges."""
    odd = sum(order[i] > order[j] for i in range(len(order)) for j in range(i + 1, len(order)))
    return -1 if odd % 2 else 1


def _determinant(a: Operand, index: Index) -> Node | None:
    """All ways to take one number of each row and column: for 2 by 2 and 3 by 3 matrices."""
    n = a.shape[-1]
    if n > 3:
        return None
    a.want([(*index, i, j) for i in range(n) for j in range(n)])
    terms, signs = [], ""
    for order in sorted(itertools.permutations(range(n)), key=lambda order: -_sign(order)):
        factors = [a.node((*index, i, j)) for i, j in enumerate(order)]
        terms.append(product_of(*factors) if n > 1 else factors[0])
        signs += "+" if _sign(order) > 0 else "−"
    return Node("sum", tuple(terms), signs) if len(terms) > 1 else terms[0]


@forwards("linalg.det")
def _det_forward(case: Case, slot: int, index: Index) -> Line | None:
    node = _determinant(case.operand("a"), index)
    return None if node is None else Line(element(case.y[0].name, index), node, epsilon=1e-5)


@forwards("linalg.slogdet")
def _slogdet_forward(case: Case, slot: int, index: Index) -> Line | None:
    """Return the sign of the determinant, or the logarithm of its size."""
    node = _determinant(case.operand("a"), index)
    if node is None:
        return None
    of = Node("call", (node,), "sign") if slot == 0 else Node("call", (Node("abs", (node,)),), "ln")
    return Line(element(case.y[slot].name, index), of, epsilon=1e-5)


@backwards("linalg.det")
def _det_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    a, given = case.operand("a"), case.g[0]
    if given is None:
        return None
    place = index[:-2]
    inverse: Any = mx.linalg.inv(a.array, stream=mx.cpu)[(*place, index[-1], index[-2])].item()
    other = quantity(element(f"{a.name}⁻¹", (*place, index[-1], index[-2])), inverse, 1e-4 * abs(inverse))
    return Line(left, product_of(given.node(place), case.y[0].node(place), other))


@backwards("linalg.inv")
def _inv_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    y, given = case.y[0], case.g[0]
    n = y.shape[-1]
    if given is None or n > 20:
        return None
    *batch, i, j = index
    terms = [
        product_of(y.node((*batch, k, i)), given.node((*batch, k, m)), y.node((*batch, j, m)))
        for k in range(n)
        for m in range(n)
    ]
    return Line(left, Node("negative", (sum_of(terms),)), epsilon=1e-4)


@backwards("linalg.solve")
def _solve_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    a, y, given = case.operand("a"), case.y[0], case.g[0]
    if given is None or len(a.shape) != 2:
        return None
    inverse: Any = mx.linalg.inv(a.array, stream=mx.cpu).tolist()
    through = _through(a, given, inverse)
    if symbol == "b":
        return Line(left, through(index), epsilon=1e-3)
    i, j = index
    if len(y.shape) == 1:
        return Line(left, Node("negative", (product_of(through((i,)), y.node((j,))),)), epsilon=1e-3)
    terms = [product_of(through((i, k)), y.node((j, k))) for k in range(y.shape[1])]
    return Line(left, Node("negative", (sum_of(terms),)), epsilon=1e-3)


def _through(a: Operand, given: Operand, inverse: list[list[float]]) -> Any:
    """Return an element of a⁻ᵀ @ g, as a sum."""

    def at(index: Index) -> Node:
        i, rest = index[0], index[1:]
        terms = []
        for k in range(a.shape[0]):
            number = inverse[k][i]
            own = quantity(element(f"{a.name}⁻¹", (k, i)), number, 1e-4 * abs(number))
            terms.append(product_of(own, given.node((k, *rest))))
        return sum_of(terms)

    return at
