"""Source: lines of the program with the segment of an op marked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.text import Text

from nnrepl.record.source import file_of, lines_of, locate
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


def inner_line(op: Op, skip: Sequence[str]) -> Text | None:
    """`╰ linear.py:74  x @ self["weight"].T  (nn.Linear)`: where in a library an op is made, under the program's own
    line; None if it is made in the program."""
    site = own_site(op, skip)
    if site is None or op.scope is None or site.scope is op.scope:
        return None
    source = op.source
    text = Text(f"     ╰ {place_text(source)}  ", style="dim")
    text.append(" ".join(source.text.split()), style="dim")
    return text.append(f"  ({_library(op.scope)})", style="dim")


def _library(scope: Activation) -> str:
    """What makes an op there: `nn.Linear`, `optim.SGD`, or a function."""
    owner, module = scope.owner, str(scope.variables.get("__name__", ""))
    short = next((name for start, name in _SHORT if module.startswith(start)), "")
    name = type(owner).__name__ if owner is not None else scope.code.co_qualname
    return f"{short}.{name}" if short else name


_SHORT = (("mlx.nn", "nn"), ("mlx.optimizers", "optim"), ("mlx.utils", "mlx.utils"))


def marked(source: Source, lines: list[str], before: int = 0) -> Text:
    """The lines of a piece of source, its exact segment underlined, after `before` lines of context.

    Args:
        lines: Those of its file.
    """
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
