"""Narrow: a table which, where there is no room for one, puts the cells of each row under each other."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

NARROW = 60
"""In fewer columns than this nothing is cut: cells stack under the first ones of their row."""

_LEAST = 6
"""No cell is cut to fewer columns."""


class Grid(Table):
    """A table without lines; in a narrow terminal in which it would be cut, its cells stack.

    Args:
        heads: So many cells of a row stay in its first line, and the others come under them.
    """

    def __init__(self, heads: int = 1, **how: Any) -> None:
        super().__init__(**{"box": None, "pad_edge": False, "padding": (0, 2, 0, 0), **how})
        self._heads = heads

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width >= NARROW or self._natural(console, options) <= options.max_width:
            yield from self._fitted(console, options)
            return
        titles = [str(column.header) for column in self.columns]
        for row in zip(*[list(column.cells) for column in self.columns]):
            texts = [_text(cell, str(column.style)) for cell, column in zip(row, self.columns)]
            if any(texts[: self._heads]):
                yield Text(" ").join([text for text in texts[: self._heads] if text])
            rest = [
                Text(f"{title} " if title else "", style="dim").append_text(text)
                for title, text in zip(titles[self._heads :], texts[self._heads :])
                if text
            ]
            for line in packed_lines(rest, options.max_width - 2):
                yield Padding(line, (0, 0, 0, 2), expand=False)

    def _fitted(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Return it with room for the columns with a least width: those that may be cut give way, the widest first.

        Rich takes the room from columns that wrap, and from those with a least width first.
        """
        if not any(column.min_width for column in self.columns):
            return super().__rich_console__(console, options)
        cut = [column for column in self.columns if column.overflow == "ellipsis" and column.max_width]
        most = [column.max_width for column in cut]
        for column in cut:
            column.max_width = min(column.max_width or 0, max(map(cell_len, map(str, column.cells)), default=0))
        kept = [column for column in self.columns if column not in cut]
        least = sum(column.min_width or self._measure_column(console, options, column).minimum for column in kept)
        room = options.max_width - least - self.padding[1] * (len(self.columns) - (not self.pad_edge))
        while cut and sum(column.max_width or 0 for column in cut) > room:
            widest = max(cut, key=lambda column: column.max_width or 0)
            if (widest.max_width or 0) <= _LEAST:
                break
            widest.max_width = (widest.max_width or 0) - 1
        try:
            return [*super().__rich_console__(console, options)]
        finally:
            for column, width in zip(cut, most):
                column.max_width = width

    def _natural(self, console: Console, options: ConsoleOptions) -> int:
        """How wide it is if nothing is cut."""
        wide = Table(box=None, padding=self.padding, pad_edge=False, show_header=self.show_header)
        for column in self.columns:
            wide.add_column(column.header, no_wrap=True)
        for row in zip(*[list(column.cells) for column in self.columns]):
            wide.add_row(*row)
        return Measurement.get(console, options.update(width=1000), wide).maximum


def ending(name: str, room: int) -> str:
    """Return a path in so many columns: of a long one its end, `…blocks.0.conv.weight`."""
    if cell_len(name) <= room:
        return name
    first = 0
    while first < len(name) and cell_len(name[first:]) > max(room - 1, 1):
        first += 1
    return f"…{name[first:]}"


def _text(cell: object, style: str) -> Text:
    if not isinstance(cell, Text):
        return Text(str(cell), style=style)
    text = cell.copy()
    if style and not text.style:
        text.style = style
    return text


def packed_lines(parts: list[Text], room: int) -> list[Text]:
    """Parts beside each other, as many to a line as there is room for."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 2 + part.cell_len <= room:
            lines[-1] = Text("  ").join([lines[-1], part])
        else:
            lines.append(part)
    return lines
