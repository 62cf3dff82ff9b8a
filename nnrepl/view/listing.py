"""Listing: ops in lines, with their state, and source with the ops of each line."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from nnrepl.record.source import lines_of
from nnrepl.session.session import Session
from nnrepl.tape import Op
from nnrepl.view.op import inputs_text, outputs_text, state_of
from nnrepl.view.source import place_text

_STATES = {"lazy": " ", "evaluated": "●", "dropped": "○", "failed": "✗", "edited": "✎", "stale": "~"}
AROUND = 11


def listing(session: Session, text: str = "") -> RenderableType:
    """The ops around the cursor, or around a place."""
    count, center = AROUND, session.cursor
    if text.isdigit():
        count = int(text)
    elif text:
        place = session.place(text)
        found = session.nearest(place)
        if found is None:
            return Text(f"no op is at {text}", style="hint")
        center = found
    start = max(center - count // 2, 0)
    return op_table(session, session.tape.ops[start : start + count])


def pass_listing(session: Session) -> RenderableType:
    """Every op of the pass in which the cursor stands."""
    part = session.part
    if part is None:
        return Text("nothing has been recorded yet", style="hint")
    return op_table(session, part.ops)


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
        yield Text(_block_title(self._ops[0]), style="heading")
        numbers = max(len(str(op.index)) for op in self._ops) + 1
        names = min(max(len(op.name) for op in self._ops), 24)
        for op in self._ops:
            yield self._row(op, numbers, names, options.max_width)

    def _row(self, op: Op, numbers: int, names: int, width: int) -> Text:
        here = op.position == self._session.cursor
        row = Text("▶ " if here else "  ", style="source.current", no_wrap=True, overflow="ellipsis")
        row.append(f"#{op.index}".ljust(numbers) + " ", style="op.number")
        row.append(_STATES[state_of(op)] + " ", style="dim")
        row.append(op.name.ljust(names) + "  ", style="op.name")
        row.append_text(_line(op))
        place = place_text(op.source)
        room = width - row.cell_len - len(place)
        if room >= 2:
            row.append(" " * room)
            row.append(place, style="dim")
        row.truncate(width, overflow="ellipsis")
        return row


def _block_title(op: Op) -> str:
    part = op.part
    name = f"pass {part.number} · {op.phase}" if part.kind != "setup" else "setup"
    return f"{name} · {part.title}" if part.title not in ("", "<module>") else name


def _line(op: Op) -> Text:
    text = inputs_text(op)
    if op.error is not None:
        return text.append(f"  ✗  {type(op.error).__name__}", style="error")
    return text.append("  →  ").append_text(outputs_text(op))


def source_listing(session: Session, first: int = 0, last: int = 0) -> RenderableType:
    """The source file of the next op, with the numbers of the ops that each line made in this pass.

    Args:
        first, last: Which lines; 0 for those around the op.
    """
    op = session.op or (session.tape.ops[-1] if session.tape.ops else None)
    if op is None or op.scope is None:
        return Text("no op, no source", style="hint")
    code = op.scope.code
    numbers: dict[int, list[int]] = {}
    for other in op.part.ops:
        if other.scope is not None and other.scope.code.co_filename == code.co_filename and other.of is None:
            numbers.setdefault(other.source.line, []).append(other.index)
    lines = lines_of(code.co_filename)
    current = op.source
    first = max(first or current.line - 15, 1)
    last = min(last or current.end_line + 15, len(lines))
    if first > last:
        return Text(f"{place_text(current)} is in a file of {len(lines)} lines", style="hint")
    gutter = {line: _numbers(numbers.get(line, [])) for line in range(first, last + 1)}
    width = max(map(len, gutter.values()), default=0)
    text = Text()
    for line in range(first, last + 1):
        here = current.line <= line <= current.end_line
        text.append(f"{'▶' if here else ' '} {line:4d} ", style="source.current" if here else "dim")
        text.append(gutter[line].ljust(width + 1), style="op.number")
        text.append(lines[line - 1].rstrip("\n") + "\n", style="source.line" if here else "")
    text.rstrip()
    return text


def _numbers(numbers: list[int]) -> str:
    if not numbers:
        return ""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"#{numbers[0]}-{numbers[-1]}"
    return ",".join(f"#{number}" for number in numbers[:3]) + (",…" if len(numbers) > 3 else "")
