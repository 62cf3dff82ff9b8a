"""Sums: a long sum with its largest terms, and the rest as one number, so that it adds up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nnrepl.explain import words

SHOWN = 4
"""So many terms of a sum are written out."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a sum: in symbols, in numbers, and what it comes to."""

    symbols: str
    numbers: str
    value: float


def product(names: Sequence[str], values: Sequence[float]) -> Term:
    """A product as a term."""
    total = 1.0
    for value in values:
        total *= value
    return Term("·".join(names), "·".join(words.factor(value) for value in values), total)


def lines(left: str, count: int, term: Callable[[int], Term], values: Sequence[float], result: float) -> list[str]:
    """A sum in three lines: in symbols, in numbers, and the result.

    Args:
        left: What is computed: `z1[0,0]`.
        count: How many terms there are.
        term: The term at a place; only those that are shown are asked for.
        values: What each term comes to: the largest are shown.
        result: What the op has computed; the rest is what is missing to it.
    """
    if not adds_up(values, result):
        return [f"{left} = {words.number(result)}"]
    kept = largest(values)
    terms = [term(at) for at in kept]
    if not terms:
        return [f"{left} = 0   (a sum of nothing)"]
    symbols = " + ".join(one.symbols for one in terms)
    numbers = " + ".join(one.numbers for one in terms)
    rest = count - len(terms)
    if rest:
        remaining = result - sum(one.value for one in terms)
        symbols += f" + … ({rest} more terms)"
        numbers += f" + {words.factor(remaining)}"
    if len(terms) == 1 and not rest and terms[0].numbers == words.factor(result):
        return [f"{left} = {symbols} = {words.number(result)}"]
    return [f"{left} = {symbols}", f"= {numbers}", f"= {words.number(result)}"]


def adds_up(values: Sequence[float], result: float) -> bool:
    """Whether the terms give the result, up to the rounding of a half-precision sum. What does not is not shown."""
    total, size = sum(values), sum(abs(value) for value in values)
    if not math.isfinite(result) or not math.isfinite(total):
        return True
    return abs(total - result) <= 0.02 * max(size, abs(result)) + 1e-30


def largest(values: Sequence[float]) -> list[int]:
    """The places of the terms that are shown, in order."""
    if len(values) <= SHOWN + 1:
        return list(range(len(values)))
    order = sorted(range(len(values)), key=lambda at: (-abs(values[at]), at))
    return sorted(order[:SHOWN])
