"""Numbers and elements as a teacher writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MINUS = "−"
LISTED = 6
"""So many numbers of a row are shown."""


def number(value: Any) -> str:
    """One number with a real minus sign: an exact one as short as it is (`0.5`), a rounded one with its zeros
    (`0.5000`), at least four digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, complex):
        return f"({number(value.real)} {MINUS if value.imag < 0 else '+'} {number(abs(value.imag))}i)"
    if isinstance(value, int):
        return str(value).replace("-", MINUS)
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return _float(value).replace("-", MINUS)


def _float(value: float) -> str:
    size = abs(value)
    if value == int(value) and size < 1e6:
        return str(int(value))
    if not 1e-3 <= size < 1e6:
        mantissa, _, power = f"{value:.3e}".partition("e")
        exact = float(f"{mantissa}e{power}") == float(f"{value:.7g}")
        return f"{mantissa.rstrip('0').rstrip('.') if exact else mantissa}e{power}"
    digits = 4 if size >= 0.1 else 5 if size >= 0.01 else 6
    text = f"{value:.{digits}f}"
    # float32 holds seven digits: what has no more than are shown is shown as it is.
    return text.rstrip("0").rstrip(".") if float(text) == float(f"{value:.7g}") else text


def factor(value: Any) -> str:
    """Return a number in a product: a negative one in brackets."""
    text = number(value)
    return f"({text})" if text.startswith(MINUS) else text


def element(name: str, index: Sequence[int]) -> str:
    """`z1[0,2]`; a tensor without axes is just its name."""
    return f"{name}[{','.join(map(str, index))}]" if index else name


def listed(numbers: Sequence[Any]) -> str:
    """Return some numbers in a line, of many the first ones: `[0.2477 0.5000 … 30 more]`."""
    kept = numbers if len(numbers) <= LISTED + 1 else numbers[:LISTED]
    more = f" … {len(numbers) - len(kept)} more" if len(kept) < len(numbers) else ""
    return f"[{' '.join(map(number, kept))}{more}]"


def unravel(at: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Return a flat place as an index."""
    index: list[int] = []
    for extent in reversed(shape):
        index.append(at % extent if extent else 0)
        at //= extent or 1
    return tuple(reversed(index))


def ravel(index: Sequence[int], shape: Sequence[int]) -> int:
    """Return an index as a flat place."""
    at = 0
    for step, extent in zip(index, shape):
        at = at * extent + step
    return at
