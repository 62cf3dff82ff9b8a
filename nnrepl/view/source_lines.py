"""Source: lines of the program with the segment of an op marked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.record.segments import file_of, lines_of, locate
from nnrepl.tape import Activation, Op, Source, own_site


def place_text(source: Source) -> str:
    """`simple_nn.py:31`, or `lesson.ipynb cell 3:2`."""
    if not source.file:
        return ""
    name = os.path.basename(source.file)
    return f"{name} cell {source.cell}:{source.line}" if source.cell else f"{name}:{source.line}"


def own_source(op: Op, skip: Sequence[str]) -> tuple[Source, list[str]]:
    """Where an op stands in the program's own source, and the lines of that file."""
    site = own_site(op, skip)
    return (
        (op.source, []) if site is None else (locate(site.scope.code, site.lasti), lines_of(file_of(site.scope.code)))
    )


class InnerLine:
    """`╰ linear.py:74  x @ self["weight"].T  (nn.Linear)`: where in a library an op is made, in one line.

    Args:
        where: The file and the line.
        code: What stands there.
        library: What makes the op there; left out where there is no room.
    """

    def __init__(self, where: str, code: str, library: str) -> None:
        self._parts = (f"     ╰ {where}  ", code, f"  ({library})")

    @property
    def plain(self) -> str:
        """All of it."""
        return "".join(self._parts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head, code, library = self._parts
        room = options.max_width - cell_len(head)
        whole = cell_len(code) + cell_len(library) <= room
        yield Text(head + code + (library if whole else ""), style="dim", no_wrap=True, overflow="ellipsis")


def inner_line(op: Op, skip: Sequence[str]) -> InnerLine | None:
    """Where in a library an op is made, under the program's own line; None if it is made in the program."""
    site = own_site(op, skip)
    if site is None or op.scope is None or site.scope is op.scope:
        return None
    source = op.source
    return InnerLine(place_text(source), " ".join(source.text.split()), _library(op.scope))


def _library(scope: Activation) -> str:
    """Return what makes an op there: `nn.Linear`, `optim.SGD`, or a function."""
    owner, module = scope.owner, str(scope.variables.get("__name__", ""))
    short = next((name for start, name in _SHORT if module.startswith(start)), "")
    name = type(owner).__name__ if owner is not None else scope.code.co_qualname
    return f"{short}.{name}" if short else name


_SHORT = (("mlx.nn", "nn"), ("mlx.optimizers", "optim"), ("mlx.utils", "mlx.utils"))


_MOST = 3
"""So many lines of a segment are shown."""


class Marked:
    """The lines of a piece of source, its exact segment underlined; of a long line the part around the segment.

    Args:
        source: The piece.
        lines: Those of its file.
        is_marked: Whether the segment is underlined.
    """

    def __init__(self, source: Source, lines: list[str], is_marked: bool = True) -> None:
        self._source = source
        self._lines = lines if source.line else []
        self._is_marked = is_marked

    def __bool__(self) -> bool:
        return 0 < self._source.line <= len(self._lines)

    @property
    def indent(self) -> int:
        """The column at which its first line begins, after the number of the line."""
        line = self._lines[self._source.line - 1].expandtabs(4)
        last = min(self._source.end_line, self._source.line + _MOST - 1, len(self._lines))
        return 3 + len(str(last)) + len(line) - len(line.lstrip())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        source = self._source
        last = min(source.end_line, source.line + _MOST - 1, len(self._lines))
        digits = len(str(last))
        for number in range(source.line, last + 1):
            line = self._lines[number - 1].rstrip("\n").expandtabs(4)
            start = source.column if number == source.line else len(line) - len(line.lstrip())
            stop = source.end_column if number == source.end_line else len(line)
            if source.column < 0:
                start = stop = 0
            head = f"{'▶' if number == source.line else ' '} {str(number).rjust(digits)} "
            text, mark = _window(line, start, stop, max(options.max_width - len(head), 10))
            yield (
                Text(head, style="source.current", no_wrap=True, end="").append(text, style="source.line").append("\n")
            )
            if mark[1] and self._is_marked:
                yield Text(" " * (len(head) + mark[0]) + "━" * mark[1], style="source.current", no_wrap=True)
        if source.end_line > last:
            yield Text(" " * (digits + 3) + f"… to line {source.end_line}", style="dim")


def _window(line: str, start: int, stop: int, room: int) -> tuple[str, tuple[int, int]]:
    """Return what is shown of a line in so many columns, and where its segment lies in that: column and width."""
    first = 0
    if cell_len(line) > room:
        indent = len(line) - len(line.lstrip())
        first = min(max(indent - 4, 0), start)
        if cell_len(line[first:stop]) > room - 1:
            first = max(min(start, stop - room + 2), first)
            while first < start and cell_len(line[first:stop]) > room - 2:
                first += 1
    shown = ("…" if line[:first].strip() else "") + line[first:]
    before = cell_len(shown) - cell_len(line[first:]) + cell_len(line[first:start])
    if cell_len(shown) > room:
        shown = set_cell_size(shown, room - 1) + "…"
    return shown, (before, max(min(cell_len(line[start:stop]), room - before), 0))
