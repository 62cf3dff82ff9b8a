"""Elements: single numbers of tensors, by index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.look import Look
from nnrepl.ops.numbers import ravel, unravel
from nnrepl.session.errors import UserError
from nnrepl.tape import Value

Index = tuple[int, ...]

__all__ = [
    "Index",
    "broadcast_index",
    "named",
    "number_at",
    "numbers_at",
    "parse",
    "ravel",
    "telling",
    "telling_of",
    "unravel",
]


def parse(text: str, value: Value) -> Index:
    """`[2, 0]` as an index of a value; a negative number counts from the end.

    Raises:
        UserError: If there is no such element.
    """
    inside = text.strip().removeprefix("[").removesuffix("]").strip()
    words_ = [part.strip() for part in inside.split(",") if part.strip()]
    shape = value.shape
    if not all(re.fullmatch(r"-?\d{1,9}", part) for part in words_):
        raise UserError(f"an element is written at [2, 0], not {text}")
    if len(words_) != len(shape):
        raise UserError(f"{value.name} has shape {tuple(shape)}: an element of it is written with {len(shape)} numbers")
    index = []
    for axis, (part, extent) in enumerate(zip(words_, shape)):
        at = int(part)
        if not -extent <= at < extent:
            raise UserError(f"{value.name} has shape {tuple(shape)}: axis {axis} has no element {at}")
        index.append(at % extent)
    return tuple(index)


def number_at(look: Look, value: Value, index: Index) -> Any:
    """One number of a value."""
    array = look.array(value)
    return look.numbers([array[index] if index else array])[0]


def numbers_at(look: Look, value: Value, places: Sequence[int]) -> list[Any]:
    """Several numbers of a value, by flat places."""
    if not places:
        return []
    flat = look.array(value).flatten()
    found: list[Any] = look.numbers([mx.take(flat, mx.array(list(places)))])[0]
    return found


def broadcast_index(index: Index, shape: Sequence[int]) -> Index:
    """Return the element of a broadcast operand that belongs to an element of the result."""
    own = index[len(index) - len(shape) :] if shape else ()
    return tuple(0 if extent == 1 else at for at, extent in zip(own, shape))


def named(value: Value, index: Index) -> str:
    """`z1[0,2]`."""
    return words.element(words.name(value), index)


def telling(look: Look, value: Value) -> Index:
    """Return the element that a reader would choose: a NaN, an overflow, else the largest by its absolute value. The −∞
    of a mask (and the most negative number, which stands for it) is passed over where there is something else."""
    array = look.array(value)
    if not array.size:
        raise UserError(f"{value.name} has no elements")
    return telling_of(look, array)


def telling_of(look: Look, array: mx.array) -> Index:
    """Return the same of numbers that have been looked at already."""
    flat = array.flatten()
    if not mx.issubdtype(flat.dtype, mx.inexact):
        flat = flat.astype(mx.float32)  # the size of int8's −128 is no int8
    size = mx.abs(flat).astype(mx.float32)
    real = mx.real(flat)
    nan, up, down = mx.isnan(flat), mx.isinf(flat) & (real > 0), mx.isinf(flat) & ~(real > 0)
    plain = mx.isfinite(flat) & ~((size > _MASK) & (real < 0))
    kept = mx.where(plain, size, -1)
    found = look.numbers([
        mx.any(nan), mx.argmax(nan), mx.any(up), mx.argmax(up), mx.sum(down), mx.argmax(down), mx.any(plain),
        mx.argmax(kept), mx.argmax(mx.where(mx.isfinite(size), size, 0)),
    ])  # fmt: skip
    any_nan, first_nan, any_up, first_up, count_down, first_down, any_plain, most, most_at_all = found
    if any_nan:
        return unravel(int(first_nan), array.shape)
    if any_up:
        return unravel(int(first_up), array.shape)
    if count_down and (count_down <= 0.1 * flat.size or not any_plain):
        return unravel(int(first_down), array.shape)
    return unravel(int(most if any_plain else most_at_all), array.shape)


_MASK = 1e30
"""Numbers below minus this stand for −∞."""
