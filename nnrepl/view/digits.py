"""Numbers: one number as text, in the usual form or in one that was asked for (`p/4f`, `p/e`, `p/x`)."""

from __future__ import annotations

import math
import re
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.session.errors import UserError

LETTERS = {
    "f": "with so many decimals: p/4f",
    "e": "in scientific form: p/2e",
    "g": "whichever of both is shorter: p/3g",
    "x": "the bits, in hexadecimal",
    "t": "the bits, in binary",
    "d": "whole numbers, rounded",
}
_UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


def number(value: Any) -> str:
    """One number: zeros (`0`, `-0`) and whole numbers short, the others with four decimals or in scientific form."""
    if isinstance(value, complex):
        sign = "-" if math.copysign(1.0, value.imag) < 0 else "+"
        return f"{number(value.real)}{sign}{number(abs(value.imag))}j"
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value) or math.isinf(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value)) if value or math.copysign(1.0, value) > 0 else "-0"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}"
    return f"{value:.3e}"


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are to be written.

    Attributes:
        letter: One of `LETTERS`, "" for the usual form.
        digits: Decimals, -1 for as many as usual.
    """

    letter: str = ""
    digits: int = -1

    def prepare(self, array: mx.array) -> mx.array:
        """Return what is to be converted to Python: the bits as unsigned integers, where these are wanted. Raises
        UserError for complex numbers, which have two halves."""
        if self.letter not in ("x", "t") or array.dtype == mx.bool_:
            return array
        if array.dtype == mx.complex64:
            raise UserError(f"/{self.letter} shows the bits of one number; take x.real or x.imag")
        return mx.view(array, _UNSIGNED[array.dtype.size])

    def __call__(self, value: Any) -> str:
        """One number, of what `prepare` gave."""
        if isinstance(value, complex):
            sign = "-" if math.copysign(1.0, value.imag) < 0 else "+"
            return f"{self(value.real)}{sign}{self(abs(value.imag))}j"
        if not self.letter or (isinstance(value, float) and not math.isfinite(value)):
            return number(value)
        if self.letter == "x":
            return f"{int(value):#x}"
        if self.letter == "t":
            return f"{int(value):#b}"
        if self.letter == "d":
            return str(round(value))
        digits = self.digits if self.digits >= 0 else 4
        return f"{value:.{digits}{self.letter}}"


def read_format(text: str) -> Format:
    """`4f` as a Format. Raises UserError."""
    found = re.fullmatch(r"(\d{0,2})([a-z])", text)
    if found is None or found[2] not in LETTERS:
        forms = ", ".join(f"/{letter}" for letter in LETTERS)
        raise UserError(f"there is no format /{text}; formats are {forms}, with decimals before the letter: /4f")
    return Format(found[2], int(found[1]) if found[1] else -1)
