"""Ticks: round numbers along an axis."""

from __future__ import annotations

import math

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def round_step(span: float, most: int) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that cuts a span into at most so many pieces."""
    least = span / most
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next((factor * power for factor in _STEPS if factor * power >= least * (1 - 1e-9)), 10 * power)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at most `low` to at least `high`, at most about so many; zero is one of them if it lies
    between. Always two or more."""
    if high <= low:
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    step = round_step(high - low, most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [at * step for at in range(first, max(last, first + 1) + 1)]


def tick_text(value: float) -> str:
    """Return a round number as short as it is: `-0.35`, `2e-05`."""
    return f"{value:.6g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-") if value else "0"
