"""Tensor: numbers as a person wants to see them, whole when they are few, corners and a summary when many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from rich.text import Text

WHOLE = 200
"""Up to so many elements a tensor is shown whole."""
EDGE = 3
"""How many rows or columns are shown at each end of a long axis."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A tensor in a few numbers; floats are NaN where they do not apply (an empty tensor, a bool).

    Attributes:
        low, high, mean, deviation: Over the finite elements.
        zeros, nans, infinities: How many elements are so.
        size: How many elements there are.
    """

    low: float
    high: float
    mean: float
    deviation: float
    zeros: int
    nans: int
    infinities: int
    size: int


def shape_text(shape: tuple[int, ...]) -> str:
    """`(1, 3)`, `(3,)`, `()`."""
    return str(tuple(shape))


def dtype_text(dtype: mx.Dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("mlx.core.")


def number(value: Any) -> str:
    """One number: exact zeros and whole numbers short, the others with four decimals or in scientific form."""
    if isinstance(value, complex):
        sign = "-" if math.copysign(1.0, value.imag) < 0 else "+"
        return f"{number(value.real)}{sign}{number(abs(value.imag))}j"
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value) or math.isinf(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}"
    return f"{value:.3e}"


def numbers(array: mx.array, indent: int = 0) -> Text:
    """The elements in brackets, aligned, rows under each other; corners only if there are many.

    Args:
        array: Any shape and dtype; it is evaluated, as far as it is shown.
        indent: How far the continuation lines are moved to the right.
    """
    if array.ndim == 0:
        return _styled(number(array.item()))
    if array.size == 0:
        return Text("[]")
    cut = array.size > WHOLE
    kept = array
    gaps: list[bool] = []
    for axis, extent in enumerate(array.shape):
        gaps.append(cut and extent > 2 * EDGE)
        if gaps[-1]:
            ends = [*range(EDGE), *range(extent - EDGE, extent)]
            kept = mx.take(kept, mx.array(ends), axis=axis)
    cells = _format(kept.tolist())
    width = max(map(len, _flat(cells)))
    text = Text()
    _append(text, cells, gaps, width, 0, indent)
    return text


def _format(tree: Any) -> Any:
    return [_format(item) for item in tree] if isinstance(tree, list) else number(tree)


def _flat(tree: Any) -> list[str]:
    if isinstance(tree, list):
        return [cell for item in tree for cell in _flat(item)] or [""]
    return [tree]


def _append(text: Text, cells: Any, gaps: list[bool], width: int, axis: int, indent: int) -> None:
    """Write nested brackets the way NumPy does."""
    text.append("[")
    last = not isinstance(cells[0], list)
    for at, item in enumerate(cells):
        if at and last:
            text.append(" ")
        elif at:
            text.append("\n" * (len(gaps) - axis - 1) + " " * (indent + axis + 1))
        if gaps[axis] and at == EDGE:
            text.append("... " if last else "..." + "\n" * (len(gaps) - axis - 1) + " " * (indent + axis + 1))
        if last:
            text.append_text(_styled(item.rjust(width) if len(cells) > 1 or axis else item))
        else:
            _append(text, item, gaps, width, axis + 1, indent)
    text.append("]")


def _styled(cell: str) -> Text:
    bare = cell.strip()
    style = "tensor.zero" if bare == "0" else "tensor.nan" if bare in ("nan", "inf", "-inf") else ""
    return Text(cell, style=style)


def summarize(array: mx.array) -> Summary:
    """Reduce a tensor to a few numbers, in one evaluation and without converting it."""
    if array.size == 0:
        return Summary(math.nan, math.nan, math.nan, math.nan, 0, 0, 0, 0)
    kind = array.dtype
    if kind == mx.complex64:
        array = mx.abs(array)
    elif kind == mx.bool_ or not mx.issubdtype(kind, mx.floating):
        array = array.astype(mx.float32)
    finite = mx.isfinite(array)
    count = mx.sum(finite)
    wide = array.astype(mx.float32)
    zero = mx.zeros_like(wide)
    mean = mx.sum(mx.where(finite, wide, zero)) / count
    deviation = mx.sqrt(mx.sum(mx.where(finite, mx.square(wide - mean), zero)) / count)
    low = mx.min(mx.where(finite, wide, mx.full(wide.shape, math.inf)))
    high = mx.max(mx.where(finite, wide, mx.full(wide.shape, -math.inf)))
    parts = [low, high, mean, deviation, mx.sum(array == 0), mx.sum(mx.isnan(array)), mx.sum(mx.isinf(array))]
    mx.eval(parts)
    floats = [_float(part) for part in parts[:4]] if int(_float(count)) else [math.nan] * 4
    zeros, nans, infinities = (int(_float(part)) for part in parts[4:])
    return Summary(floats[0], floats[1], floats[2], floats[3], zeros, nans, infinities, array.size)


def _float(array: mx.array) -> float:
    scalar: Any = array.item()
    return float(scalar)


def summary_text(summary: Summary) -> Text:
    """`min -3.1 · max 2.9 · mean 0.01 · std 0.9 · 12 % zeros`."""
    parts = []
    if not math.isnan(summary.low):
        parts = [
            f"min {number(summary.low)}",
            f"max {number(summary.high)}",
            f"mean {number(summary.mean)}",
            f"std {number(summary.deviation)}",
        ]
    text = Text(" · ".join(parts), style="dim")
    for label, count in (("zeros", summary.zeros), ("NaN", summary.nans), ("Inf", summary.infinities)):
        if count:
            share = 100 * count / summary.size
            shown = f"{share:.0f} % {label}" if label == "zeros" and summary.size > 20 else f"{count} {label}"
            text.append(" · " if text else "")
            text.append(shown, style="dim" if label == "zeros" else "tensor.nan")
    return text


def tensor_line(name: str, array: mx.array) -> Text:
    """A tensor in one line: its shape, dtype and summary."""
    text = Text()
    text.append(name, style="value.name")
    text.append(f" {shape_text(array.shape)} {dtype_text(array.dtype)}  ", style="value.shape")
    return text.append_text(summary_text(summarize(array))) if array.size else text.append("empty")


def tensor(name: str, array: mx.array) -> Text:
    """A named tensor: `z1 = [[...]]`, with shape, dtype and a summary where it is not shown whole."""
    text = Text()
    if array.size > WHOLE or array.size == 0:
        text = tensor_line(name, array)
        if not array.size:
            return text
        text.append("\n")
    else:
        text.append(name, style="value.name")
        text.append(" = ")
    indent = 0 if array.size > WHOLE else len(name) + 3
    text.append_text(numbers(array, indent))
    return text
