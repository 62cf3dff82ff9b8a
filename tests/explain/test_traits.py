"""What the table says that an op does (its traits), held against what MLX computes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mlx.core as mx

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
