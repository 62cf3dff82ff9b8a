"""Factors: what inverses, solutions and factors of matrices are asked to fulfil, with the numbers that MLX found.

Nobody computes a singular value by one formula. But that `q @ r` is `a` can be seen, element by element: the line that
is shown is the equation that defines the result, at a place in which the element that was asked about takes part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from nnrepl.ops import linear_algebra  # noqa: F401 (its entries are completed here)
from nnrepl.ops.bilinear import product_of, sum_of
from nnrepl.ops.case import Case, Index, Operand
from nnrepl.ops.entry import forwards
from nnrepl.ops.evaluated import Line, ReadNumber
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.numbers import element

_TERMS = 64
"""A sum of more terms than this shows nothing to a reader."""
_EPSILON = 1e-4


def _line(
    case: Case, slot: int, index: Index, left: str, terms: Sequence[Node], gives: Any, remark: str
) -> Line | None:
    """Return an equation in which an element takes part, with the element before it."""
    if not 0 < len(terms) <= _TERMS:
        return None
    y = case.y[slot]
    return Line(left, sum_of(terms), (ReadNumber(y, index, "so that"),), _EPSILON, remark, gives)


def _product(
    case: Case, slot: int, index: Index, factors: Sequence[tuple[Operand, Callable[[int], Index]]], inner: int,
    left: str, gives: Any, remark: str,
) -> Line | None:  # fmt: skip
    """Return a sum over an inner axis of products of elements."""
    terms = [product_of(*(operand.node(place(k)) for operand, place in factors)) for k in range(min(inner, _TERMS + 1))]
    return _line(case, slot, index, left, terms, gives, remark)


@forwards("linalg.inv", "linalg.tri_inv")
def _inverse(case: Case, slot: int, index: Index) -> Line | None:
    """Write out that a row of the matrix times a column of its inverse is 1 or 0."""
    a, y = case.operand("a"), case.y[slot]
    *batch, i, j = index
    n = a.shape[-1]
    if n == 2 and case.entry.name == "linalg.inv":
        return _inverse_of_two(a, y, index)
    used = range(n)
    if case.entry.name == "linalg.tri_inv":
        used = range(i, n) if case.bound["upper"] else range(i + 1)
        if (j < i) if case.bound["upper"] else (j > i):
            return Line(element(y.name, index), literal(0), remark="the inverse of a triangle is one")
    terms = [product_of(a.node((*batch, i, k)), y.node((*batch, k, j))) for k in used]
    left = element(f"({a.name} @ {y.name})", index)
    return _line(case, slot, index, left, terms, 1 if i == j else 0, "1 on the diagonal, 0 beside it")


def _inverse_of_two(a: Operand, y: Operand, index: Index) -> Line:
    """Return the numbers of the diagonal exchanged, the others turned, over the determinant."""
    *batch, i, j = index
    at = [[a.node((*batch, p, q)) for q in range(2)] for p in range(2)]
    det = Node("sum", (product_of(at[0][0], at[1][1]), product_of(at[0][1], at[1][0])), "+−")
    top = at[1 - i][1 - j] if i == j else Node("negative", (at[i][j],))
    return Line(element(y.name, index), Node("product", (top, det), "·/"), epsilon=1e-4)


@forwards("linalg.pinv")
def _pseudo_inverse(case: Case, slot: int, index: Index) -> Line | None:
    """Write out that a @ a⁺ @ a is a."""
    a, y = case.operand("a"), case.y[slot]
    *batch, k, m = index
    rows, columns = a.shape[-2:]
    if rows * columns > _TERMS:
        return None
    place = (*batch, m, k)
    terms = [
        product_of(a.node((*batch, m, p)), y.node((*batch, p, q)), a.node((*batch, q, k)))
        for p, q in itertools.product(range(columns), range(rows))
    ]
    left = element(f"({a.name} @ {y.name} @ {a.name})", place)
    return _line(case, slot, index, left, terms, a.at(place), f"which is {element(a.name, place)}")


@forwards("linalg.solve", "linalg.solve_triangular")
def _solution(case: Case, slot: int, index: Index) -> Line | None:
    """Write out that a row of the matrix times the solution is the right side."""
    a, b, y = case.operand("a"), case.operand("b"), case.y[slot]
    rank = 1 if len(b.shape) < len(a.shape) else 2
    batch, i, rest = index[: len(index) - rank], index[len(index) - rank], index[len(index) - rank + 1 :]
    used = range(a.shape[-1])
    if "upper" in case.bound:
        used = range(i, a.shape[-1]) if case.bound["upper"] else range(i + 1)
    terms = [product_of(a.node((*batch, i, k)), y.node((*batch, k, *rest))) for k in used]
    left = element(f"({a.name} @ {y.name})", index)
    return _line(case, slot, index, left, terms, b.at(b.own(index)), f"which is {element(b.name, b.own(index))}")


@forwards("linalg.cholesky")
def _cholesky(case: Case, slot: int, index: Index) -> Line | None:
    """Row by row: what the rows before have not explained."""
    a, y = case.operand("a"), case.y[slot]
    upper = bool(case.bound["upper"])
    *batch, i, j = index
    if upper:
        i, j = j, i
    if j > i:
        return Line(element(y.name, index), literal(0), remark="the other triangle is 0")

    def at(p: int, q: int) -> Node:
        return y.node((*batch, q, p) if upper else (*batch, p, q))

    given = a.node((*batch, i, j))
    done = [product_of(at(i, k), at(j, k)) for k in range(j)]
    rest = Node("sum", (given, *done), "+" + "−" * len(done)) if done else given
    node = Node("root", (rest,)) if i == j else Node("product", (rest, at(j, j)), "·/")
    return Line(element(y.name, index), node, epsilon=1e-5)


@forwards("linalg.cholesky_inv")
def _inverse_by_root(case: Case, slot: int, index: Index) -> Line | None:
    """Write out that the matrix is the factor times itself turned; times its inverse it is 1 or 0."""
    a, y = case.operand("a"), case.y[slot]
    upper = bool(case.bound["upper"])
    *batch, i, j = index
    n = a.shape[-1]
    if n * n > _TERMS:
        return None

    def at(p: int, q: int) -> Node:
        return a.node((*batch, q, p) if upper else (*batch, p, q))

    terms = [product_of(at(i, k), at(m, k), y.node((*batch, m, j))) for m in range(n) for k in range(min(i, m) + 1)]
    root = f"{a.name}ᵀ @ {a.name}" if upper else f"{a.name} @ {a.name}ᵀ"
    return _line(case, slot, index, element(f"({root} @ {y.name})", index), terms, 1 if i == j else 0,
                 "1 on the diagonal, 0 beside it")  # fmt: skip


@forwards("linalg.qr")
def _turned(case: Case, slot: int, index: Index) -> Line | None:
    """q @ r is the matrix."""
    a, (q, r) = case.operand("a"), case.y
    *batch, i, j = index
    return _product(case, slot, index, ((q, lambda k: (*batch, i, k)), (r, lambda k: (*batch, k, j))), q.shape[-1],
                    element(f"({q.name} @ {r.name})", (*batch, i, j)), a.at((*batch, i, j)),
                    f"which is {element(a.name, (*batch, i, j))}")  # fmt: skip


@forwards("linalg.svd")
def _stretched(case: Case, slot: int, index: Index) -> Line | None:
    """u @ diag(s) @ vᵀ is the matrix; of s alone the squares add up to those of the matrix."""
    a = case.operand("a")
    rows, columns = a.shape[-2:]
    if len(case.y) == 1:
        *batch, _ = index
        s = case.y[0]
        squares = [Node("power", (s.node((*batch, k)), literal(2))) for k in range(s.shape[-1])]
        whole: Any = sum(abs(a.at((*batch, i, j))) ** 2 for i in range(rows) for j in range(columns))
        remark = f"the sum of all squares of {a.name}"
        return _line(case, slot, index, f"Σ {s.name}²", squares, whole, remark)
    u, s, v = case.y
    *batch, last = index
    i, j = last, last
    if slot != 1:
        *batch, i, j = index
    i, j = (i, min(j, columns - 1)) if slot == 0 else (min(i, rows - 1), j)
    factors = ((u, lambda k: (*batch, i, k)), (s, lambda k: (*batch, k)), (v, lambda k: (*batch, k, j)))
    return _product(case, slot, index, factors, s.shape[-1], element(f"({u.name} @ diag({s.name}) @ {v.name})",
                    (*batch, i, j)), a.at((*batch, i, j)), f"which is {element(a.name, (*batch, i, j))}")  # fmt: skip


@forwards("linalg.eigh", "linalg.eig")
def _directions(case: Case, slot: int, index: Index) -> Line | None:
    """Return the matrix only stretches an eigenvector."""
    a, (values, vectors) = case.operand("a"), case.y
    *batch, k = index
    i = k
    if slot == 1:
        *batch, i, k = index
    half = case.bound.get("UPLO")

    def at(m: int) -> Node:
        """Of a symmetric matrix one triangle is read."""
        other = half is not None and ((m > i) if str(half).upper() == "L" else (m < i))
        return a.node((*batch, m, i) if other else (*batch, i, m))

    terms = [product_of(at(m), vectors.node((*batch, m, k))) for m in range(min(a.shape[-1], _TERMS + 1))]
    own, stretch = (*batch, i, k), (*batch, k)
    remark = f"which is {element(values.name, stretch)} · {element(vectors.name, own)}"
    left = element(f"({a.name} @ {vectors.name})", own)
    return _line(case, slot, index, left, terms, values.at(stretch) * vectors.at(own), remark)


@forwards("linalg.eigvalsh", "linalg.eigvals")
def _stretches(case: Case, slot: int, index: Index) -> Line | None:
    """All eigenvalues add up to the diagonal."""
    a, values = case.operand("a"), case.y[0]
    *batch, _ = index
    n = a.shape[-1]
    terms = [values.node((*batch, k)) for k in range(min(n, _TERMS + 1))]
    diagonal: Any = sum(a.at((*batch, k, k)) for k in range(n))
    return _line(case, slot, index, f"Σ {values.name}", terms, diagonal, f"the sum of the diagonal of {a.name}")


@forwards("linalg.lu")
def _triangles(case: Case, slot: int, index: Index) -> Line | None:
    """l @ u is the matrix, with its rows in another order."""
    a, (order, low, high) = case.operand("a"), case.y
    if slot == 0:
        *batch, i = index
        j = 0
    else:
        *batch, i, j = index
    inner = low.shape[-1]
    i, j = (i, min(j, a.shape[-1] - 1)) if slot < 2 else (min(i, a.shape[-2] - 1), j)
    source = (*batch, int(order.at((*batch, i))), j)
    factors = ((low, lambda k: (*batch, i, k)), (high, lambda k: (*batch, k, j)))
    remark = f"which is {element(a.name, source)}: {element(order.name, (*batch, i))} = {source[-2]}"
    left = element(f"({low.name} @ {high.name})", (*batch, i, j))
    return _product(case, slot, index, factors, inner, left, a.at(source), remark)


@forwards("linalg.lu_factor")
def _triangles_in_one(case: Case, slot: int, index: Index) -> Line | None:
    """Return the line for one number of both triangles in one; the ones on the diagonal of the lower are not kept.
    l @ u is the matrix, with rows exchanged."""
    a, (both, exchanged) = case.operand("a"), case.y
    if slot == 1:
        *batch, i = index
        other = int(exchanged.at(index))
        remark = f"row {i} " + ("stayed where it was" if other == i else f"was exchanged with row {other}")
        return Line(element(exchanged.name, index), literal(other), remark=remark)
    *batch, i, j = index
    order = list(range(a.shape[-2]))
    for row in range(exchanged.shape[-1]):
        other = int(exchanged.at((*batch, row)))
        order[row], order[other] = order[other], order[row]
    inner = min(i, j) + (i > j)
    terms = [product_of(both.node((*batch, i, k)), both.node((*batch, k, j))) for k in range(inner)]
    terms += [both.node(index)] if i <= j else []
    source = (*batch, order[i], j)
    return _line(case, slot, index, element("(l @ u)", (*batch, i, j)), terms, a.at(source),
                 f"which is {element(a.name, source)}, as rows were exchanged")  # fmt: skip
