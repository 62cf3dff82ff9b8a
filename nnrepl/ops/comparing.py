"""Comparing, logic and bits: answers, through which no gradient flows."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx

from nnrepl.ops.entry import FIXED, Entry, enter
from nnrepl.ops.traits import Trait

_NO_GRADIENT = " The answer is yes or no: it has no slope, and no gradient flows through it."

for _name, _text, _run, _words in (
    ("equal", "a = b", lambda a, b: ~(mx.array(a) != b), "Whether two numbers are the same."),
    ("not_equal", "a ≠ b", lambda a, b: ~(mx.array(a) == b), "Whether two numbers differ."),
    ("greater", "a > b", lambda a, b: b < mx.array(a), "Whether a is larger."),
    ("greater_equal", "a ≥ b", lambda a, b: b <= mx.array(a), "Whether a is larger or the same."),
    ("less", "a < b", lambda a, b: b > mx.array(a), "Whether a is smaller."),
    ("less_equal", "a ≤ b", lambda a, b: b >= mx.array(a), "Whether a is smaller or the same."),
    ("logical_not", "not a", lambda a: a == 0, "Turns the answer round."),
    ("logical_and", "a and b", lambda a, b: (a != 0) & (b != 0), "Whether both hold."),
    ("logical_or", "a or b", lambda a, b: (a != 0) | (b != 0), "Whether one of them holds."),
    ("isnan", "a is NaN", lambda a: a != a, "Whether it is not a number."),
    ("isinf", "a = ±∞", lambda a: mx.abs(a) == float("inf"), "Whether it is infinite."),
    ("isfinite", "a is finite", lambda a: mx.abs(a) < float("inf"), "Whether it is an ordinary number."),
):
    _entry = Entry(_name, _text, _words + _NO_GRADIENT, _run, {}, FIXED)
    _marks = {Trait.ANSWERS, Trait.BROADCASTS} if len(_entry.symbols) > 1 else {Trait.ANSWERS}
    enter(replace(_entry, traits=frozenset(_marks)))

for _name, _text, _run, _words in (
    ("bitwise_and", "a & b", lambda a, b: mx.array(a) & b, "Both, bit by bit."),
    ("bitwise_or", "a | b", lambda a, b: mx.array(a) | b, "Either, bit by bit."),
    ("bitwise_xor", "a ^ b", lambda a, b: mx.array(a) ^ b, "One but not both, bit by bit."),
    ("bitwise_invert", "~a", lambda a: ~a, "Every bit turned round."),
    ("left_shift", "a · 2ᵇ", lambda a, b: a * mx.power(mx.array(2, mx.array(a).dtype), b), "Moves bits up."),
    ("right_shift", "⌊a / 2ᵇ⌋", lambda a, b: a // mx.power(mx.array(2, mx.array(a).dtype), b), "Moves bits down."),
):
    _entry = Entry(_name, _text, _words + " Whole numbers have no gradient.", _run, {}, FIXED)
    enter(replace(_entry, traits=frozenset({Trait.BROADCASTS} if len(_entry.symbols) > 1 else ())))
