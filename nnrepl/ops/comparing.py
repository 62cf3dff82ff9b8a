"""Comparing, logic and bits: answers, through which no gradient flows."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.ops.entry import FIXED
from nnrepl.ops.pointwise import pointwise, whole
from nnrepl.ops.traits import Trait

_NO_GRADIENT = " The answer is yes or no: it has no slope, and no gradient flows through it."

for _name, _text, _words in (
    ("equal", "[a = b]", "Whether two numbers are the same."),
    ("not_equal", "[a ≠ b]", "Whether two numbers differ."),
    ("greater", "[a > b]", "Whether {a} is larger."),
    ("greater_equal", "[a ≥ b]", "Whether {a} is larger or the same."),
    ("less", "[a < b]", "Whether {a} is smaller."),
    ("less_equal", "[a ≤ b]", "Whether {a} is smaller or the same."),
    ("logical_and", "[a and b]", "Whether both hold."),
    ("logical_or", "[a or b]", "Whether one of them holds."),
    ("logical_not", "[not a]", "Turns the answer round."),
    ("isnan", "[a ≠ a]", "Whether it is NaN, not a number: NaN is the only one that is not equal to itself."),
    ("isinf", "[|a| = ∞]", "Whether it is infinite."),
    ("isposinf", "[a = ∞]", "Whether it is infinite, above 0."),
    ("isneginf", "[a = −∞]", "Whether it is infinite, below 0."),
    ("isfinite", "[|a| < ∞]", "Whether it is an ordinary number."),
):
    _two = " b" in _text
    pointwise(
        _name, _text, {}, _words + _NO_GRADIENT, parameters="a, b" if _two else "a", kind=FIXED,
        traits=(Trait.ANSWERS, Trait.SWALLOWS, *((Trait.BROADCASTS,) if _two else ()),
                *((Trait.GUARDS,) if _name.startswith("is") else ())),
    )  # fmt: skip

for _name, _text, _forward, _words in (
    ("bitwise_and", "{a} & {b}", lambda a, b: mx.array(a) & b, "Both, bit by bit."),
    ("bitwise_or", "{a} | {b}", lambda a, b: mx.array(a) | b, "Either, bit by bit."),
    ("bitwise_xor", "{a} ^ {b}", lambda a, b: mx.array(a) ^ b, "One but not both, bit by bit."),
    ("bitwise_invert", "~{a}", lambda a: ~a, "Every bit turned round."),
    ("left_shift", "a · 2^b", lambda a, b: a * mx.power(mx.array(2, mx.array(a).dtype), b), "Moves bits up."),
    ("right_shift", "⌊a / 2^b⌋", lambda a, b: a // mx.power(mx.array(2, mx.array(a).dtype), b), "Moves bits down."),
):
    _two = "b" in _text
    pointwise(
        _name, _text, {}, _words + " Whole numbers have no gradient.", parameters="a, b" if _two else "a", kind=FIXED,
        traits=(Trait.BROADCASTS,) if _two else (), forward=_forward,
    )  # fmt: skip

_CLOSE = "rtol=1e-05, atol=1e-08, equal_nan=False"
for _name, _parameters, _text, _words in (
    ("isclose", f"a, b, {_CLOSE}", "|{a} − {b}| ≤ {atol} + {rtol} · |{b}|", "Whether two numbers are nearly the same."),
    ("allclose", f"a, b, {_CLOSE}", "|{a} − {b}| ≤ {atol} + {rtol} · |{b}| everywhere",
     "Whether two tensors are nearly the same."),
    ("array_equal", "a, b, equal_nan=False", "{a} = {b} everywhere", "Whether two tensors are the same."),
    ("logical_xor", "a, b", "one of {a} and {b}, but not both", "Whether one holds, but not both."),
):  # fmt: skip
    _run = (lambda name: lambda *a, **k: getattr(mx, name)(*a, **k))(_name)
    whole(_name, _parameters, _text, _words + _NO_GRADIENT, _run, kind=FIXED, traits=(Trait.ANSWERS, Trait.SWALLOWS))

whole("divmod", "a, b", "⌊{a} / {b}⌋ and {a} − {b} · ⌊{a} / {b}⌋", "How often {b} fits into {a}, and what is left.",
      lambda a, b: mx.divmod(a, b), traits=(Trait.BROADCASTS, Trait.DIVIDES))  # fmt: skip
