"""What the table says that an op does (its traits), held against what MLX computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import pytest

from nnrepl.ops.entry import ELEMENTWISE, ENTRIES
from nnrepl.ops.traits import Trait

NO_MASK = {"divide", "reciprocal", "arctan", "arctan2", "imag"}
"""Finite of −∞ as well, but nobody masks with it there: a denominator, an angle, the other part of a number."""


def results(name: str, *arguments: float) -> Iterator[mx.array]:
    function = getattr(mx, name, None)
    try:
        found = None if function is None else function(*(mx.array([number]) for number in arguments))
    except Exception:  # it is not for numbers such as these
        return
    if isinstance(found, mx.array) and found.shape == (1,):
        yield found


def finite_of(infinity: float) -> set[str]:
    """The elementwise functions that make a finite number, or an answer, of this infinity as one of their operands."""
    arguments = [(infinity,), (infinity, 0.5), (0.5, infinity)]
    return {
        name
        for name, entry in ENTRIES.items()
        if entry.kind == ELEMENTWISE
        for given in arguments
        for result in results(name, *given)
        if mx.isfinite(result).item()
    }


def test_what_swallows_an_infinity() -> None:
    swallows = {name for name, entry in ENTRIES.items() if entry.kind == ELEMENTWISE and Trait.SWALLOWS in entry.traits}
    assert finite_of(-math.inf) - NO_MASK <= swallows
    assert {name for name in swallows if hasattr(mx, name)} <= finite_of(-math.inf) | finite_of(math.inf) | {
        "where",
        "clip",
    }  # of three operands
    assert {"maximum", "minimum", "exp", "sigmoid"} <= swallows


def test_what_chooses() -> None:
    pairs = [(0.3, 0.6), (0.9, 0.1), (-0.2, 0.4), (0.7, -0.5)]
    for name, entry in ENTRIES.items():
        found = [(pair, result) for pair in pairs for result in results(name, *pair)]
        if entry.kind == ELEMENTWISE and Trait.BROADCASTS in entry.traits and len(found) == len(pairs):
            picks = all(any(result.item() == mx.array(one).item() for one in pair) for pair, result in found)
            assert picks == (Trait.CHOOSES in entry.traits), name


ARITHMETIC: dict[Trait, Callable[..., float]] = {
    Trait.SUM: lambda a, b: a + b, Trait.DIFFERENCE: lambda a, b: a - b, Trait.MULTIPLIES: lambda a, b: a * b,
    Trait.RAISES: lambda a, b: a**b, Trait.LARGER: max, Trait.SMALLER: min,
    Trait.LOG_SUM: lambda a, b: math.log(math.exp(a) + math.exp(b)), Trait.NEGATES: lambda a: -a,
    Trait.SQUARES: lambda a: a * a, Trait.EXPONENTIAL: math.exp,
    Trait.PROBABILITY: lambda a: 1 / (1 + math.exp(-a)),
}  # fmt: skip


@pytest.mark.parametrize("trait", ARITHMETIC)
def test_what_does_one_sum(trait: Trait) -> None:
    """Each function of one or two numbers has the trait if, and only if, this is what it computes."""
    given: list[tuple[float, ...]] = [(0.3, 0.6), (0.9, 0.1), (1.2, 0.4)]
    if trait in (Trait.NEGATES, Trait.SQUARES, Trait.EXPONENTIAL, Trait.PROBABILITY):
        given = [pair[:1] for pair in given]
    for name, entry in ENTRIES.items():
        if entry.kind == ELEMENTWISE and Trait.GIVEN not in entry.traits:
            found = [(one, result.item()) for one in given for result in results(name, *one)]
            does = len(found) == len(given) and all(
                abs(result - ARITHMETIC[trait](*one)) < 1e-5 for one, result in found
            )
            assert does == (trait in entry.traits), name


def test_what_divides() -> None:
    """By 0 it has no finite result."""
    for name, entry in ENTRIES.items():
        if entry.kind == ELEMENTWISE and Trait.BROADCASTS in entry.traits:
            for result in results(name, 1.0, 0.0):
                assert mx.isfinite(result).item() != (Trait.DIVIDES in entry.traits), name


REDUCED: dict[Trait, Callable[[mx.array], float]] = {
    Trait.TOTALS: lambda a: sum(a.tolist()), Trait.AVERAGES: lambda a: sum(a.tolist()) / a.size,
    Trait.LARGEST: lambda a: max(a.tolist()), Trait.SMALLEST: lambda a: min(a.tolist()),
    Trait.LOG_SUM: lambda a: math.log(sum(map(math.exp, a.tolist()))),
}  # fmt: skip


@pytest.mark.parametrize("trait", REDUCED)
def test_what_becomes_of_many_numbers(trait: Trait) -> None:
    row = mx.array([0.4, 1.3, -0.2])
    for name, entry in ENTRIES.items():
        function = getattr(mx, name, None)
        if Trait.REDUCES in entry.traits and function is not None and name not in ("vecdot", "trace", "minmax"):
            result = function(row)
            assert (abs(result.item() - REDUCED[trait](row)) < 1e-5) == (trait in entry.traits), name


def test_what_gives_shares_and_what_stops() -> None:
    row = mx.array([[0.4, 1.3, -0.2, 0.7]])
    for name, entry in ENTRIES.items():
        function = getattr(mx, name, None)
        if entry.symbols[:1] == ("a",) and function is not None and Trait.REDUCES not in entry.traits:
            try:
                result = function(row)
                slope = mx.grad(lambda a, function=function: function(a).sum())(row)
            except Exception:  # it takes more, or has no gradient
                continue
            if result.shape == row.shape and mx.issubdtype(result.dtype, mx.floating):
                sums = abs(result.sum().item() - 1) < 1e-5 and mx.all(result > 0).item()
                assert sums == (Trait.DISTRIBUTES in entry.traits), name
                same = bool(mx.array_equal(result, row).item()) and not mx.any(slope).item()
                assert same == (Trait.STOPS in entry.traits), name
