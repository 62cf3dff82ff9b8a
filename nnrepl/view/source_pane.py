"""Source pane: the program's own file around the next op, in colours, the op's exact segment always in view."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Sequence

from rich.cells import cell_len
from rich.text import Text

from nnrepl.tape import Op, Source
from nnrepl.view.content import Item, Part
from nnrepl.view.op_list import numbers_text
from nnrepl.view.source_lines import inner_line, own_source, place_text
from nnrepl.view.syntax import coloured

COLOURED = 20_000
"""A file of more lines is shown without the colours of its syntax."""


def _expanded(lines: Sequence[str], number: int, column: int) -> int:
    """Where a column of a line stands once its tabs are blanks."""
    return len(lines[number - 1][:column].expandtabs(4)) if 0 < number <= len(lines) and column > 0 else column


class SourcePane:
    """The source around an op.

    Args:
        op: The op.
        numbers: Those of the ops of each line.
        skip: The modules whose lines are not the program's own.
        stops: The places at which there are breakpoints: `train.py:31`.
        theme: "dark" or "light".
    """

    def __init__(
        self, op: Op, numbers: dict[int, list[int]], skip: Sequence[str], stops: Collection[str], theme: str
    ) -> None:
        self._source, lines = own_source(op, skip)
        self._written = [line.rstrip("\n").expandtabs(4) for line in lines]
        self._start, self._end = (
            _expanded(lines, self._source.line, self._source.column),
            _expanded(lines, self._source.end_line, self._source.end_column),
        )
        self._inner = inner_line(op, skip)
        self._numbers = numbers
        self._stops = stops
        self._theme = theme
        self.key: Hashable = (self._source, op.position)

    @property
    def title(self) -> str:
        """The file and the function."""
        inside = f" in {self._source.function}" if self._source.function not in ("", "<module>") else ""
        return place_text(self._source) + inside + ("" if self._inner is None else f" {self._inner.plain.strip()}")

    def count(self, width: int) -> int | None:
        """Return the lines of the file."""
        return len(self._written)

    def home(self, count: int, height: int) -> int:
        """So that the op's own lines stand in the middle."""
        middle = (self._source.line + min(self._source.end_line, self._source.line + height - 2)) // 2
        return max(min(middle - 1 - height // 2, count - height), 0)

    def chosen(self) -> int:
        """Return the op's own line."""
        return self._source.line - 1

    def parts(self, first: int, width: int, height: int, right: int) -> Sequence[Part]:
        """Return the lines of the file from one on."""
        shown = range(first, min(first + height, len(self._written)))
        if not shown:
            return []
        gutter = {at: numbers_text(self._numbers.get(at + 1, []), 1) for at in shown}
        room = max((len(text) for text in gutter.values()), default=0)
        margin = 8 + room
        code = self._code()
        margin_left = self._margin(shown)
        here = self._shift(margin_left, width - margin)
        return [
            Part(
                self._line(
                    at, code[at], gutter[at].ljust(room), (here if self._is_here(at + 1) else margin_left, right), width
                ),
                self._item(at + 1),
            )
            for at in shown
        ]

    def _code(self) -> list[Text]:
        if len(self._written) <= COLOURED:
            code = coloured("\n".join(self._written), self._theme)
            if len(code) >= len(self._written):
                return code
        return [Text(line) for line in self._written]

    def _is_here(self, line: int) -> bool:
        return self._source.line <= line <= self._source.end_line

    def _margin(self, shown: range) -> int:
        """How many columns all lines are indented by."""
        texts = [self._written[at] for at in shown if self._written[at].strip()]
        return min((len(text) - len(text.lstrip()) for text in texts), default=0)

    def _shift(self, margin: int, room: int) -> int:
        """How many columns of the op's own lines are not seen at the left: as many as it takes for its segment to be in
        view."""
        source = self._source
        if source.column < 0 or source.line > len(self._written):
            return margin
        line = self._written[source.line - 1]
        end = self._end if source.end_line == source.line else len(line)
        cut = margin
        while cut < self._start - 1 and cell_len(line[cut:end]) > room:
            cut += 1
        return cut

    def _line(self, at: int, code: Text, numbers: str, shift: tuple[int, int], width: int) -> Text:
        source = self._source
        number = at + 1
        current = self._is_here(number)
        text = Text(no_wrap=True, overflow="ellipsis")
        stopping = self._place(number) in self._stops
        text.append("●" if stopping else " ", style="error" if stopping else "")
        text.append("▶" if number == source.line else " ", style="source.current")
        text.append(f"{number:4d} ", style="source.current" if current else "dim")
        text.append(f"{numbers} ", style="op.number")
        written = code.copy()
        if current and source.column >= 0:
            plain = written.plain
            start = self._start if number == source.line else len(plain) - len(plain.lstrip())
            written.stylize("source.segment", start, self._end if number == source.end_line else len(plain))
        cut = max(sum(shift), 0)
        hidden = written.plain[:cut].strip()
        text.append_text(Text("…", style="dim").append_text(written[cut + 1 :]) if hidden else written[cut:])
        text.truncate(width, overflow="ellipsis")
        return text

    def _place(self, line: int) -> str:
        source: Source = self._source
        name = os.path.basename(source.file)
        return f"{name} cell {source.cell}:{line}" if source.cell else f"{name}:{line}"

    def _item(self, line: int) -> Item | None:
        if not self._written[line - 1].strip():
            return None
        place = self._place(line) if not self._source.cell else f"cell {self._source.cell}:{line}"
        stop = f"{'clear' if self._place(line) in self._stops else 'break'} {place}"
        return Item(stop, f"goto {place}", stop, f"until {place}")
