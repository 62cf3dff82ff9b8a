"""Heatmap: a tensor as a picture, in true colour with a scale; in letters where there is no colour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mlx.core as mx
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from nnrepl.view.numbers import number
from nnrepl.view.summary import Summary, summarize
from nnrepl.view.tensor import tensor_line

ROWS, COLUMNS = 32, 200
"""A picture has at most so many cells; each is the mean of the elements that it stands for."""
_LETTERS = " .:-=+*#%@"
_COLD_WARM = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))
_DARK_BRIGHT = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_NAN = (255, 0, 255)


@dataclass(frozen=True, slots=True)
class Scale:
    """From numbers to colours: blue below zero and red above where both occur, else from dark to bright.

    Attributes:
        low, high: What the ends stand for.
    """

    low: float
    high: float

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """The colours from the low to the high end."""
        return _COLD_WARM if self.low < 0 < self.high else _DARK_BRIGHT

    def share(self, value: float) -> float:
        """Where a number lies between the ends, from 0 to 1; NaN for NaN."""
        if math.isnan(value):
            return math.nan
        if self.high == self.low:
            return 0.5
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def colour(self, share: float) -> Color:
        """The colour at a share of the way."""
        if math.isnan(share):
            return Color.from_rgb(*_NAN)
        palette = self.palette
        at = share * (len(palette) - 1)
        index = min(int(at), len(palette) - 2)
        mixed = [a + (b - a) * (at - index) for a, b in zip(palette[index], palette[index + 1])]
        return Color.from_rgb(*mixed)


def scale_of(summary: Summary) -> Scale:
    """The scale for a tensor: symmetric about zero where there are numbers on both sides."""
    low, high = float(summary.low), float(summary.high)
    if math.isnan(low):
        return Scale(0.0, 1.0)
    if low < 0 < high:
        reach = max(-low, high)
        return Scale(-reach, reach)
    return Scale(low, high)


def matrix_of(array: mx.array) -> tuple[mx.array, str]:
    """The matrix that is drawn: a vector as one row, of a batch the first; and which one that is, in words."""
    if array.dtype == mx.complex64:
        array = mx.abs(array)
    lead = array.shape[:-2]
    array = array[(0,) * len(lead)] if lead else array
    matrix = array.reshape(1, -1) if array.ndim < 2 else array
    count = math.prod(lead)
    return matrix, f"[{', '.join('0' for _ in lead)}], the first of {count}" if count > 1 else ""


def shrunk(matrix: mx.array, rows: int, columns: int) -> list[list[float]]:
    """The means of at most `rows` by `columns` blocks of a matrix; a block with a NaN is NaN."""
    for axis, most in ((0, rows), (1, columns)):
        extent = matrix.shape[axis]
        if extent > most:
            matrix = matrix if matrix.dtype == mx.float64 else matrix.astype(mx.float32)
            cuts = [extent * at // most for at in range(most + 1)]
            parts = [mx.mean(matrix[a:b] if axis == 0 else matrix[:, a:b], axis=axis) for a, b in pairwise(cuts)]
            matrix = mx.stack(parts, axis=axis)
    numbers: Any = matrix.tolist()
    return [[float(value) for value in row] for row in numbers]


class Heatmap:
    """A picture of a tensor. Everything is computed when this is made, at a size that suits any terminal."""

    def __init__(self, name: str, array: mx.array) -> None:
        self._head = tensor_line(name, array)
        self._scale = scale_of(summarize(array))
        matrix, self._which = matrix_of(array) if array.size else (array, "")
        self._shape = matrix.shape
        self._cells = shrunk(matrix, ROWS, COLUMNS) if array.size else []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head
        if not self._cells:
            return
        if self._which:
            yield Text(self._which, style="hint")
        wide = 2 * len(self._cells[0]) <= options.max_width and len(self._cells) <= max(console.height - 6, 8)
        colours = console.color_system in ("truecolor", "256") and not console.no_color
        cells = _fit(self._cells, options.max_width // (2 if wide else 1))
        if colours:
            yield from self._painted(cells, wide)
            yield self._legend(options.max_width)
        else:
            yield from self._lettered(cells)
            low, high = number(self._scale.low), number(self._scale.high)
            yield Text(f"'{_LETTERS[0]}' {low} to '{_LETTERS[-1]}' {high}; ? is NaN", style="dim")
        rows, columns = len(cells), len(cells[0])
        if (rows, columns) != tuple(self._shape):
            yield Text(f"{rows} by {columns} cells, each the mean of its part", style="hint")

    def _painted(self, cells: list[list[float]], wide: bool) -> RenderResult:
        """Cells of two columns where there is room for that; else of one column, two rows a line (half blocks)."""
        scale = self._scale
        step = 1 if wide else 2
        for at in range(0, len(cells), step):
            line = Text(no_wrap=True)
            for column, value in enumerate(cells[at]):
                top = scale.colour(scale.share(value))
                if wide:
                    line.append("  ", Style(bgcolor=top))
                elif at + 1 < len(cells):
                    below = scale.colour(scale.share(cells[at + 1][column]))
                    line.append("▀", Style(color=top, bgcolor=below))
                else:
                    line.append("▀", Style(color=top))
            yield line

    def _lettered(self, cells: list[list[float]]) -> RenderResult:
        for row in cells:
            shares = [self._scale.share(value) for value in row]
            last = len(_LETTERS) - 1
            yield Text(
                "".join("?" if math.isnan(share) else _LETTERS[round(share * last)] for share in shares), no_wrap=True
            )

    def _legend(self, width: int) -> Text:
        low, high = number(self._scale.low), number(self._scale.high)
        room = max(min(24, width - len(low) - len(high) - 2), 2)
        line = Text(f"{low} ", style="dim", no_wrap=True)
        for at in range(room):
            line.append(" ", Style(bgcolor=self._scale.colour(at / (room - 1))))
        return line.append(f" {high}", style="dim")


def _fit(cells: list[list[float]], columns: int) -> list[list[float]]:
    """Cells in at most so many columns."""
    count = len(cells[0])
    most = max(columns, 1)
    if count <= most:
        return cells
    cuts = [count * at // most for at in range(most + 1)]
    return [[sum(row[a:b]) / (b - a) for a, b in pairwise(cuts)] for row in cells]
