"""Elementwise ops: each number of the result comes from the numbers at the same place."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import ELEMENTWISE, FIXED, Entry, Run, Slope, enter
from nnrepl.ops.traits import Trait

_FIRST, _SECOND = "a", "b"


def _one(
    name: str, text: str, forward: Run, slope: str, run: Run, words: str, valid: str = "", kink: str = "",
    traits: tuple[Trait, ...] = (),
) -> None:  # fmt: skip
    """An op of one tensor; `run(g, y, a)` is the slope `g · ...`."""
    slopes = {_FIRST: Slope(slope, run)}
    enter(Entry(name, text, words, forward, slopes, ELEMENTWISE, valid, kink, frozenset(traits)))


def _larger(a: Any, b: Any) -> mx.array:
    """A NaN on either side stays."""
    a = mx.array(a)
    return mx.where(mx.isnan(a + b), a + b, mx.where(a > b, a, b))


def _smaller(a: Any, b: Any) -> mx.array:
    a = mx.array(a)
    return mx.where(mx.isnan(a + b), a + b, mx.where(a < b, a, b))


def _magnitude(a: mx.array) -> mx.array:
    if a.dtype == mx.complex64:
        return mx.sqrt(mx.square(mx.real(a)) + mx.square(mx.imag(a)))
    return mx.where(a < 0, -a, a)


def _two(
    name: str, text: str, forward: Run, slopes: tuple[tuple[str, Run], ...], words: str, valid: str = "",
    kink: str = "", traits: tuple[Trait, ...] = (),
) -> None:  # fmt: skip
    """An op of two tensors (or a tensor and a number)."""
    named = {symbol: Slope(*slope) for symbol, slope in zip((_FIRST, _SECOND), slopes)}
    marks = frozenset({Trait.BROADCASTS, *traits})
    enter(Entry(name, text, words, forward, named, ELEMENTWISE, valid, kink, marks))


_two("add", "a + b", lambda a, b: a + b, (("g", lambda g, y, a, b: g), ("g", lambda g, y, a, b: g)),
     "Adds. A sum hands the gradient on unchanged to both sides.")  # fmt: skip
_two("subtract", "a − b", lambda a, b: a - b, (("g", lambda g, y, a, b: g), ("−g", lambda g, y, a, b: -g)),
     "Subtracts. The left side gets the gradient as it is, the right side with the opposite sign.")  # fmt: skip
_two("multiply", "a · b", lambda a, b: a * b,
     (("g · b", lambda g, y, a, b: g * b), ("g · a", lambda g, y, a, b: g * a)),
     "Multiplies. Each factor's gradient is the gradient times the other factor.")  # fmt: skip
_two("divide", "a / b", lambda a, b: a * mx.reciprocal(mx.array(b)) if isinstance(b, int) and b == 0 else a / b,
     (("g / b", lambda g, y, a, b: g / b), ("−g · a / b²", lambda g, y, a, b: -g * a / (b * b))),
     "Divides.", valid="b ≠ 0")  # fmt: skip
_two("power", "a ^ b", lambda a, b: mx.array(a) ** b,
     (("g · b · a^(b−1)", lambda g, y, a, b: g * (b * mx.array(a) ** (b - 1))),
      ("g · ln(a) · a^b", lambda g, y, a, b: g * mx.where(y == 0, mx.zeros_like(y), mx.log(mx.array(a)) * y))),
     "Raises to a power. The exponent comes down as a factor, and the power falls by one.",
     valid="a ≥ 0 unless b is whole, a ≠ 0 if b < 0")  # fmt: skip
_two("maximum", "max(a, b)", _larger,
     (("g · [a > b]", lambda g, y, a, b: g * (mx.array(a) > b)),
      ("g · [a ≤ b]", lambda g, y, a, b: g * (mx.array(a) <= b))),
     "The larger of two numbers passes. The gradient goes to the one that was larger; the other gets nothing.",
     kink="a b", traits=(Trait.CHOOSES,))  # fmt: skip
_two("minimum", "min(a, b)", _smaller,
     (("g · [a < b]", lambda g, y, a, b: g * (mx.array(a) < b)),
      ("g · [a ≥ b]", lambda g, y, a, b: g * (mx.array(a) >= b))),
     "The smaller of two numbers passes. The gradient goes to the one that was smaller; the other gets nothing.",
     kink="a b", traits=(Trait.CHOOSES,))  # fmt: skip
_two("arctan2", "arctan(a / b)", lambda a, b: mx.arctan2(a, b),
     (("g · b / (a² + b²)", lambda g, y, a, b: g * b / (a * a + b * b)),
      ("−g · a / (a² + b²)", lambda g, y, a, b: -g * a / (a * a + b * b))),
     "The angle of the point (b, a).")  # fmt: skip
_two("logaddexp", "ln(exp(a) + exp(b))",
     lambda a, b: mx.maximum(a, b) + mx.log1p(mx.exp(-mx.abs(mx.array(a) - b))),
     (("g · exp(a) / (exp(a) + exp(b))", lambda g, y, a, b: g * mx.sigmoid(mx.array(a) - b)),
      ("g · exp(b) / (exp(a) + exp(b))", lambda g, y, a, b: g * mx.sigmoid(b - mx.array(a)))),
     "A soft maximum: the logarithm of a sum of exponentials. Each side gets its share of the gradient.")  # fmt: skip
_two("remainder", "a − b · ⌊a / b⌋", lambda a, b: a % b,
     (("g", lambda g, y, a, b: g), ("−g · ⌊a / b⌋", lambda g, y, a, b: -g * mx.floor(a / b))),
     "What is left of a after taking away b as often as it fits.", valid="b ≠ 0")  # fmt: skip

_one("negative", "−a", lambda a: 0 - a if mx.issubdtype(a.dtype, mx.integer) else a * -1, "−g", lambda g, y, a: -g,
     "Changes the sign, of the gradient too.")  # fmt: skip
_one("positive", "a", lambda a: a, "g", lambda g, y, a: g, "Changes nothing.")
_one(
    "square", "a²", lambda a: a * a, "g · 2 · a", lambda g, y, a: g * (2 * a), "Squares. Its slope is twice the number."
)
_one("sqrt", "√a", lambda a: mx.sqrt(a), "g / (2 · √a)", lambda g, y, a: g * (0.5 / y),
     "The square root. Its slope grows without bound towards 0, and is infinite at 0.", valid="a ≥ 0")  # fmt: skip
_one("rsqrt", "1 / √a", lambda a: 1 / mx.sqrt(a), "−g / (2 · a · √a)", lambda g, y, a: g * (-0.5 * (y / a)),
     "One divided by the square root.", valid="a > 0")  # fmt: skip
_one(
    "reciprocal", "1 / a", lambda a: 1 / a, "−g / a²", lambda g, y, a: -g * (y * y), "One divided by a.", valid="a ≠ 0"
)
_one("abs", "|a|", _magnitude, "g · sign(a)", lambda g, y, a: g * mx.sign(a),
     "Drops the sign. The gradient keeps its sign where a > 0, turns it where a < 0, and is 0 at 0.",
     kink="a 0")  # fmt: skip
_one("exp", "exp(a)", lambda a: mx.exp(a), "g · exp(a)", lambda g, y, a: g * y,
     "The exponential: it grows so fast that float16 overflows beyond 11.09, float32 beyond 88.7. It is its own "
     "slope.")  # fmt: skip
_one("expm1", "exp(a) − 1", lambda a: mx.expm1(a), "g · exp(a)", lambda g, y, a: g * (y + 1),
     "The exponential less one, exact for small a.")  # fmt: skip
_one("log", "ln(a)", lambda a: mx.log(a), "g / a", lambda g, y, a: g / a,
     "The natural logarithm: −∞ at 0, no number below. Its slope grows without bound towards "
     "0.", valid="a > 0")  # fmt: skip
_one("log2", "log₂(a)", lambda a: mx.log(a) / math.log(2), "g / (a · ln 2)", lambda g, y, a: g / (a * math.log(2)),
     "The logarithm to the base 2.", valid="a > 0")  # fmt: skip
_one("log10", "log₁₀(a)", lambda a: mx.log(a) / math.log(10), "g / (a · ln 10)", lambda g, y, a: g / (a * math.log(10)),
     "The logarithm to the base 10.", valid="a > 0")  # fmt: skip
_one("log1p", "ln(1 + a)", lambda a: mx.log1p(a), "g / (1 + a)", lambda g, y, a: g / (1 + a),
     "The natural logarithm of 1 + a, exact for small a.", valid="a > −1")  # fmt: skip
_one(
    "sin",
    "sin(a)",
    lambda a: mx.sin(a),
    "g · cos(a)",
    lambda g, y, a: g * mx.cos(a),
    "The sine; its slope is the cosine.",
)
_one("cos", "cos(a)", lambda a: mx.cos(a), "−g · sin(a)", lambda g, y, a: -g * mx.sin(a),
     "The cosine; its slope is minus the sine.")  # fmt: skip
_one(
    "tan", "tan(a)", lambda a: mx.sin(a) / mx.cos(a), "g / cos(a)²", lambda g, y, a: g / mx.cos(a) ** 2, "The tangent."
)
_one("sinh", "(exp(a) − exp(−a)) / 2", lambda a: mx.sinh(a), "g · cosh(a)", lambda g, y, a: g * mx.cosh(a),
     "The hyperbolic sine.")  # fmt: skip
_one("cosh", "(exp(a) + exp(−a)) / 2", lambda a: mx.cosh(a), "g · sinh(a)", lambda g, y, a: g * mx.sinh(a),
     "The hyperbolic cosine.")  # fmt: skip
_one("tanh", "tanh(a)", lambda a: mx.tanh(a), "g · (1 − tanh(a)²)", lambda g, y, a: g * (1 - y * y),
     "Squeezes into −1 to 1. Where it is close to either end it is flat, and passes almost no gradient.",
     traits=(Trait.SATURATES,))  # fmt: skip
_one("arcsin", "arcsin(a)", lambda a: mx.arcsin(a), "g / √(1 − a²)", lambda g, y, a: g * mx.rsqrt(1 - a * a),
     "The angle of a sine.", valid="−1 ≤ a ≤ 1")  # fmt: skip
_one("arccos", "arccos(a)", lambda a: mx.arccos(a), "−g / √(1 − a²)", lambda g, y, a: -g * mx.rsqrt(1 - a * a),
     "The angle of a cosine.", valid="−1 ≤ a ≤ 1")  # fmt: skip
_one("arctan", "arctan(a)", lambda a: mx.arctan(a), "g / (1 + a²)", lambda g, y, a: g / (1 + a * a),
     "The angle of a tangent.")  # fmt: skip
_one("arcsinh", "arsinh(a)", lambda a: mx.arcsinh(a), "g / √(a² + 1)", lambda g, y, a: g * mx.rsqrt(a * a + 1),
     "The inverse of the hyperbolic sine.")  # fmt: skip
_one("arccosh", "arcosh(a)", lambda a: mx.arccosh(a), "g / √(a² − 1)", lambda g, y, a: g * mx.rsqrt(a * a - 1),
     "The inverse of the hyperbolic cosine.", valid="a ≥ 1")  # fmt: skip
_one("arctanh", "artanh(a)", lambda a: mx.arctanh(a), "g / (1 − a²)", lambda g, y, a: g / (1 - a * a),
     "The inverse of the hyperbolic tangent.", valid="−1 < a < 1")  # fmt: skip
_one("sigmoid", "1 / (1 + exp(−a))", lambda a: mx.sigmoid(a), "g · σ · (1 − σ), where σ = 1 / (1 + exp(−a))",
     lambda g, y, a: g * (y * (1 - y)),
     "Squeezes into 0 to 1. Its slope is at most 1/4, and almost 0 where it is close to 0 or 1.",
     traits=(Trait.SATURATES,))  # fmt: skip
_one("erf", "erf(a)", lambda a: mx.erf(a), "g · 2/√π · exp(−a²)",
     lambda g, y, a: g * (2 / math.sqrt(math.pi) * mx.exp(-a * a)),
     "The error function: twice the area under the bell curve exp(−t²)/√π from 0 to a.",
     traits=(Trait.SATURATES,))  # fmt: skip
_one("erfinv", "erf⁻¹(a)", lambda a: mx.erfinv(a), "g · √π/2 · exp(y²)",
     lambda g, y, a: g * (math.sqrt(math.pi) / 2 * mx.exp(y * y)), "The inverse of the error function.",
     valid="−1 < a < 1")  # fmt: skip
_one("degrees", "a · 180/π", lambda a: a * (180 / math.pi), "g · 180/π", lambda g, y, a: g * (180 / math.pi),
     "Turns radians into degrees.")  # fmt: skip
_one("radians", "a · π/180", lambda a: a * (math.pi / 180), "g · π/180", lambda g, y, a: g * (math.pi / 180),
     "Turns degrees into radians.")  # fmt: skip


def _clip(a: mx.array, a_min: Any = None, a_max: Any = None) -> mx.array:
    low = a if a_min is None else mx.maximum(a, a_min)
    return low if a_max is None else mx.minimum(low, a_max)


def _inside(g: mx.array, y: mx.array, a: mx.array, a_min: Any = None, a_max: Any = None) -> mx.array:
    above = mx.ones(g.shape, mx.bool_) if a_min is None else a > a_min
    below = mx.ones(g.shape, mx.bool_) if a_max is None else mx.maximum(a, a if a_min is None else a_min) < a_max
    return g * (above & below)


def _at_lower(g: mx.array, y: mx.array, a: mx.array, a_min: Any = None, a_max: Any = None) -> Any:
    below = mx.ones(g.shape, mx.bool_) if a_max is None else mx.maximum(a, a_min) < a_max
    return g * ((a <= a_min) & below)


def _at_upper(g: mx.array, y: mx.array, a: mx.array, a_min: Any = None, a_max: Any = None) -> Any:
    return g * ((a if a_min is None else mx.maximum(a, a_min)) >= a_max)


enter(Entry(
    "clip", "min(max(a, a_min), a_max)",
    "Cuts off what lies outside of the limits. Where it cuts, no gradient goes to a.", _clip,
    {"a": Slope("g · [a_min < a < a_max]", _inside), "a_min": Slope("g · [a ≤ a_min]", _at_lower),
     "a_max": Slope("g · [a ≥ a_max]", _at_upper)}, ELEMENTWISE, kink="a a_min a_max",
    traits=frozenset({Trait.CHOOSES}),
))  # fmt: skip

enter(Entry(
    "where", "a if c else b", "Takes from a where the condition holds, else from b. Each gets the gradient of what was "
    "taken from it; what was not taken gets 0, and the condition gets none.",
    lambda c, a, b: mx.where(c, a, b),
    {"a": Slope("g · [c]", lambda g, y, c, a, b: mx.where(c, g, mx.zeros_like(g))),
     "b": Slope("g · [not c]", lambda g, y, c, a, b: mx.where(c, mx.zeros_like(g), g))},
    traits=frozenset({Trait.BROADCASTS, Trait.CHOOSES}),
))  # fmt: skip

enter(Entry(
    "nan_to_num", "a, or a fixed number where a is NaN or ±∞", "Replaces what is no number.",
    lambda a, nan=0.0, posinf=None, neginf=None: mx.nan_to_num(a, nan, posinf, neginf),
    {"a": Slope("g · [a is finite]", lambda g, y, a, nan=0.0, posinf=None, neginf=None:
                mx.where(mx.isfinite(a), g, mx.zeros_like(g)))},
))  # fmt: skip


def _astype(a: mx.array, dtype: mx.Dtype) -> mx.array:
    return mx.view(a, dtype) if a.dtype == dtype else a.astype(dtype)


enter(Entry(
    "astype", "a, as another dtype", "The same numbers in another dtype; digits may be lost. The gradient is converted "
    "back; through whole numbers it loses its fraction.", _astype,
    {"a": Slope("g", lambda g, y, a, dtype: g.astype(a.dtype))}, traits=frozenset({Trait.CONVERTS}),
))  # fmt: skip

for _name, _text, _run, _words in (
    ("stop_gradient", "a", lambda a: a, "The same numbers; the gradient ends here on purpose."),
    ("sign", "sign(a)", lambda a: mx.where(a > 0, 1, mx.where(a < 0, -1, 0)).astype(a.dtype),
     "−1, 0 or 1. A step: flat everywhere, so its gradient is 0."),
    ("floor", "⌊a⌋", lambda a: mx.floor(a), "The next whole number below. Flat between steps: its gradient is 0."),
    ("ceil", "⌈a⌉", lambda a: mx.ceil(a), "The next whole number above. Flat between steps: its gradient is 0."),
    ("trunc", "a without its fraction", lambda a: mx.sign(a) * mx.floor(mx.abs(a)),
     "Cuts the fraction off. Flat between steps: its gradient is 0."),
    ("round", "round(a)", lambda a, decimals=0: mx.round(a, decimals),
     "The nearest whole number. Flat between steps: its gradient is 0."),
    ("floor_divide", "⌊a / b⌋", lambda a, b: mx.array(a) // b, "How often b fits into a. A step: its gradient is 0."),
):  # fmt: skip
    _marks = {"stop_gradient": {Trait.CONVERTS}, "floor_divide": {Trait.BROADCASTS}}.get(_name, set())
    enter(Entry(_name, _text, _words, _run, {}, FIXED, traits=frozenset(_marks)))
