"""Scalars: arithmetic on Python numbers as tensors do it (∞ and NaN instead of exceptions), with bounds of rounding."""

from __future__ import annotations

import cmath
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.late import late

Scalar = int | float | complex | bool


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number, and how far rounding can have moved it."""

    value: Any
    error: float


def combine(run: Callable[..., Any], parts: Sequence[Bounded], epsilon: float) -> Bounded:
    """Return a function of numbers with bounds: what it gives, how far it moves when each moves, and its own
    rounding."""
    values = [part.value for part in parts]
    value = run(*values)
    error = epsilon * _size(value)
    for at, part in enumerate(parts):
        if part.error:
            moved = [run(*values[:at], values[at] + step, *values[at + 1 :]) for step in (part.error, -part.error)]
            reach = [_distance(one, value) for one in moved]
            error += max(reach)
    return Bounded(value, error)


def _size(value: Any) -> float:
    size = abs(value)
    return float(size) if size < math.inf else 0.0


def _distance(one: Any, other: Any) -> float:
    far = abs(one - other)
    return float(far) if far < math.inf else 0.0


def _divide(a: Any, b: Any) -> Any:
    if b != 0:
        try:
            return a / b
        except OverflowError:
            return math.inf
    if a != a or a == 0:
        return math.nan
    if isinstance(a, complex):
        return complex(math.nan, math.nan)
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _multiply(a: Any, b: Any) -> Any:
    return a * b


def _power(a: Any, b: Any) -> Any:
    if a == 0 and not isinstance(b, complex) and b < 0:
        return math.copysign(math.inf, a) if not isinstance(a, complex) and b % 2 == 1 else math.inf
    try:
        found = a**b
    except OverflowError:
        return math.inf
    return math.nan if isinstance(found, complex) and not isinstance(a, complex) else found


def _guarded(real: Callable[[float], float], over: float = math.inf, other: Callable[..., Any] | None = None) -> Any:
    """Return a function of one number: NaN outside of where it has a meaning, `over` where it is too large."""

    def run(a: Any) -> Any:
        if isinstance(a, complex):
            return other(a) if other is not None else complex(math.nan, math.nan)
        try:
            return real(a)
        except OverflowError:
            return over
        except ValueError:
            return math.nan

    return run


def _log(base: Callable[[float], float]) -> Any:
    def run(a: Any) -> Any:
        if isinstance(a, complex):
            return cmath.log(a) if a != 0 else complex(-math.inf, 0)
        return -math.inf if a == 0 else base(a) if a > 0 else math.nan

    return run


def _root(a: Any) -> Any:
    if isinstance(a, complex):
        return cmath.sqrt(a)
    return math.sqrt(a) if a >= 0 else math.nan


def _whole(run: Callable[[float], int]) -> Any:
    return lambda a: run(a) if isinstance(a, int) or math.isfinite(a) else a


def _sign(a: Any) -> Any:
    if isinstance(a, complex):
        return a / abs(a) if a != 0 else 0j
    return (a > 0) - (a < 0)  # 0 of NaN, as MLX has it


def _erfinv(a: Any) -> Any:
    if not -1 < a < 1:
        return math.copysign(math.inf, a) if abs(a) == 1 else math.nan
    normal = late("statistics").NormalDist()  # it brings fractions and decimals along, which nothing else needs
    return normal.inv_cdf((a + 1) / 2) / math.sqrt(2)


def _artanh(a: Any) -> Any:
    return math.copysign(math.inf, a) if not isinstance(a, complex) and abs(a) == 1 else _OPEN_ARTANH(a)


_OPEN_ARTANH = _guarded(math.atanh, math.inf, cmath.atanh)


def _extreme(pick: Callable[[Any, Any], Any]) -> Any:
    return lambda a, b: a if a != a else b if b != b else pick(a, b)


SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "−": operator.sub, "·": _multiply, "/": _divide,
}  # fmt: skip

COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, ">": operator.gt, "≤": operator.le, "≥": operator.ge, "=": operator.eq, "≠": operator.ne,
}  # fmt: skip

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "negative": operator.neg, "power": _power, "root": _root, "abs": abs,
    "floor": _whole(math.floor), "ceil": _whole(math.ceil),
    "exp": _guarded(math.exp, math.inf, cmath.exp), "ln": _log(math.log), "log₂": _log(math.log2),
    "log₁₀": _log(math.log10),
    "sin": _guarded(math.sin, math.nan, cmath.sin), "cos": _guarded(math.cos, math.nan, cmath.cos),
    "tan": _guarded(math.tan, math.nan, cmath.tan), "sinh": _guarded(math.sinh, math.inf, cmath.sinh),
    "cosh": _guarded(math.cosh, math.inf, cmath.cosh), "tanh": _guarded(math.tanh, 1.0, cmath.tanh),
    "arcsin": _guarded(math.asin, math.nan, cmath.asin), "arccos": _guarded(math.acos, math.nan, cmath.acos),
    "arctan": _guarded(math.atan, math.nan, cmath.atan), "arsinh": _guarded(math.asinh, math.inf, cmath.asinh),
    "arcosh": _guarded(math.acosh, math.inf, cmath.acosh), "artanh": _artanh,
    "angle": lambda a, b: math.atan2(b, a), "erf": _guarded(math.erf), "erf⁻¹": _erfinv, "sign": _sign,
    "round": _whole(round), "max": _extreme(max), "min": _extreme(min),
    "Re": lambda a: complex(a).real, "Im": lambda a: complex(a).imag, "conj": lambda a: a.conjugate(),
}  # fmt: skip
"""The functions that a formula may call, by the names that they have there (and those of kinds of nodes)."""
