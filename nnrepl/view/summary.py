"""Summary: a tensor in a few numbers. A large one is reduced in pieces: never converted or copied whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.record.batches import total
from nnrepl.view.digits import number

PIECE = 1 << 22
"""So many elements are reduced at a time: Ctrl-C takes effect between two pieces, and memory stays small."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A tensor in a few numbers; floats are NaN where they do not apply (an empty tensor, a bool).

    Attributes:
        low, high, mean, deviation: Over the finite elements; of the magnitude, for complex numbers.
        zeros, nans, infinities: How many elements are so.
        size: How many elements there are.
        kind: "", "bool" or "complex".
    """

    low: float
    high: float
    mean: float
    deviation: float
    zeros: int
    nans: int
    infinities: int
    size: int
    kind: str = ""


def pieces(array: mx.array, limit: int = 0) -> Iterator[mx.array]:
    """Yield an array in slices of at most `limit` elements (`PIECE`, if that is 0), along its leading axes; lazy views,
    no copies."""
    limit = limit or PIECE
    if array.size <= limit:
        yield array
        return
    axis = next(axis for axis, extent in enumerate(array.shape) if extent > 1)
    extent = array.shape[axis]
    rows = max(1, limit * extent // array.size)
    for start in range(0, extent, rows):
        yield from pieces(array[(slice(None),) * axis + (slice(start, start + rows),)], limit)


def summarize(array: mx.array) -> Summary:
    """Reduce a tensor of any shape and dtype to a few numbers.

    Mean and deviation of the pieces are put together in double precision (Chan, Golub and LeVeque 1979).
    """
    kind = "bool" if array.dtype == mx.bool_ else "complex" if array.dtype == mx.complex64 else ""
    low, high, mean, squares = math.inf, -math.inf, 0.0, 0.0
    count = zeros = nans = infinities = 0
    for piece in pieces(array) if array.size else ():
        part = _reduce(piece)
        zeros, nans, infinities = zeros + part[5], nans + part[6], infinities + part[7]
        if part[0]:
            low, high = min(low, part[1]), max(high, part[2])
            total, apart = count + part[0], part[3] - mean
            squares += part[4] + apart * apart * count * part[0] / total
            mean += apart * part[0] / total
            count = total
    if not count:
        nothing = math.nan
        return Summary(nothing, nothing, nothing, nothing, zeros, nans, infinities, array.size, kind)
    if low == high:  # float32 rounds the mean of equal numbers
        mean, squares = float(low), 0.0
    return Summary(low, high, mean, math.sqrt(squares / count), zeros, nans, infinities, array.size, kind)


def _reduce(piece: mx.array) -> tuple[int, Any, Any, float, float, int, int, int]:
    """Of one piece: the number of finite elements, their least, greatest, mean and sum of squared differences
    from it; and how many elements are zero, NaN and infinite."""
    exact = not mx.issubdtype(piece.dtype, mx.inexact)
    zeros = mx.sum(piece == 0)
    if piece.dtype == mx.complex64:
        piece = mx.abs(piece)
    wide = piece if piece.dtype == mx.float64 else piece.astype(mx.float32)
    if exact:
        mean = total(wide) / wide.size
        low, high = (mx.min(piece), mx.max(piece)) if piece.dtype != mx.bool_ else (mx.min(wide), mx.max(wide))
        squares = total(mx.square(wide - mean))
        mx.eval(low, high, mean, squares, zeros)
        return piece.size, low.item(), high.item(), _float(mean), _float(squares), int(_float(zeros)), 0, 0
    finite, nan = mx.isfinite(wide), mx.isnan(wide)
    count, nans = mx.sum(finite), mx.sum(nan)
    mean = total(mx.where(finite, wide, 0)) / count
    squares = total(mx.where(finite, mx.square(wide - mean), 0))
    low, high = mx.min(mx.where(finite, wide, math.inf)), mx.max(mx.where(finite, wide, -math.inf))
    mx.eval(low, high, mean, squares, zeros, count, nans)
    number_finite, number_nan = int(_float(count)), int(_float(nans))
    least, most, around, apart = _float(low), _float(high), _float(mean), _float(squares)
    reach = max(abs(least), abs(most))
    if number_finite and reach and not _SQUARABLE[0] < reach < _SQUARABLE[1]:
        around, apart = _moments(mx.where(finite, wide, 0), finite, count, -math.frexp(reach)[1])
    return (
        number_finite, least, most, around, apart, int(_float(zeros)), number_nan,
        piece.size - number_finite - number_nan,
    )  # fmt: skip


_SQUARABLE = 1e-15, 1e15
"""In float32 sums of squares of larger numbers overflow (a mask of −3.4e38), and those of smaller ones come to 0."""


def _moments(wide: mx.array, finite: mx.array, count: mx.array, power: int) -> tuple[float, float]:
    """Return the mean of the finite elements and the sum of their squared differences from it, which are computed of
    numbers 2^power times as large."""
    half = power // 2  # 2^-128 is too small for a float32
    scaled = wide * 2.0**half * 2.0 ** (power - half)
    mean = total(scaled) / count
    squares = total(mx.where(finite, mx.square(scaled - mean), 0))
    mx.eval(mean, squares)
    return math.ldexp(_float(mean), -power), math.ldexp(_float(squares), -2 * power)


def _float(array: mx.array) -> float:
    scalar: Any = array.item()
    return float(scalar)


def summary_text(summary: Summary, brief: bool = False) -> Text:
    """`min -3.1 · max 2.9 · mean 0.01 · std 0.9 · 12 % zeros`; in brief without mean and deviation."""
    if summary.kind == "bool":
        return Text(f"{_share(summary.size - summary.zeros, summary.size)} true", style="dim")
    parts = []
    if not math.isnan(summary.mean):
        parts = [
            f"min {number(summary.low)}",
            f"max {number(summary.high)}",
            f"mean {number(summary.mean)}",
            f"std {number(summary.deviation)}",
        ][: 2 if brief else 4]
    text = Text(("|x|: " if summary.kind == "complex" else "") + " · ".join(parts), style="dim")
    for label, count in (("zeros", summary.zeros), ("NaN", summary.nans), ("Inf", summary.infinities)):
        if count:
            shown = f"{_share(count, summary.size)} zeros" if label == "zeros" else f"{count} {label}"
            text.append(" · " if text else "")
            text.append(shown, style="dim" if label == "zeros" else "tensor.nan")
    return text


def _share(count: int, size: int) -> str:
    """`12 %` of many, `3` of few; never 0 % or 100 % of what is not none or all."""
    if size <= 20:
        return str(count)
    if 0 < count < 0.005 * size:
        return "<1 %"
    if 0.995 * size < count < size:
        return ">99 %"
    return f"{100 * count / size:.0f} %"


def count_within(array: mx.array, low: float, high: float) -> int:
    """How many elements lie in a closed range."""
    return sum(int(_float(mx.sum(within(piece, low, high)))) for piece in pieces(array)) if array.size else 0


def within(array: mx.array, low: float, high: float) -> mx.array:
    """Which elements lie in a closed range; of complex numbers, the magnitude."""
    size = mx.abs(array) if array.dtype == mx.complex64 else array
    return mx.logical_and(size >= low, size <= high)


def differing(array: mx.array, before: mx.array) -> mx.array:
    """Where two arrays of one shape differ; two NaNs are the same."""
    unequal = array != before
    if mx.issubdtype(array.dtype, mx.inexact):
        unequal = mx.logical_and(unequal, mx.logical_not(mx.logical_and(mx.isnan(array), mx.isnan(before))))
    return unequal


def changed(array: mx.array, before: mx.array) -> bool:
    """Whether an array is not what it was, in shape, dtype or any element."""
    if array.shape != before.shape or array.dtype != before.dtype:
        return True
    return any(bool(mx.any(differing(*pair)).item()) for pair in zip(pieces(array), pieces(before)) if pair[0].size)
