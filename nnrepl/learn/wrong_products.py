"""Products: how people go wrong with products of matrices, and with their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnrepl.explain import words
from nnrepl.explain.elements import broadcast_index, named
from nnrepl.explain.paths import upstream
from nnrepl.learn.mistakes import FEW, GuessedElement, Index, Mistake, rule
from nnrepl.tape import Op, Value

Term = tuple[str, str, float]
"""One product of a sum: both factors by name, and what it comes to."""


def _sides(op: Op) -> tuple[Value, Value] | None:
    """Return the two matrices of a product; what is added to it left out."""
    inputs = op.inputs[-2:] if op.name == "addmm" else op.inputs
    if len(inputs) != 2 or any(len(value.shape) < 2 for value in inputs):
        return None
    return inputs[0], inputs[1]


def _batch(index: Index, value: Value) -> Index:
    """Which matrix of a batch of them belongs to an element of the result."""
    return broadcast_index(index[:-2], value.shape[:-2])


def _terms(case: GuessedElement, pairs: Sequence[tuple[tuple[Value, Index], tuple[Value, Index]]]) -> list[Term]:
    """Return the products of which an element is the sum."""
    return [
        (named(*left), named(*right), case.at(left[0], left[1]) * case.at(right[0], right[1])) for left, right in pairs
    ]


def _of_a_sum(case: GuessedElement, terms: Sequence[Term], what: str = "") -> Iterator[Mistake]:
    """One term forgotten, one term alone. What else belongs to the number (a bias) stays in it."""
    if len(terms) > 1:
        for left, right, term in terms:
            yield Mistake(case.right - term, f"You forgot the product {left} · {right}{what}.")
    if len(terms) > 2:
        for left, right, term in terms:
            yield Mistake(term, f"That is one of {len(terms)} products, {left} · {right}.")


@rule("matmul", "addmm")
def _matmul(case: GuessedElement) -> Iterator[Mistake]:
    sides = _sides(case.op)
    if sides is None or len(case.index) < 2 or sides[0].shape[-1] > FEW:
        return
    a, b = sides
    row, column = case.index[-2:]
    at_a, at_b = _batch(case.index, a), _batch(case.index, b)
    count = a.shape[-1]
    terms = _terms(case, [((a, (*at_a, row, k)), (b, (*at_b, k, column))) for k in range(count)])
    added = case.right - sum(term for _, _, term in terms)
    if case.op.name == "addmm":
        yield Mistake(case.right - added, f"You forgot to add {words.name(case.op.inputs[0])}.")
    yield from _of_a_sum(case, terms)
    if column < b.shape[-2] and b.shape[-1] == count:
        turned = _terms(case, [((a, (*at_a, row, k)), (b, (*at_b, column, k))) for k in range(count)])
        said = f"That takes row {column} of {words.name(b)}; it is column {column}."
        yield Mistake(added + sum(term for _, _, term in turned), said)
    alone = sum(case.at(b, (*at_b, k, column)) for k in range(count))
    yield Mistake(alone, f"That adds column {column} of {words.name(b)} without its factors {words.name(a)}.")


@rule("vjp of matmul", "vjp of addmm")
def _matmul_back(case: GuessedElement) -> Iterator[Mistake]:
    """Tell of a gradient of a product: it is a product with the other side, which alone is no gradient yet."""
    forward, of, came = case.op.of, case.value.gradient_of, upstream(case.op)
    sides = None if forward is None else _sides(forward)
    if sides is None or of is None or len(came) != 1 or any(len(it.shape) != 2 for it in (*sides, came[0])):
        return
    left, right, gradient = *sides, came[0]
    rows, columns = gradient.shape
    if of.canonical is right.canonical and rows <= FEW:
        i, j = case.index
        pairs = [((left, (r, i)), (gradient, (r, j))) for r in range(rows)]
        yield from _of_a_sum(case, _terms(case, pairs), ", a row of the batch")
    elif of.canonical is left.canonical and columns <= FEW:
        i, j = case.index
        pairs = [((right, (j, k)), (gradient, (i, k))) for k in range(columns)]
        yield from _of_a_sum(case, _terms(case, pairs))
    else:
        if len(case.index) == 1:
            yield from _over_rows(case, gradient)
        return
    if len(pairs) == 1:
        other, comes = pairs[0]
        yield Mistake(case.at(*comes), f"That is {named(*comes)}, what comes in; times {named(*other)}.")
        yield Mistake(case.at(*other), f"That is {named(*other)} alone; times {named(*comes)}, what comes in.")


@rule("vjp of add", "vjp of subtract")
def _sum_back(case: GuessedElement) -> Iterator[Mistake]:
    for gradient in upstream(case.op):
        if len(case.index) == 1 and len(gradient.shape) == 2:
            yield from _over_rows(case, gradient)


def _over_rows(case: GuessedElement, gradient: Value) -> Iterator[Mistake]:
    """Tell of the gradient of a bias: it is summed over the batch."""
    rows, column = gradient.shape[0], case.index[0]
    if 1 < rows <= FEW and column < gradient.shape[1]:
        for row in range(rows):
            share = case.at(gradient, (row, column))
            yield Mistake(case.right - share, f"You forgot row {row} of the batch, {named(gradient, (row, column))}.")
            yield Mistake(share, f"That is row {row} of the batch alone; the rows are added up.")
        yield Mistake(case.right / rows, "That is the mean over the batch; the rows are added up.")
