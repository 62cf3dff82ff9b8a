"""Listing: ops in lines, with their state, and source with the ops of each line."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
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
        found = session._nearest(place)
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
            parts.append(_block(session, rows))
            rows = []
        rows.append(op)
    parts.append(_block(session, rows))
    if session.cursor >= len(session.tape) and ops[-1] is session.tape.ops[-1]:
        parts.append(Text("▶ (end)", style="source.current"))
    return Group(*parts)


def _block(session: Session, ops: list[Op]) -> Table:
    part = ops[0].part
    name = f"pass {part.number} · {ops[0].phase}" if part.kind != "setup" else "setup"
    table = Table(
        title=f"{name} · {part.title}" if part.title not in ("", "<module>") else name,
        title_justify="left",
        title_style="heading",
        box=None,
        show_header=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for _ in range(6):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for op in ops:
        here = op.position == session.cursor
        edited = op.operation.kind == "edit"
        table.add_row(
            Text("▶" if here else " ", style="source.current"),
            Text(f"#{op.index}", style="op.number"),
            Text(_STATES["edited" if edited else state_of(op)], style="dim"),
            Text(op.name, style="op.name"),
            _line(op),
            Text(place_text(op.source), style="dim"),
        )
    return table


def _line(op: Op) -> Text:
    text = inputs_text(op)
    if op.error is not None:
        return text.append(f"  ✗  {type(op.error).__name__}", style="error")
    return text.append("  →  ").append_text(outputs_text(op))


def source_listing(session: Session) -> RenderableType:
    """The source file of the next op, with the numbers of the ops that each line made in this pass."""
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
    first, last = max(current.line - 15, 1), min(current.end_line + 15, len(lines))
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
