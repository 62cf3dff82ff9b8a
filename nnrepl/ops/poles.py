"""Poles: where an op, or its slope, has no finite value; why; and what would keep it away from there.

A rule is said only where its test holds on the very numbers that the op had (`nnrepl.explain.broken`), so each is a
sentence about an op with those numbers: the tests hold every one against MLX.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx

from nnrepl.ops.entry import ENTRIES, Given, Number, Pole

LARGEST = {mx.float16: 65504.0, mx.bfloat16: 3.39e38, mx.float32: 3.40e38}
"""The largest number of each dtype (IEEE 754)."""


def _a(test: Callable[[Number], bool]) -> Callable[[Given], bool]:
    return lambda given: len(given) > 0 and given[0] is not None and test(given[0])


def _both(test: Callable[[Number, Number], bool]) -> Callable[[Given], bool]:
    return lambda given: len(given) > 1 and given[0] is not None and given[1] is not None and test(given[0], given[1])


def _b(test: Callable[[Number], bool]) -> Callable[[Given], bool]:
    return lambda given: len(given) > 1 and given[1] is not None and test(given[1])


def _enter(names: str, *poles: Pole) -> None:
    for name in names.split():
        ENTRIES[name] = replace(ENTRIES[name], poles=(*ENTRIES[name].poles, *poles))


def _steep(names: str, *poles: Pole) -> None:
    for name in names.split():
        ENTRIES[name] = replace(ENTRIES[name], steep=(*ENTRIES[name].steep, *poles))


ENTRIES["exp"] = replace(ENTRIES["exp"], beyond={mx.float16: 11.09, mx.bfloat16: 88.72, mx.float32: 88.72})

_LOG = "Keep it above 0: mx.log(mx.maximum({}, 1e-7)), or compute it from logits (nn.log_softmax, logsumexp)."
_enter("log log2 log10", Pole(_a(lambda a: a == 0), "The logarithm of 0 is −∞.", _LOG),
       Pole(_a(lambda a: a < 0), "There is no logarithm of a negative number.", _LOG))  # fmt: skip
_enter("log1p", Pole(_a(lambda a: a <= -1), "ln(1 + a) has no finite value for a ≤ −1.", "Keep it above −1."))
_enter("remainder", Pole(_b(lambda b: b == 0), "There is no remainder of a division by 0.",
                         "Keep the divisor away from 0."))  # fmt: skip
_DIVIDE = "Keep the denominator away from 0: add a small number ({small}), or divide only where it is not 0."
_enter("divide floor_divide", Pole(_both(lambda a, b: a == 0 == b), "0 divided by 0 is no number.", _DIVIDE),
       Pole(_b(lambda b: b == 0), "A number divided by 0 is ∞.", _DIVIDE),
       Pole(_both(lambda a, b: math.isinf(a) and math.isinf(b)), "∞ / ∞ is no number."))  # fmt: skip
_enter("reciprocal", Pole(_a(lambda a: a == 0), "A number divided by 0 is ∞.", _DIVIDE))
_enter("sqrt rsqrt", Pole(_a(lambda a: a < 0), "There is no square root of a negative number.",
                          "Take mx.maximum(…, 0) first."))  # fmt: skip
_enter("rsqrt", Pole(_a(lambda a: a == 0), "1 / √0 is ∞.", "Add a small number before the root: mx.rsqrt(… + 1e-6)."))
_enter("power", Pole(_both(lambda a, b: a == 0 and b < 0), "A negative power of 0 is ∞.", "Keep the base away from 0."),
       Pole(_both(lambda a, b: -math.inf < a < 0 and math.isfinite(b) and b != int(b)),
            "A negative number has no power that is not whole.", "Keep the base above 0."))  # fmt: skip
_CLIP = "Clip it to the allowed range, a little inside of its ends."
_enter("arccos", Pole(_a(lambda a: abs(a) > 1), "arccos has no finite value there.", _CLIP))
_enter("arcsin", Pole(_a(lambda a: abs(a) > 1), "arcsin has no finite value there.", _CLIP))
_enter("arctanh", Pole(_a(lambda a: abs(a) >= 1), "arctanh has no finite value there.", _CLIP))
_enter("erfinv", Pole(_a(lambda a: abs(a) >= 1), "erfinv has no finite value there.", _CLIP))
_enter("arccosh", Pole(_a(lambda a: a < 1), "arccosh has no finite value there.", _CLIP))
_enter("subtract", Pole(_both(lambda a, b: math.isinf(a) and a == b), "∞ − ∞ is no number."))
_enter("add", Pole(_both(lambda a, b: math.isinf(a) and a == -b), "∞ − ∞ is no number."))
_enter("multiply", Pole(_both(lambda a, b: 0 in (a, b) and math.inf in (abs(a), abs(b))), "0 · ∞ is no number.",
                        "Mask with mx.where instead of multiplying by 0."))  # fmt: skip

_NO_ANGLE = "The point (0, 0) is seen under no angle: the slope there is 0/0."


def _infinite(name: str, rule: str, keep: str = "") -> None:
    more = f": {keep}" if keep else ""
    _steep(name, Pole(_a(lambda a: a == 0), f"The slope of {rule} at a = 0.", f"Keep {{}} away from 0{more}."))


_infinite("sqrt", "√a is 1 / (2·√a), which is infinite", "mx.sqrt({} + {small})")
_infinite("rsqrt", "1 / √a is infinite", "mx.rsqrt({} + {small})")
_infinite("log", "ln a is 1 / a, which is infinite", "mx.log(mx.maximum({}, 1e-7))")
_infinite("log2", "log₂ a is infinite", "mx.log2(mx.maximum({}, 1e-7))")
_infinite("log10", "log₁₀ a is infinite", "mx.log10(mx.maximum({}, 1e-7))")
_infinite("reciprocal", "1 / a is infinite")
_steep(
    "power",
    Pole(_both(lambda a, b: a == 0 == b), "The slope of a⁰ is 0 · a⁻¹, and 0 · ∞ is no number at a = 0.",
         "Keep {} away from 0.", slot=0, times=False),
    Pole(_a(lambda a: a < 0), "The slope along the exponent is ln(a) · aᵇ, and there is no logarithm of a negative "
         "number.", slot=1, times=False),
    Pole(_both(lambda a, b: a == 0 and b < 1), "The slope of a power below 1 is infinite at a = 0.",
         "Keep {} away from 0.", slot=0),
)  # fmt: skip
_steep("divide", Pole(_b(lambda b: b == 0), "The slope of a / b divides by b, which is 0.",
                      "Keep the divisor away from 0 before this op."))  # fmt: skip
_steep("arctan2", Pole(_both(lambda a, b: a == 0 == b), _NO_ANGLE, "Keep one of them away from 0."))
_steep("arccos arcsin arctanh", Pole(_a(lambda a: abs(a) == 1), "Its slope is infinite at the ends of its range.",
                                     "Clip a little inside of −1 and 1."))  # fmt: skip
# Of a row of numbers (a) that became one (b).
_steep("linalg.norm", Pole(_both(lambda a, b: a == 0 == b), "The slope of a length is a / ‖a‖: 0 / 0 for a vector of "
                           "zeros.", "Add a small number to {}.", times=False))  # fmt: skip
_steep("std", Pole(_b(lambda b: b == 0), "The slope of a standard deviation divides by it: 0 / 0 where all numbers are "
                   "the same.", "Take mx.sqrt(mx.var(…) + {small}).", times=False))  # fmt: skip
