"""Linear ops: each number of the result is a sum of numbers of one tensor, each with a fixed weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from nnrepl.ops.bilinear import product_of, sum_of
from nnrepl.ops.case import MOST, Case, Index, Operand
from nnrepl.ops.entry import backwards, forwards
from nnrepl.ops.evaluated import Line
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.numbers import element, ravel, unravel


def linear(symbol: str, *names: str) -> None:
    """Say that ops are linear in one of their arguments: the weights are read off by giving them a single 1."""
    forwards(*names)(lambda case, slot, index: _forward(case, symbol, slot, index))
    backwards(*names)(lambda case, given, left, index: _backward(case, given, left, index) if given == symbol else None)


def _forward(case: Case, symbol: str, slot: int, index: Index) -> Line | None:
    a, y = case.operand(symbol), case.y[slot]
    if case.compute is None or a.size > MOST or not mx.issubdtype(a.dtype, mx.inexact):
        return None
    one = _one(index, y)
    try:
        row = mx.vjp(lambda array: _again(case, a, array)[slot], [a.array], [one])[1][0]
        weights: Any = mx.conj(row).flatten().tolist() if row.dtype == mx.complex64 else row.flatten().tolist()
    except (ValueError, RuntimeError):
        return None
    if y.dtype == mx.complex64 and a.dtype != mx.complex64:
        weights = _complex_weights(case, a, slot, index)
    used = [at for at, weight in enumerate(weights) if weight != 0]
    places = [unravel(at, a.shape) for at in used]
    a.want(places)
    terms = [_weighed(a.node(place), weights[at]) for at, place in zip(used, places)]
    if not terms:
        return None
    whole = sum_of(terms)
    real = a.dtype == mx.complex64 and y.dtype != mx.complex64
    return Line(element(y.name, index), Node("call", (whole,), "Re") if real else whole)


def _complex_weights(case: Case, a: Operand, slot: int, index: Index) -> list[complex]:
    """Return a real tensor into a complex result: the weights have two parts, each read off by itself."""
    found = []
    for factor in (1.0, 1j):
        one = _one(index, case.y[slot]) * factor
        row: Any = mx.vjp(lambda array: _again(case, a, array)[slot], [a.array], [one])[1][0].flatten().tolist()
        found.append(row)
    return [complex(real, imaginary) for real, imaginary in zip(*found)]


def _backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    a = case.operand(symbol)
    if case.compute is None or not mx.issubdtype(a.dtype, mx.inexact):
        return None
    terms: list[Node] = []
    for slot, given in enumerate(case.g):
        if given is None:
            continue
        if given.size > MOST:
            return None
        weights = _weights_back(case, a, slot, index)
        used = [at for at, weight in enumerate(weights) if weight != 0]
        places = [unravel(at, given.shape) for at in used]
        given.want(places)
        terms.extend(_weighed(given.node(place), weights[at]) for at, place in zip(used, places))
    if not terms:
        return Line(left, literal(0), remark="nothing is made of it")
    node = sum_of(terms)
    return Line(left, Node("call", (node,), "Re") if a.dtype != mx.complex64 and _is_complex(case.g) else node)


def _weights_back(case: Case, a: Operand, slot: int, index: Index) -> list[Any]:
    """Return what each number of a result's gradient is multiplied by. Of a real result two things are asked of a
    complex number: how it changes with its real part, and with its imaginary part."""
    one = _one(index, a)
    found: Any = _again(case, a, one)[slot].flatten().tolist()
    if a.dtype != mx.complex64 or case.y[slot].dtype == mx.complex64:
        return [_conjugate(weight) for weight in found]
    imaginary: Any = _again(case, a, one * 1j)[slot].flatten().tolist()
    return [complex(real, other) if other else real for real, other in zip(found, imaginary)]


def _is_complex(operands: Sequence[Operand | None]) -> bool:
    return any(one is not None and one.dtype == mx.complex64 for one in operands)


def _conjugate(weight: Any) -> Any:
    return weight.conjugate() if isinstance(weight, complex) else weight


def _weighed(node: Node, weight: Any) -> Node:
    if weight == 1:
        return node
    return Node("negative", (node,)) if weight == -1 else product_of(literal(weight), node)


def _again(case: Case, a: Operand, array: mx.array) -> list[mx.array]:
    assert case.compute is not None
    return case.compute(lambda operand: array if operand is a else operand.array)


def _one(index: Index, operand: Operand) -> mx.array:
    flat = mx.arange(operand.size) == ravel(index, operand.shape)
    return flat.astype(operand.dtype).reshape(operand.shape)
