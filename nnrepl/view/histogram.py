"""Histogram: how the elements of a tensor are spread."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import mlx.core as mx
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.view.digits import number
from nnrepl.view.summary import Summary, pieces, summarize
from nnrepl.view.tensor import dtype_text, shape_text, summary_text
from nnrepl.view.ticks import round_step, tick_text

BINS = 16
_EIGHTHS = " ▏▎▍▌▋▊▉"


def counts(array: mx.array, summary: Summary) -> tuple[list[int], list[float], bool]:
    """How many finite elements lie in each of some equal ranges, whose borders are round numbers (zero one of them).

    Returns the counts, the edges (one more than counts), and whether each range holds just one whole number.
    Of complex numbers, the magnitudes are counted.
    """
    low, high = float(summary.low), float(summary.high)
    single = not mx.issubdtype(array.dtype, mx.inexact) and high - low < BINS
    if single:
        bins, step = int(high - low) + 1, 1.0
    elif high > low:
        step = round_step(high - low, min(BINS - 1, math.ceil(math.sqrt(array.size)) + 1))
        first = math.floor(low / step)
        bins = max(math.floor(high / step) - first + 1, 1)
        bins -= bins > 1 and first * step + (bins - 1) * step == high  # the last range holds its upper border as well
        low = first * step
    else:
        bins, step = 1, 1.0
    total = [0] * bins
    for piece in pieces(array):
        wide = mx.abs(piece) if piece.dtype == mx.complex64 else piece.astype(mx.float32)
        finite = mx.isfinite(wide)
        kept = mx.where(finite, wide, low)
        # Zero belongs to the range that begins with it, whatever rounding does to low.
        place = mx.floor(kept / step) - round(low / step) if abs(low / step) < 1e6 else mx.floor((kept - low) / step)
        place = mx.clip(place, 0, bins - 1).astype(mx.int32).flatten()
        found: Any = mx.zeros((bins,), dtype=mx.int32).at[place].add(finite.flatten().astype(mx.int32)).tolist()
        total = [a + b for a, b in zip(total, found)]
    return total, [low + step * at for at in range(bins + 1)], single


class Histogram:
    """Bars, one for each range. Everything is computed when this is made."""

    def __init__(self, name: str, array: mx.array) -> None:
        summary = summarize(array)
        self._head = Text(name, style="value.name").append(
            f" {shape_text(array.shape)} {dtype_text(array.dtype)}  ", style="value.shape"
        )
        self._head.append_text(summary_text(summary) if array.size else Text("empty"))
        self._nothing = math.isnan(float(summary.mean))
        self._counts, self._edges, self._single = ([], [], False) if self._nothing else counts(array, summary)
        self._bool = array.dtype == mx.bool_

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head
        if self._nothing:
            return
        labels = self._labels()
        left = max(map(len, labels))
        right = max(len(str(count)) for count in self._counts)
        room = max(min(options.max_width - left - right - 4, 60), 1)
        most = max(self._counts)
        for label, count in zip(labels, self._counts):
            line = Text(label.rjust(left) + "  ", style="dim", no_wrap=True)
            line.append(_bar(room * count / most, options.ascii_only).ljust(room), style="heading")
            yield line.append("  " + str(count).rjust(right))

    def _labels(self) -> list[str]:
        if self._bool:
            return [("false", "true")[int(edge)] for edge in self._edges[:-1]]
        if self._single or len(self._counts) == 1:
            return [number(edge) for edge in self._edges[:-1]]
        step = self._edges[1] - self._edges[0]
        edges = [tick_text(round(edge / step) * step) for edge in self._edges]
        first, second = max(map(len, edges[:-1])), max(map(len, edges[1:]))
        return [f"{a.rjust(first)} to {b.rjust(second)}" for a, b in pairwise(edges)]


def _bar(length: float, ascii_only: bool) -> str:
    """Return a bar of so many columns, to the eighth; what is not nothing is seen."""
    if ascii_only:
        return "#" * max(round(length), int(length > 0))
    whole, rest = int(length), int(8 * (length - int(length)))
    bar = "█" * whole + (_EIGHTHS[rest] if rest else "")
    return bar or ("▏" if length > 0 else "")
