"""Explain: a rule, its symbols, and the arithmetic of one element."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnrepl.explain.explanation import Explanation
from nnrepl.explain.taught import Taught
from nnrepl.explain.words import cost
from nnrepl.view.equations import LongLine
from nnrepl.view.narrow import Grid
from nnrepl.view.one_op import op_line


def explain_view(found: Explanation) -> RenderableType:
    """Return an explanation in one screen."""
    parts: list[RenderableType] = [op_line(found.op) if found.op is not None else Text(found.title)]
    if found.whole and found.op is not None:
        parts.extend(_arithmetic(found.whole, "whole"))
    if found.rule:
        parts.extend(_lines("rule", found.rule, "bold"))
    if found.words:
        parts.append(Padding(Text(found.words), (0, 0, 0, _INDENT)))
    if found.symbols:
        parts.append(_symbols(found))
    if found.lines:
        parts.extend(_arithmetic(found.lines))
    parts.extend(Padding(Text(note, style="hint"), (0, 0, 0, _INDENT)) for note in found.notes)
    if found.whole and found.op is None:
        parts.extend(_arithmetic(found.whole, "back"))
    if found.update:
        parts.extend(_arithmetic(found.update, "step"))
    if found.steps:
        parts.extend(_lines("steps", found.steps, ""))
    if found.chain:
        parts.extend(_lines("chain", found.chain, ""))
    parts.append(Text(cost(found.ops), style="hint"))
    return Group(*parts)


_INDENT = 9


def _lines(label: str, lines: Sequence[str], style: str) -> list[RenderableType]:
    grid = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True, style="dim", width=_INDENT - 1)
    grid.add_column(style=style)
    for at, line in enumerate(lines):
        grid.add_row(label if at == 0 else "", Text(line) if isinstance(line, Taught) else LongLine(line))
    return [grid]


def _symbols(found: Explanation) -> Table:
    grid = Grid(heads=2, show_header=False, padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, style="dim", width=_INDENT - 1)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="value.shape")
    grid.add_column(style="dim")
    for at, symbol in enumerate(found.symbols[:6]):
        style = "gradient" if symbol.name.startswith("∂") else "value.name"
        grid.add_row("with" if at == 0 else "", Text(symbol.name, style=style), symbol.kind, symbol.origin)
    if len(found.symbols) > 6:
        grid.add_row("", f"and {len(found.symbols) - 6} more", "", "")
    return grid


def _arithmetic(lines: list[str], label: str = "here") -> list[RenderableType]:
    """LongLines under each other, aligned at their equals sign where they continue one."""
    shown: list[str] = []
    indent = 0
    for line in lines:
        if line.startswith("= "):
            shown.append(" " * indent + line)
        else:
            sign = next((sign for sign in (" ← ", " = ") if sign in line), None)
            indent = line.find(sign) + 1 if sign is not None else 0
            shown.append(line)
    return _lines(label, shown, "")
