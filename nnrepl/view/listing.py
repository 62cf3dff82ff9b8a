"""Listing: ops in lines, with their state, and source with the ops of each line."""

from __future__ import annotations

import re

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from nnrepl.record.source import file_of, lines_of, span_of
from nnrepl.session.errors import UserError
from nnrepl.session.session import Session
from nnrepl.tape import Op
from nnrepl.view.op import inputs_text, outputs_text, state_of
from nnrepl.view.source import place_text

_STATES = {"lazy": " ", "evaluated": "●", "dropped": "○", "failed": "✗", "edited": "✎", "stale": "~"}
AROUND = 11
LINES = r"(\d{1,9})\s*,\s*(\d{0,9})"
"""Lines of source, as one writes them: `1,20`."""


def listed(session: Session, text: str = "", begin: int | None = None) -> list[Op]:
    """The ops around the cursor or a place, or those from `begin` on.

    Args:
        text: "", how many, or a place.
        begin: Where to go on after an earlier list.

    Raises:
        UserError: If there is no such place.
    """
    count, center = AROUND, session.cursor
    if text:
        found = session.nearest(session.place(text))
        if found is None:
            raise UserError(f"no op is at {text}; {session.lookup.extent()}")
        center = found
    start = max(center - count // 2, 0) if begin is None else begin
    return session.tape.ops[start : start + count]


def op_table(session: Session, ops: list[Op]) -> RenderableType:
    """Ops, one a line, a blank line between passes and phases."""
    if not ops:
        return Text("no ops here", style="hint")
    parts: list[RenderableType] = []
    rows: list[Op] = []
    for op in ops:
        if rows and (op.part is not rows[-1].part or op.phase != rows[-1].phase):
            parts.append(_Block(session, rows))
            rows = []
        rows.append(op)
    parts.append(_Block(session, rows))
    if session.cursor >= len(session.tape) and ops[-1] is session.tape.ops[-1]:
        parts.append(Text("▶ (end)", style="source.current"))
    return Group(*parts)


class _Block:
    """Ops of one phase of one pass, one a line; the place stands at the right where there is room."""

    def __init__(self, session: Session, ops: list[Op]) -> None:
        self._session = session
        self._ops = ops

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(block_title(self._ops[0]), style="heading")
        numbers = max(len(op.label) for op in self._ops)
        names = name_width(self._ops)
        for op in self._ops:
            yield op_row(self._session, op, numbers, names, options.max_width)


def name_width(ops: list[Op]) -> int:
    """How wide the column of the ops' names is."""
    return min(max(len(op.name) for op in ops), 24)


def op_row(session: Session, op: Op, numbers: int, names: int, width: int, place: bool = True) -> Text:
    """One op in one line: cursor, number, state, name, inputs and outputs, place.

    Args:
        numbers, names, width: The widths of the columns of numbers and names, and of all.
        place: Whether to say where it stands in the source, if there is room.
    """
    here = op.position == session.cursor
    row = Text("▶ " if here else "  ", style="source.current", no_wrap=True, overflow="ellipsis")
    row.append(f"{op.label}".ljust(numbers) + " ", style="op.number")
    row.append(_STATES[state_of(op)] + " ", style="dim")
    row.append(op.name.ljust(names) + "  ", style="op.name")
    row.append_text(_line(op))
    where = place_text(op.source) if place else ""
    room = width - row.cell_len - len(where)
    if where and room >= 2:
        row.append(" " * room)
        row.append(where, style="dim")
    row.truncate(width, overflow="ellipsis")
    return row


def block_title(op: Op) -> str:
    part = op.part
    name = f"{op.step.title} · {op.phase}" if part.kind != "setup" else "setup"
    return f"{name} · {part.title}" if part.title not in ("", "<module>") else name


def _line(op: Op) -> Text:
    text = inputs_text(op)
    if op.error is not None:
        return text.append(f"  ✗  {type(op.error).__name__}", style="error")
    return text.append("  →  ").append_text(outputs_text(op))


def source_listing(session: Session, text: str = "", rows: int = 31) -> RenderableType:
    """A source file with the numbers of the ops that each line made in this pass.

    Args:
        text: "" for the lines around the next op, a line to show those around it, `1,20` for those lines, "all" for
            the whole file.
        rows: How many lines.

    Raises:
        UserError: If the text is none of these.
    """
    op = session.op or (session.tape.ops[-1] if session.tape.ops else None)
    if op is None or op.scope is None:
        return Text("no op, no source", style="hint")
    lines = lines_of(file_of(op.scope.code))
    if not lines:
        return Text(f"the source of {place_text(op.source)} cannot be read", style="hint")
    first, last = _which(text, op.source.line, rows, len(lines))
    if first > last:
        return Text(f"{place_text(op.source)} is in a file of {len(lines)} lines", style="hint")
    return _Source(op, lines, first, last, ops_by_line(op))


def _which(text: str, line: int, rows: int, count: int) -> tuple[int, int]:
    """The first and the last line to show."""
    if text == "all":
        return 1, count
    both = re.fullmatch(LINES, text)
    if both is not None:
        return max(int(both[1]), 1), min(int(both[2]) if both[2] else count, count)
    if text and not text.isdigit():
        raise UserError(f"list source takes a line, lines such as 1,20, or all; not {text}")
    first = min(max((int(text[:9]) if text else line) - rows // 2, 1), count)
    return first, min(first + rows - 1, count)


def ops_by_line(op: Op) -> dict[int, list[int]]:
    """For each line of the file of an op, the numbers of the forward ops that it made in this pass."""
    assert op.scope is not None
    file = file_of(op.scope.code)
    numbers: dict[int, list[int]] = {}
    for other in op.part.ops:
        scope = other.scope
        if scope is not None and file_of(scope.code) == file and other.of is None:
            numbers.setdefault(span_of(scope.code, other.lasti)[0], []).append(other.index)
    return numbers


class _Source:
    """Lines of source, with a gutter; made as they are asked for."""

    def __init__(self, op: Op, lines: list[str], first: int, last: int, numbers: dict[int, list[int]]) -> None:
        self._source = op.source
        self._lines = lines
        self._range = range(first, last + 1)
        self._gutter = {line: numbers_text(numbers.get(line, [])) for line in self._range}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(map(len, self._gutter.values()), default=0)
        for line in self._range:
            here = self._source.line <= line <= self._source.end_line
            text = Text(no_wrap=True, overflow="ellipsis")
            text.append(f"{'▶' if here else ' '} {line:4d} ", style="source.current" if here else "dim")
            text.append(self._gutter[line].ljust(width + 1), style="op.number")
            text.append(self._lines[line - 1].rstrip("\n").expandtabs(4), style="source.line" if here else "")
            yield text


def numbers_text(numbers: list[int], most: int = 3) -> str:
    """`#4,#5` or `#4-9`; at most so many numbers, and a sign that there are more."""
    if not numbers:
        return ""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"#{numbers[0]}-{numbers[-1]}"
    return ",".join(f"#{number}" for number in numbers[:most]) + ("…" if len(numbers) > most else "")
