"""Source: lines of the program with the segment of an op marked."""

from __future__ import annotations

import os

from rich.text import Text

from nnrepl.record.source import file_of, lines_of
from nnrepl.tape import Op, Source


def place_text(source: Source) -> str:
    """`simple_nn.py:31`, or `lesson.ipynb cell 3:2`."""
    if not source.file:
        return ""
    name = os.path.basename(source.file)
    return f"{name} cell {source.cell}:{source.line}" if source.cell else f"{name}:{source.line}"


def marked(op: Op, before: int = 0) -> Text:
    """The lines of an op, its exact segment underlined, after `before` lines of context."""
    source = op.source
    lines = _lines(op)
    text = Text()
    if not lines or not source.line:
        return text
    first = max(source.line - before, 1)
    digits = len(str(source.end_line))
    for number in range(first, min(source.end_line, source.line + 5) + 1):
        if number > len(lines):
            break
        line = lines[number - 1].rstrip("\n").expandtabs(4)
        current = number >= source.line
        arrow = "▶" if number == source.line else " "
        text.append(f"{arrow} {str(number).rjust(digits)} ", style="source.current" if current else "dim")
        text.append(line + "\n", style="source.line" if current else "dim")
        if current and source.column >= 0:
            start = source.column if number == source.line else len(line) - len(line.lstrip())
            stop = source.end_column if number == source.end_line else len(line)
            if stop > start:
                text.append(" " * (digits + 3 + start) + "━" * (stop - start) + "\n", style="source.current")
    return text


def _lines(op: Op) -> list[str]:
    if op.scope is None:
        return []
    return lines_of(file_of(op.scope.code))
