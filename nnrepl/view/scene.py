"""Scene: what the full screen shows of one stop. Tensors are computed once, here; laying out computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from nnrepl.record.source import file_of
from nnrepl.session.excerpts import ops_by_line
from nnrepl.session.session import Session
from nnrepl.tape import Op, Value, own_site
from nnrepl.view.heatmap import Heatmap
from nnrepl.view.listing import name_width, numbers_text, op_row
from nnrepl.view.op import op_line
from nnrepl.view.source import inner_line, own_source, place_text
from nnrepl.view.tensor import dtype_text, shape_text, tensor


class Content(Protocol):
    """What a pane shows: something that knows how much room it has."""

    def lines(self, width: int, height: int) -> RenderableType:
        """What there is to see in so many columns and lines."""


LARGE = 1 << 20
"""A tensor of more elements is not summed up at every step."""


GROWING = 2000
"""A pass that still grows is looked through for its lines at each step only while it is short."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Renderables one below the other, of which as many lines are shown as there is room for."""

    parts: tuple[RenderableType, ...]

    def lines(self, width: int, height: int) -> RenderableType:
        """All of it; what does not fit is cut off by whoever shows it."""
        return _Column(self.parts)


class _Column:
    def __init__(self, parts: tuple[RenderableType, ...]) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._parts


class OpsPane:
    """The list of ops around the cursor: only the lines that are seen are made."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lines(self, width: int, height: int) -> RenderableType:
        """As many ops as there is room for."""
        session = self._session
        count = len(session.tape)
        start = max(min(session.cursor - height // 3, count - height + (session.cursor >= count)), 0)
        ops = session.tape.ops[start : start + height]
        if not ops:
            return Text("no op yet", style="hint")
        numbers = max(len(ops[0].label), len(ops[-1].label))
        names = name_width(ops)
        rows: list[RenderableType] = [op_row(op, session.cursor, numbers, names, width, place=False) for op in ops]
        if session.cursor >= count:
            rows.append(Text("▶ (end)", style="source.current"))
        return _Column(tuple(rows))


class SourcePane:
    """The source around an op, its exact segment marked, with the numbers of the ops of each line.

    Args:
        op: The op.
        numbers: Those of the ops of each line.
        skip: The modules whose lines are not the program's own.
    """

    def __init__(self, op: Op, numbers: dict[int, list[int]], skip: Sequence[str]) -> None:
        self._source, self._lines = own_source(op, skip)
        self._inner = inner_line(op, skip)
        self._numbers = numbers

    @property
    def title(self) -> str:
        """The file and the function."""
        inside = f" in {self._source.function}" if self._source.function not in ("", "<module>") else ""
        return place_text(self._source) + inside + ("" if self._inner is None else f" {self._inner.plain.strip()}")

    def lines(self, width: int, height: int) -> RenderableType:
        """As many lines as there is room for."""
        source = self._source
        first = max(min(source.line - height // 2, len(self._lines) - height + 1), 1)
        shown = range(first, min(first + height, len(self._lines) + 1))
        gutter = {line: numbers_text(self._numbers.get(line, []), 1) for line in shown}
        room = max((len(text) for text in gutter.values()), default=0)
        code = [self._lines[line - 1].rstrip("\n").expandtabs(4) for line in shown]
        margin = min((len(text) - len(text.lstrip()) for text in code if text.strip()), default=0)
        rows: list[RenderableType] = []
        for line, written in zip(shown, code):
            current = source.line <= line <= source.end_line
            text = Text(no_wrap=True, overflow="ellipsis")
            text.append(f"{'▶' if current else ' '}{line:4d} ", style="source.current" if current else "dim")
            text.append(gutter[line].ljust(room + 1), style="op.number")
            code_text = Text(written)
            if current and source.column >= 0:
                start = source.column if line == source.line else len(written) - len(written.lstrip())
                end = source.end_column if line == source.end_line else len(written)
                code_text.stylize("source.segment", start, end)
            text.append_text(code_text[margin:])
            text.truncate(width, overflow="ellipsis")
            rows.append(text)
        return _Column(tuple(rows))


class Scenes:
    """Makes what is shown of each stop.

    Args:
        session: Where the person stands.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._gutters: dict[tuple[int, str, int], dict[int, list[int]]] = {}

    def source(self) -> SourcePane | None:
        """The source of the next op."""
        op = self._session.op or (self._session.tape.ops[-1] if self._session.tape.ops else None)
        if op is None or op.scope is None:
            return None
        site = own_site(op, self._session.skip)
        assert site is not None
        path = file_of(site.scope.code)
        key = (id(op.part), path, len(op.part))
        if key not in self._gutters:
            grows = op.part.open and len(op.part) >= GROWING
            self._gutters = {key: {} if grows else ops_by_line(self._session, path)}
        return SourcePane(op, self._gutters[key], self._session.skip)

    def tensors(self) -> Fixed:
        """The inputs, the outputs and the gradients of the next op: those that are evaluated, or small enough to
        be shown unasked."""
        op = self._session.op
        if op is None:
            return Fixed((Text("behind the last op", style="hint"),))
        parts: list[RenderableType] = [op_line(op)]
        outputs = op.outputs if op.error is None else ()
        parts += [self._value(value, value.name) for value in dict.fromkeys(op.inputs)]
        parts += [self._value(value, f"→ {value.name}") for value in outputs]
        for value in dict.fromkeys((*op.outputs, *op.inputs)):
            if value.gradient_of is None:
                parts += self._gradient(op, value)
        return Fixed(tuple(parts))

    def _value(self, value: Value, label: str) -> RenderableType:
        session = self._session
        if not value.evaluated and not session.small([value]):
            text = Text(label, style="gradient" if value.gradient_of is not None else "value.name")
            text.append(f" {shape_text(value.shape)} {dtype_text(value.dtype)}", style="value.shape")
            return text.append("  not computed yet", style="hint")
        if value.size > LARGE:
            text = Text(f"{label} {shape_text(value.shape)} {dtype_text(value.dtype)}", style="value.name")
            return text.append("  evaluated, and large: p shows it", style="hint")
        session.evaluate([value])
        if session.settings["tensors"] == "heatmap" and value.size > 1:
            return Heatmap(label, value.array)
        return tensor(label, value.array) if value.size else Text(f"{label} {shape_text(value.shape)} empty")

    def _gradient(self, op: Op, value: Value) -> list[RenderableType]:
        """The gradient with respect to a value, as far as this pass has summed it up before the cursor."""
        parts = op.part.grads.get(value.canonical, [])
        before = [part for part in parts if part.op is None or part.op.position < self._session.cursor]
        return [self._value(before[-1], before[-1].name)] if before else []
