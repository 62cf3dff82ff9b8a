"""Plot: a curve in the terminal, drawn with the dots of Braille signs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.view.tensor import number

HEIGHT = 10
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a Braille sign, by row and column (Unicode, block U+2800)."""


class Plot:
    """Values over training steps: the width is the terminal's, gaps are where a value is not finite.

    Args:
        title: What is drawn.
        places: The number of the step of each value.
        values: One for each.
    """

    def __init__(self, title: str, places: Sequence[int], values: Sequence[float]) -> None:
        self._title = title
        self._places = places
        self._values = values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        finite = [value for value in self._values if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
        labels = [number(high), number(low)]
        margin = max(map(len, labels)) + 1
        width = max(min(options.max_width - margin - 1, 100), 4)
        yield Text(self._title, style="value.name")
        for row, line in enumerate(self._rows(width, low, high)):
            label = labels[0] if row == 0 else labels[1] if row == HEIGHT - 1 else ""
            yield Text.assemble((label.rjust(margin - 1) + " ", "dim"), (line, "source.current"))
        first, last = str(self._places[0]), str(self._places[-1])
        yield Text(" " * margin + f"step {first}" + last.rjust(max(width - len(first) - 5, len(last) + 1)), style="dim")
        lost = len(self._values) - len(finite)
        if lost:
            yield Text(f"{lost} of {len(self._values)} values are not finite", style="tensor.nan")

    def _rows(self, width: int, low: float, high: float) -> list[str]:
        """The picture: each column of dots spans the values that fall into it."""
        cells = [[0] * width for _ in range(HEIGHT)]
        columns, dots = 2 * width, 4 * HEIGHT
        count = len(self._values)
        before: int | None = None
        for column in range(columns if count > 1 else 1):
            start, end = column * count // columns, max((column + 1) * count // columns, column * count // columns + 1)
            here = [value for value in self._values[start:end] if math.isfinite(value)]
            if not here:
                before = None
                continue
            rows = [round((dots - 1) * ((high - value) / (high - low) if high > low else 0.5)) for value in here]
            top, bottom = min(rows), max(rows)
            if before is not None:
                top, bottom = min(top, before + (before < top)), max(bottom, before - (before > bottom))
            for row in range(top, bottom + 1):
                cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
            before = rows[-1]
        return ["".join(chr(0x2800 + cell) if cell else " " for cell in line) for line in cells]
