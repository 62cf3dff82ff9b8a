"""Bilinear ops: sums of products of numbers of one tensor with numbers of another. Which meet is found by numbering.

If the numbers of `b` are replaced by their places, then how much an element of the result changes with a number of `a`
is the place of the number of `b` that it is multiplied by. So one rule serves convolutions, `einsum`, `outer`, `kron`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from nnrepl.ops.case import MOST, Case, Index, Operand
from nnrepl.ops.entry import backwards, forwards
from nnrepl.ops.evaluated import Line
from nnrepl.ops.expression import Node
from nnrepl.ops.numbers import element, ravel, unravel

_EXACT = 1 << 24
"""float32 holds whole numbers below this."""


def sum_of(terms: Sequence[Node]) -> Node:
    """Terms as one sum."""
    return terms[0] if len(terms) == 1 else Node("series", tuple(terms), "Σ")


def product_of(*factors: Node) -> Node:
    """Factors as one product."""
    return Node("product", factors, "·" * len(factors))


def forward(case: Case, first: str, second: str, slot: int, index: Index) -> Line | None:
    """One element of the result, as a sum of products of two operands."""
    a, b = case.operand(first), case.operand(second)
    y = case.y[slot]
    if a is b or b.size >= _EXACT or case.compute is None or not _real(a, b):
        return None
    one = _one(index, y)
    codes = mx.vjp(lambda array: _again(case, {a: array, b: _numbered(b)}, slot), [mx.zeros(a.shape)], [one])[1][0]
    pairs = _codes(codes)
    if len(pairs) > MOST:
        return None
    left = [unravel(at, a.shape) for at, _ in pairs]
    right = [unravel(abs(code) - 1, b.shape) for _, code in pairs]
    a.want(left)
    b.want(right)
    terms = [_signed(code, product_of(a.node(p), b.node(q))) for (_, code), p, q in zip(pairs, left, right)]
    return Line(element(y.name, index), sum_of(terms))


def backward(case: Case, symbol: str, other: str, left: str, index: Index) -> Line | None:
    """One element of the gradient of one operand: the sum of gradients times what it was multiplied by."""
    target, partner = case.operand(symbol), case.operand(other)
    if target is partner or partner.size >= _EXACT or case.compute is None or not _real(target, partner):
        return None
    terms: list[Node] = []
    for slot, given in enumerate(case.g):
        if given is None:
            continue
        # The op is linear in `target`: with a 1 in one place, and 0 elsewhere, it shows what meets that place.
        pairs = _codes(_again(case, {target: _one(index, target), partner: _numbered(partner)}, slot))
        if len(pairs) > MOST:
            return None
        places = [unravel(at, given.shape) for at, _ in pairs]
        met = [unravel(abs(code) - 1, partner.shape) for _, code in pairs]
        given.want(places)
        partner.want(met)
        products = [product_of(given.node(p), partner.node(q)) for p, q in zip(places, met)]
        terms.extend(_signed(code, product) for (_, code), product in zip(pairs, products))
    return Line(left, sum_of(terms)) if terms else None


def _signed(code: int, product: Node) -> Node:
    return Node("negative", (product,)) if code < 0 else product


def _real(*operands: Operand) -> bool:
    return all(mx.issubdtype(one.dtype, mx.floating) for one in operands)


def _again(case: Case, given: dict[Operand, mx.array], slot: int) -> mx.array:
    assert case.compute is not None

    def lookup(operand: Operand) -> mx.array:
        if operand in given:
            return given[operand]
        return operand.array.astype(mx.float32) if mx.issubdtype(operand.dtype, mx.floating) else operand.array

    return case.compute(lookup)[slot]


def _numbered(operand: Operand) -> mx.array:
    return mx.arange(1, operand.size + 1, dtype=mx.float32).reshape(operand.shape)


def _one(index: Index, operand: Operand) -> mx.array:
    flat = mx.arange(operand.size) == ravel(index, operand.shape)
    return flat.astype(mx.float32).reshape(operand.shape)


def _codes(found: mx.array) -> list[tuple[int, int]]:
    """Return the places that are not 0, and what stands there: a place of the other operand, less than 0 where the
    product is taken off."""
    numbers: Any = mx.round(found.flatten()).astype(mx.int32).tolist()
    return [(at, code) for at, code in enumerate(numbers) if code]


def bilinear(first: str, second: str, *names: str) -> None:
    """Say that ops are sums of products of two of their arguments."""
    forwards(*names)(lambda case, slot, index: forward(case, first, second, slot, index))

    def back(case: Case, symbol: str, left: str, index: Index) -> Line | None:
        if symbol not in (first, second):
            return None
        return backward(case, symbol, second if symbol == first else first, left, index)

    backwards(*names)(back)


def meeting(a: Operand, b: Operand, index: Index) -> tuple[list[Index], list[Index]]:
    """Return the row of `a` and the column of `b` that meet in an element of `a @ b`."""
    length = a.shape[-1]
    pairs = [_row_and_column(a, b, index, k) for k in range(length)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _row_and_column(a: Operand, b: Operand, index: Index, k: int) -> tuple[Index, Index]:
    """Return the elements of two matrices (or vectors, or stacks of matrices) that meet in one product."""
    rows = index[: len(index) - (0 if len(b.shape) == 1 else 1)]
    row = () if len(a.shape) == 1 else rows[-1:]
    column = () if len(b.shape) == 1 else index[-1:]
    batch = index[: len(index) - len(row) - len(column)]
    left = _own(batch, a.shape[:-2]) if len(a.shape) > 2 else ()
    right = _own(batch, b.shape[:-2]) if len(b.shape) > 2 else ()
    return (*left, *row, k), (*right, k, *column)


def _own(batch: Index, shape: tuple[int, ...]) -> Index:
    own = batch[len(batch) - len(shape) :] if shape else ()
    return tuple(0 if extent == 1 else at for at, extent in zip(own, shape))


def matrix_terms(case: Case, index: Index, *factors: Node) -> list[Node] | None:
    """Return the products whose sum is an element of `a @ b`."""
    a, b = case.operand("a"), case.operand("b")
    if a.shape[-1] > MOST:
        return None
    left, right = meeting(a, b, index)
    a.want(left)
    b.want(right)
    return [product_of(*factors, a.node(p), b.node(q)) for p, q in zip(left, right)]


def matrix_gradient(case: Case, symbol: str, index: Index, *factors: Node) -> list[Node] | None:
    """Return the products whose sum is an element of the gradient of one side of `a @ b`."""
    a, b, given = case.operand("a"), case.operand("b"), case.g[0]
    assert given is not None
    if len(a.shape) < 2 or len(b.shape) < 2:
        return None
    other = b if symbol == "a" else a
    pairs = _meetings(a.shape, b.shape, given.shape, symbol, index)
    if len(pairs) > MOST:
        return None
    given.want([place for place, _ in pairs])
    other.want([own for _, own in pairs])
    terms = []
    for place, own in pairs:
        pair = (given.node(place), other.node(own))
        terms.append(product_of(*factors, *(pair if symbol == "a" else pair[::-1])))
    return terms


def _meetings(
    a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...], symbol: str, index: Index
) -> list[tuple[Index, Index]]:
    """Where an element of `a` (or `b`) took part in `a @ b`: in which result, and what it was multiplied by."""
    from nnrepl.ops.worked import used_at

    own = a if symbol == "a" else b
    batches = used_at(index[:-2], own[:-2], y[:-2])
    found: list[tuple[Index, Index]] = []
    for batch in batches:
        if symbol == "a":
            i, k = index[-2:]
            found.extend(((*batch, i, j), (*_own(batch, b[:-2]), k, j)) for j in range(y[-1]))
        else:
            k, j = index[-2:]
            found.extend(((*batch, i, j), (*_own(batch, a[:-2]), i, k)) for i in range(y[-2]))
    return found
