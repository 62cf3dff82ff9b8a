"""Elementwise ops: each number of the result comes from the numbers at the same place."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from nnrepl.ops.case import Case, Index
from nnrepl.ops.entry import FIXED, Entry, Slope, enter, forwards
from nnrepl.ops.evaluated import Line, ReadNumber
from nnrepl.ops.expression import literal
from nnrepl.ops.numbers import element
from nnrepl.ops.pointwise import pointwise
from nnrepl.ops.traits import Trait


def _two(name: str, text: str, a: str, b: str, words: str, traits: tuple[Trait, ...] = (), **more: Any) -> None:
    """Enter an op of two tensors (or a tensor and a number), with the slope of each."""
    slopes = {"a": a, "b": b}
    pointwise(name, text, slopes, words, parameters="a, b", traits=(Trait.BROADCASTS, *traits), **more)


def _one(name: str, text: str, slope: str, words: str, **more: Any) -> None:
    """Enter an op of one tensor."""
    pointwise(name, text, {"a": slope}, words, **more)


_two("add", "a + b", "g", "g", "Adds. Backwards: a sum hands the gradient on unchanged to both sides.",
     traits=(Trait.SUM, Trait.ADDS,))  # fmt: skip
_two("subtract", "a − b", "g", "−g",
     "Subtracts. Backwards: the left side gets the gradient as it is, the right side with the opposite sign.",
     traits=(Trait.ADDS, Trait.DIFFERENCE))  # fmt: skip
_two("multiply", "a · b", "g · b", "g · a",
     "Multiplies. Backwards: each factor's gradient is what arrives times the other factor.",
     traits=(Trait.MULTIPLIES, Trait.SCALES,))  # fmt: skip
_two("divide", "a / b", "g / b", "−g · a / b²", "Divides.", valid="b ≠ 0",
     forward=lambda a, b: a * mx.reciprocal(mx.array(b)) if isinstance(b, int) and b == 0 else a / b,
     traits=(Trait.DIVIDES, Trait.SCALES,))  # fmt: skip
_two("power", "a^b", "g · b · a^(b − 1)", "0 if y = 0 else g · ln(a) · y",
     "Raises to a power. Backwards: the exponent comes down as a factor, and the power falls by one.",
     valid="a ≥ 0 unless b is whole, a ≠ 0 if b < 0",
     traits=(Trait.RAISES,))  # fmt: skip
_two("maximum", "max(a, b)", "g · [a > b]", "g · [a ≤ b]",
     "The larger of two numbers passes. Backwards: the gradient goes to the one that was larger; the other gets "
     "nothing.",
     traits=(Trait.LARGER, Trait.CHOOSES, Trait.SWALLOWS))  # fmt: skip
_two("minimum", "min(a, b)", "g · [a < b]", "g · [a ≥ b]",
     "The smaller of two numbers passes. Backwards: the gradient goes to the one that was smaller; the other "
     "gets nothing.",
     traits=(Trait.SMALLER, Trait.CHOOSES, Trait.SWALLOWS))  # fmt: skip
_two("arctan2", "arctan(a / b) + π · [b < 0] · ([a ≥ 0] − [a < 0])", "g · b / (a² + b²)", "−g · a / (a² + b²)",
     "The angle under which one sees the point ({b}, {a}) from the origin, −π to π. Left of the axis half a turn is "
     "added or taken away, because arctan knows only the right half.", valid="b ≠ 0",
     forward=lambda a, b: mx.arctan2(a, b))  # fmt: skip
_two("logaddexp", "max(a, b) + ln(1 + exp(−|a − b|))", "g · exp(a − y)", "g · exp(b − y)",
     "A soft maximum, ln(exp(a) + exp(b)): the larger number is taken out first, so that no exponential overflows. "
     "Each side gets its share of the gradient.",
     traits=(Trait.LOG_SUM, Trait.SWALLOWS,),
     forward=lambda a, b: mx.maximum(a, b) + mx.log1p(mx.exp(-mx.abs(mx.array(a) - b))))  # fmt: skip
_two("remainder", "a − b · ⌊a / b⌋", "g", "−g · ⌊a / b⌋",
     "What is left of {a} after taking away {b} as often as it fits.", valid="b ≠ 0",
     forward=lambda a, b: a % b,
     traits=(Trait.DIVIDES,))  # fmt: skip

_one("negative", "−a", "−g", "Changes the sign, of the gradient too.", traits=(Trait.NEGATES,))
_one("positive", "a", "g", "Changes nothing.")
_one("square", "a²", "g · 2 · a", "Squares. Its slope is twice the number.", traits=(Trait.SQUARES,))
_one("sqrt", "√a", "g / (2 · y)", "The square root. Its slope grows without bound towards 0, and is infinite at 0.",
     valid="a ≥ 0")  # fmt: skip
_one("rsqrt", "1 / √a", "−g · y / (2 · a)", "One divided by the square root.", valid="a > 0")
_one("reciprocal", "1 / a", "−g · y²", "One divided by {a}.", valid="a ≠ 0", traits=(Trait.DIVIDES,))
_one("abs", "|a|", "g · sign(a)",
     "Drops the sign. Backwards: the gradient keeps its sign where {a} > 0, turns it where {a} < 0, and is 0 at "
     "0.", traits=(Trait.SIZE,))  # fmt: skip
_one("exp", "exp(a)", "g · y",
     "The exponential: it grows so fast that float16 overflows beyond 11.09, float32 beyond 88.7. It is its own "
     "slope.", traits=(Trait.EXPONENTIAL, Trait.SWALLOWS))  # fmt: skip
_one("expm1", "exp(a) − 1", "g · (y + 1)", "The exponential less one, exact for small {a}.", traits=(Trait.SWALLOWS,),
     forward=lambda a: mx.expm1(a))  # fmt: skip
_one("log", "ln(a)", "g / a",
     "The natural logarithm: −∞ at 0, no number below. Its slope grows without bound towards 0.",
     valid="a > 0", traits=(Trait.LOGARITHM,))  # fmt: skip
_one("log2", "ln(a) / ln 2", "g / (a · ln 2)", "The logarithm to the base 2.", valid="a > 0",
     traits=(Trait.LOGARITHM,))  # fmt: skip
_one("log10", "ln(a) / ln 10", "g / (a · ln 10)", "The logarithm to the base 10.", valid="a > 0",
     traits=(Trait.LOGARITHM,))  # fmt: skip
_one("log1p", "ln(1 + a)", "g / (1 + a)", "The natural logarithm of 1 + {a}, exact for small {a}.", valid="a > −1",
     forward=lambda a: mx.log1p(a))  # fmt: skip
_one("sin", "sin(a)", "g · cos(a)", "The sine; its slope is the cosine.")
_one("cos", "cos(a)", "−g · sin(a)", "The cosine; its slope is minus the sine.")
_one("tan", "sin(a) / cos(a)", "g / cos(a)²", "The tangent.")
_one("sinh", "(exp(a) − exp(−a)) / 2", "g · cosh(a)", "The hyperbolic sine.", forward=lambda a: mx.sinh(a))
_one("cosh", "(exp(a) + exp(−a)) / 2", "g · sinh(a)", "The hyperbolic cosine.")
_one("tanh", "tanh(a)", "g · (1 − y²)",
     "Squeezes into −1 to 1. Where it is close to either end it is flat, and passes almost no gradient.",
     traits=(Trait.SATURATES, Trait.SWALLOWS))  # fmt: skip
_one("arcsin", "arcsin(a)", "g / √(1 − a²)", "The angle of a sine.", valid="−1 ≤ a ≤ 1")
_one("arccos", "arccos(a)", "−g / √(1 − a²)", "The angle of a cosine.", valid="−1 ≤ a ≤ 1")
_one("arctan", "arctan(a)", "g / (1 + a²)", "The angle of a tangent.")
_one("arcsinh", "arsinh(a)", "g / √(a² + 1)", "The inverse of the hyperbolic sine.")
_one("arccosh", "arcosh(a)", "g / √(a² − 1)", "The inverse of the hyperbolic cosine.", valid="a ≥ 1")
_one("arctanh", "artanh(a)", "g / (1 − a²)", "The inverse of the hyperbolic tangent.", valid="−1 < a < 1")
_one("sigmoid", "1 / (1 + exp(−a))", "g · y · (1 − y)",
     "Squeezes into 0 to 1. Its slope is at most 1/4, and almost 0 where it is close to 0 or 1.",
     traits=(Trait.PROBABILITY, Trait.SATURATES, Trait.SWALLOWS))  # fmt: skip
_one("erf", "erf(a)", "g · 2/√π · exp(−a²)",
     "The error function: twice the area under the bell curve exp(−t²)/√π from 0 to {a}.",
     traits=(Trait.SATURATES, Trait.SWALLOWS))  # fmt: skip
_one("erfinv", "erf⁻¹(a)", "g · √π/2 · exp(y²)", "The inverse of the error function.", valid="−1 < a < 1")
_one("degrees", "a · 180/π", "g · 180/π", "Turns radians into degrees.")
_one("radians", "a · π/180", "g · π/180", "Turns degrees into radians.")
_one("real", "Re(a)", "g", "The real part of a complex number. Backwards: the gradient goes to it alone.")
_one("imag", "Im(a)", "g · i", "The imaginary part of a complex number. Backwards: the gradient goes to it alone.")
_one("conj", "conj(a)", "conj(g)", "The complex number with the sign of its imaginary part changed.")


def _clip(a: mx.array, a_min: Any = None, a_max: Any = None) -> mx.array:
    low = a if a_min is None else mx.maximum(a, a_min)
    return low if a_max is None else mx.minimum(low, a_max)


pointwise(
    "clip", "min(max(a, a_min), a_max)",
    {"a": "g · [a > a_min] · [max(a, a_min) < a_max]", "a_min": "g · [a ≤ a_min] · [a_min < a_max]",
     "a_max": "g · [max(a, a_min) ≥ a_max]"},
    "Cuts off what lies outside of the limits. Backwards: where it cuts, no gradient goes to {a}.",
    parameters="a, a_min=None, a_max=None", traits=(Trait.CLIPS, Trait.CHOOSES, Trait.SWALLOWS), forward=_clip,
)  # fmt: skip

pointwise(
    "where", "a if c else b", {"a": "g if c else 0", "b": "0 if c else g"},
    "Takes from {a} where the condition {c} holds, else from {b}. Backwards: each gets the gradient of what was "
    "taken from it; what was not taken gets 0, and the condition gets none.",
    parameters="c, a, b", traits=(Trait.SWITCHES, Trait.BROADCASTS, Trait.CHOOSES, Trait.SELECTS, Trait.SWALLOWS),
    forward=lambda c, a, b: mx.where(c, a, b),
)  # fmt: skip


enter(Entry(
    "nan_to_num", "{a} where it is a number, {nan} where it is NaN, other numbers where it is ±∞",
    "Replaces what is no number. Where no others are given, ±∞ become the largest and the smallest of the dtype.",
    lambda a, nan=0.0, posinf=None, neginf=None: mx.nan_to_num(a, nan, posinf, neginf),
    {"a": Slope("{g} where {a} is finite, else 0", lambda g, y, a, nan=0.0, posinf=None, neginf=None:
                mx.where(mx.isfinite(a), g, mx.zeros_like(g)))}, traits=frozenset({Trait.GUARDS, Trait.SWALLOWS}),
))  # fmt: skip


@forwards("nan_to_num")
def _nan_to_num_forward(case: Case, slot: int, index: Index) -> Line | None:
    """Write out that a number stays; what is none is replaced."""
    a, y = case.operand("a"), case.y[0]
    own, left = a.at(index), element(y.name, index)
    if isinstance(own, complex):
        return None
    if math.isfinite(own):
        return Line(left, a.node(index), (ReadNumber(a, index, "a number, so it stays"),))
    given = case.bound["nan" if math.isnan(own) else "posinf" if own > 0 else "neginf"]
    if given is None:
        given = y.at(index)  # the largest, or smallest, of the dtype
    return Line(left, literal(given), (ReadNumber(a, index, "so it is replaced"),))


def _astype(a: mx.array, dtype: mx.Dtype) -> mx.array:
    return mx.view(a, dtype) if a.dtype == dtype else a.astype(dtype)


enter(Entry(
    "astype", "{a} as {dtype}", "The same numbers in another dtype; digits may be lost. The gradient is converted "
    "back; through whole numbers it loses its fraction.", _astype,
    {"a": Slope("{g}", lambda g, y, a, dtype: g.astype(a.dtype))}, traits=frozenset({Trait.CASTS, Trait.CONVERTS}),
))  # fmt: skip

_FLAT = " Flat between steps: its gradient is 0."

for _name, _text, _parameters, _words, _more in (
    ("stop_gradient", "a", "a", "The same numbers; the gradient ends here on purpose.",
     {"traits": (Trait.STOPS, Trait.CONVERTS)}),
    ("sign", "sign(a)", "a", "−1, 0 or 1. A step: flat everywhere, so its gradient is 0.",
     {"traits": (Trait.STEPS,)}),
    ("floor", "⌊a⌋", "a", "The next whole number below." + _FLAT, {"traits": (Trait.STEPS,)}),
    ("ceil", "⌈a⌉", "a", "The next whole number above." + _FLAT, {"traits": (Trait.STEPS,)}),
    ("trunc", "sign(a) · ⌊|a|⌋", "a", "Cuts the fraction off." + _FLAT, {"traits": (Trait.STEPS,)}),
    ("floor_divide", "⌊a / b⌋", "a, b", "How often {b} fits into {a}. A step: its gradient is 0.",
     {"traits": (Trait.BROADCASTS, Trait.DIVIDES, Trait.STEPS), "forward": lambda a, b: mx.array(a) // b}),
    ("round", "round(a · 10^decimals) / 10^decimals", "a, decimals=0",
     "Rounds to so many digits after the point; halves go to the even digit." + _FLAT,
     {"traits": (Trait.STEPS,), "forward": lambda a, decimals=0: mx.round(a, decimals)}),
):  # fmt: skip
    pointwise(_name, _text, {}, _words, parameters=_parameters, kind=FIXED, **_more)
