"""In place: a line of source with values in the place of names, the part just computed in a box."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.explain.in_place import Piece


class InPlace:
    """`z1 = [[1 -2 1.25]] + [0.5 0.5 -0.25]`, with what the next op computes underlined.

    Args:
        pieces: The line.
        indent: The column at which it begins, where there is room for all of it.
    """

    def __init__(self, pieces: Sequence[Piece], indent: int) -> None:
        self._pieces = pieces
        self._indent = indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(no_wrap=True)
        start = end = -1
        for piece in self._pieces:
            text = piece.text if not piece.is_fresh else f"▕{piece.text}▏"
            if piece.is_next:
                start, end = len(line) if start < 0 else start, len(line) + len(text)
            style = "value.fresh" if piece.is_fresh else "value.shape" if not piece.is_number else "value.put"
            line.append(text, style=style if piece.is_put else "source.line")
        indent = max(min(self._indent, options.max_width - line.cell_len), 2)
        line, start, end = _cut(line, start, end, max(options.max_width - indent, 10))
        yield Text(" " * indent, no_wrap=True, end="").append_text(line).append("\n")
        if start < end:
            before = cell_len(line.plain[:start])
            yield Text(" " * (indent + before) + "━" * cell_len(line.plain[start:end]), "source.current", no_wrap=True)


def _cut(line: Text, start: int, end: int, room: int) -> tuple[Text, int, int]:
    """As much of a line as there is room for, with a stretch of it in view; and where that lies in it."""
    if line.cell_len <= room:
        return line, start, end
    plain, first = line.plain, 0
    while first < start and cell_len(plain[first:end]) > room - 2:
        first += 1
    if first:
        line = Text("…", style="dim").append_text(line[first:])
        start, end = start - first + 1, end - first + 1
    line.truncate(room, overflow="ellipsis")
    return line, start, min(end, len(line))
