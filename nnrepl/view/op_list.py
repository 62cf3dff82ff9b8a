"""Listing: ops in lines, with their state, and source with the ops of each line."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from nnrepl.session.excerpts import Excerpt
from nnrepl.tape import Inside, Op, Pass
from nnrepl.view.one_op import flow_text, state_of
from nnrepl.view.source_lines import place_text
from nnrepl.view.stopped import in_call

STATES = {"lazy": " ", "evaluated": "●", "dropped": "○", "failed": "✗", "edited": "✎", "stale": "~"}


def op_table(ops: list[Op], cursor: int, length: int) -> RenderableType:
    """Ops, one a line, a blank line between passes and phases.

    Args:
        cursor: Where the user stands.
        length: How many ops the tape has.
    """
    if not ops:
        return Text("no ops here", style="hint")
    parts: list[RenderableType] = []
    rows: list[Op] = []
    for op in ops:
        if rows and (op.pass_ is not rows[-1].pass_ or op.phase != rows[-1].phase):
            parts.append(_Block(rows, cursor))
            rows = []
        rows.append(op)
    parts.append(_Block(rows, cursor))
    if cursor >= length and ops[-1].position == length - 1:
        parts.append(Text("▶ (end)", style="source.current"))
    return Group(*parts)


class _Block:
    """Ops of one phase of one pass, one a line; the place stands at the right where there is room."""

    def __init__(self, ops: list[Op], cursor: int) -> None:
        self._ops = ops
        self._cursor = cursor

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(block_title(self._ops[0]), style="heading")
        numbers = max(len(op.label) for op in self._ops)
        names = name_width(self._ops)
        for op in self._ops:
            yield op_row(op, self._cursor, numbers, names, options.max_width)


def name_width(ops: list[Op]) -> int:
    """How wide the column of the ops' names is."""
    return min(max(len(_indented(op)) for op in ops), 24)


def op_row(op: Op, cursor: int, numbers: int, names: int, width: int, place: bool = True) -> Text:
    """One op in one line: cursor, number, state, name, inputs and outputs, place.

    Args:
        cursor: Where the user stands.
        numbers, names, width: The widths of the columns of numbers and names, and of all.
        place: Whether to say where it stands in the source, if there is room.
    """
    here = op.position == cursor
    row = Text("▶ " if here else "  ", style="source.current", no_wrap=True, overflow="ellipsis")
    row.append(f"{op.label}".ljust(numbers) + " ", style="op.number")
    row.append(STATES[state_of(op)] + " ", style="dim")
    row.append(_indented(op).ljust(names) + "  ", style="op.name")
    row.append_text(flow_text(op, width - row.cell_len))
    where = place_text(op.source) if place else ""
    room = width - row.cell_len - len(where)
    if where and room >= 2:
        row.append(" " * room)
        row.append(where, style="dim")
    row.truncate(width, overflow="ellipsis")
    return row


def block_title(op: Op, pass_: Pass | None = None) -> str:
    """Return what a block of ops is called that begins with an op.

    Args:
        pass_: The pass that is listed, in which the op may lie inside of a call; None: its own.
    """
    pass_ = pass_ or op.pass_
    phase = pass_.phase_at(op.position)
    name = f"{op.step.title} · {in_call(pass_)}{phase}" if pass_.kind != "setup" else "setup"
    if isinstance(pass_, Inside):
        return name
    return f"{name} · {pass_.title}" if pass_.title not in ("", "<module>") else name


def _indented(op: Op) -> str:
    """Return the name of an op, further to the right for each call in which it lies."""
    pass_, indent = op.pass_, ""
    while pass_.within is not None:
        pass_, indent = pass_.within, indent + "  "
    return indent + op.name


def source_view(shown: Excerpt) -> RenderableType:
    """Lines of source, with the numbers of the ops that each made."""
    return _Source(shown)


class _Source:
    """Lines of source, with a gutter; made as they are asked for."""

    def __init__(self, shown: Excerpt) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._shown
        gutter = {line: numbers_text(shown.ops.get(line, [])) for line in range(shown.first, shown.last + 1)}
        width = max(map(len, gutter.values()), default=0)
        for line, written in enumerate(shown.lines, shown.first):
            here = shown.here is not None and shown.here.line <= line <= shown.here.end_line
            text = Text(no_wrap=True, overflow="ellipsis")
            text.append(f"{'▶' if here else ' '} {line:4d} ", style="source.current" if here else "dim")
            text.append(gutter[line].ljust(width + 1), style="op.number")
            text.append(written.rstrip("\n").expandtabs(4), style="source.line" if here else "")
            yield text


def numbers_text(numbers: list[int], most: int = 3) -> str:
    """`#4,#5` or `#4-9`; at most so many numbers, and a sign that there are more."""
    if not numbers:
        return ""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"#{numbers[0]}-{numbers[-1]}"
    return ",".join(f"#{number}" for number in numbers[:most]) + ("…" if len(numbers) > most else "")
