"""Heatmap: a tensor as a picture, in true colour with a scale; in letters where there is no colour."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import mlx.core as mx
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.view.digits import number
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
        """Return the colour at a share of the way."""
        if math.isnan(share):
            return Color.from_rgb(*_NAN)
        palette = self.palette
        at = share * (len(palette) - 1)
        index = min(int(at), len(palette) - 2)
        mixed = [a + (b - a) * (at - index) for a, b in zip(palette[index], palette[index + 1])]
        return Color.from_rgb(*mixed)


def scale_of(summary: Summary, array: mx.array | None = None) -> Scale:
    """Return the scale for a tensor: symmetric about zero where there are numbers on both sides.

    Args:
        array: The tensor itself, if a few numbers far from the others are not to decide: the ends are then those of the
            numbers that lie near the middle 98 %.
    """
    low, high = float(summary.low), float(summary.high)
    if math.isnan(low):
        return Scale(0.0, 1.0)
    if array is not None and high > low:
        low, high = ordinary(array)
    if low < 0 < high:
        reach = max(-low, high)
        return Scale(-reach, reach)
    return Scale(low, high)


def ordinary(array: mx.array) -> tuple[float, float]:
    """Return the least and the greatest of the finite numbers that are no further from the middle 98 % than half as far
    as those reach; of a very large tensor, of an even sample."""
    flat = mx.abs(array).flatten() if array.dtype == mx.complex64 else array.flatten().astype(mx.float32)
    flat = flat[:: max(flat.size // SAMPLE, 1)]
    finite = mx.isfinite(flat)
    ordered = mx.sort(mx.where(finite, flat, math.inf))
    number_finite: Any = mx.sum(finite).item()
    count = int(number_finite)
    if not count:
        return 0.0, 0.0
    first, last = ordered[(count - 1) // 100], ordered[count - 1 - (count - 1) // 100]
    room = 0.5 * (last - first)
    near = finite & (flat >= first - room) & (flat <= last + room)
    ends: Any = [mx.min(mx.where(near, flat, math.inf)).item(), mx.max(mx.where(near, flat, -math.inf)).item()]
    return float(ends[0]), float(ends[1])


SAMPLE = 1 << 20
"""The ends of a scale are taken of about so many numbers."""


def matrix_of(array: mx.array) -> tuple[mx.array, str]:
    """Return the matrix that is drawn: a vector as one row, of a batch the first; and which one that is, in words."""
    if array.dtype == mx.complex64:
        array = mx.abs(array)
    lead = array.shape[:-2]
    array = array[(0,) * len(lead)] if lead else array
    matrix = array.reshape(1, -1) if array.ndim < 2 else array
    count = math.prod(lead)
    return matrix, f"[{', '.join('0' for _ in lead)}], the first of {count}" if count > 1 else ""


def shrunk(matrix: mx.array, rows: int, columns: int) -> list[list[float]]:
    """Return the means of at most `rows` by `columns` blocks of a matrix; a block with a NaN is NaN."""
    for axis, most in ((0, rows), (1, columns)):
        extent = matrix.shape[axis]
        if extent > most:
            cuts = [extent * at // most for at in range(most + 1)]
            with mx.stream(
                mx.cpu
            ):  # which knows float64: the mean of a million numbers in float32 is off in its digits
                parts = [_mean(matrix[a:b] if axis == 0 else matrix[:, a:b], axis) for a, b in pairwise(cuts)]
                matrix = mx.stack(parts, axis=axis)
    numbers: Any = matrix.tolist()
    return [[float(value) for value in row] for row in numbers]


def _mean(part: mx.array, axis: int) -> mx.array:
    mean = mx.mean(part.astype(mx.float64), axis=axis)
    mx.eval(mean)  # one part after the other: all in float64 would be twice the matrix
    return mean


class Heatmap:
    """A picture of a tensor, its rows and columns numbered. Everything is computed when this is made, at a size that
    suits any terminal."""

    def __init__(self, name: str, array: mx.array) -> None:
        self._head = tensor_line(name, array)
        summary = summarize(array)
        matrix, self._which = matrix_of(array) if array.size else (array, "")
        self._scale = scale_of(summary, matrix if array.size else None)
        self._shape = tuple(matrix.shape)
        self._cells = shrunk(matrix, ROWS, COLUMNS) if array.size else []
        low, high = self._scale.low, self._scale.high
        self._below = sum(value < low for row in self._cells for value in row)
        self._above = sum(value > high for row in self._cells for value in row)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head
        if not self._cells:
            return
        if self._which:
            yield Text(self._which, style="hint")
        margin = len(str(self._shape[0] - 1)) + 1
        room = options.max_width - margin
        wide = 2 * len(self._cells[0]) <= room and len(self._cells) <= max(console.height - 6, 8)
        colours = console.color_system in ("truecolor", "256") and not console.no_color
        cells = _fit(self._cells, room // 2 if wide else room)
        step = 2 if colours and not wide else 1
        lines = self._painted(cells, wide) if colours else self._lettered(cells, wide)
        for at, line in enumerate(lines):
            label = str(self._index(at * step, len(cells), 0)) if self._is_named(at * step, len(cells), step) else ""
            yield Text(label.rjust(margin - 1) + " ", style="dim", no_wrap=True).append_text(line)
        yield self._axis(len(cells[0]), 2 if wide else 1, margin)
        yield self._legend(room) if colours else self._letters()
        rows, columns = len(cells), len(cells[0])
        if (rows, columns) != self._shape:
            yield Text(f"{rows} by {columns} cells, each the mean of its part", style="hint")

    def _index(self, at: int, count: int, axis: int) -> int:
        """Return the first row or column that a cell stands for."""
        return self._shape[axis] * at // count

    @staticmethod
    def _is_named(at: int, count: int, step: int) -> bool:
        """Whether a row of the picture has its number at its side: each of a few, every fourth of many."""
        return count <= 8 or at % (4 * step) == 0

    def _axis(self, count: int, width: int, margin: int) -> Text:
        """Return the numbers of columns under the picture."""
        line = [" "] * (count * width + 8)
        end = -1
        for at in range(count):
            label = str(self._index(at, count, 1))
            place = at * width
            if place > end and (at % 4 == 0 or count * width <= 16):
                line[place : place + len(label)] = label
                end = place + len(label)
        return Text(" " * margin + "".join(line).rstrip(), style="dim", no_wrap=True, overflow="crop")

    def _painted(self, cells: list[list[float]], wide: bool) -> Iterator[Text]:
        """Cells of two columns where there is room for that; else of one column, two rows a line (half blocks)."""
        scale = self._scale
        step = 1 if wide else 2
        for at in range(0, len(cells), step):
            line = Text(no_wrap=True)
            for column, value in enumerate(cells[at]):
                top = scale.colour(scale.share(value))
                if wide:
                    mark = self._mark(value)
                    line.append(f"{mark} ", Style(bgcolor=top, color="white" if mark == "v" else "black"))
                elif at + 1 < len(cells):
                    below = scale.colour(scale.share(cells[at + 1][column]))
                    line.append("▀", Style(color=top, bgcolor=below))
                else:
                    line.append("▀", Style(color=top))
            yield line

    def _mark(self, value: float) -> str:
        """Return the sign of a cell that lies beyond the scale."""
        return "v" if value < self._scale.low else "^" if value > self._scale.high else " "

    def _lettered(self, cells: list[list[float]], wide: bool) -> Iterator[Text]:
        last = len(_LETTERS) - 1
        for row in cells:
            shares = [self._scale.share(value) for value in row]
            signs = [
                "?" if math.isnan(share) else self._mark(value).strip() or _LETTERS[round(share * last)]
                for value, share in zip(row, shares)
            ]
            yield Text("".join(sign * (2 if wide else 1) for sign in signs), no_wrap=True)

    def _letters(self) -> Text:
        low, high = number(self._scale.low), number(self._scale.high)
        return Text(f"'{_LETTERS[0]}' {low} to '{_LETTERS[-1]}' {high}; ? is NaN{self._clipped()}", style="dim")

    def _clipped(self) -> str:
        """Return what is said of cells beyond the scale."""
        parts = [f"{self._below} below (v)" if self._below else "", f"{self._above} above (^)" if self._above else ""]
        said = ", ".join(part for part in parts if part)
        return f"; beyond the scale: {said}" if said else ""

    def _legend(self, width: int) -> Text:
        low, high = number(self._scale.low), number(self._scale.high)
        room = max(min(24, width - len(low) - len(high) - 2), 2)
        line = Text(f"{low} ", style="dim", no_wrap=True)
        for at in range(room):
            line.append(" ", Style(bgcolor=self._scale.colour(at / (room - 1))))
        return line.append(f" {high}{self._clipped()}", style="dim")


def _fit(cells: list[list[float]], columns: int) -> list[list[float]]:
    """Cells in at most so many columns."""
    count = len(cells[0])
    most = max(columns, 1)
    if count <= most:
        return cells
    cuts = [count * at // most for at in range(most + 1)]
    return [[sum(row[a:b]) / (b - a) for a, b in pairwise(cuts)] for row in cells]
