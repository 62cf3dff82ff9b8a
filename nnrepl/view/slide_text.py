"""Slide text: a gradient pass in the terminal: forward to the left, downwards; backward to the right, upwards."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.explain.words import inline
from nnrepl.seen.slide import Row, Slide
from nnrepl.tape import Value
from nnrepl.view.graph import Lanes, Node
from nnrepl.view.numbers import number
from nnrepl.view.tensor import shape_text

BAR = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"


class SlideText:
    """The rows of a slide side by side with their gradients; under each other where there is no room.

    Args:
        slide: What is drawn.
        rows: Its rows.
        cursor: The position of the op that comes next.
    """

    def __init__(self, slide: Slide, rows: list[Row], cursor: int) -> None:
        self._slide = slide
        self._rows = rows
        self._cursor = cursor
        nodes = [Node(row.ops, _taken(row), [value for op in row.ops for value in op.outputs]) for row in rows]
        self._lanes = [lanes for lanes, _ in Lanes(nodes, cursor).rows()]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        lanes = min(max(map(cell_len, self._lanes), default=0), width // 4)
        rights = [self._right(row) for row in self._rows]
        right = min(max((text.cell_len for text in rights), default=0), max(width // 2, width - 50))
        left = width - right - 1 - lanes - 4
        stacks = left < 16
        if not stacks:
            head = Text("    forward ↓".ljust(width - right), style="heading", no_wrap=True)
            yield head.append("backward ↑", style="heading")
        for row, line, gradient in zip(self._rows, self._lanes, rights):
            here = any(op.position == self._cursor for op in (*row.ops, *row.back))
            text = Text("▶ " if here else "  ", style="source.current", no_wrap=True, overflow="ellipsis")
            shown = line if cell_len(line) <= lanes else set_cell_size(line, lanes - 1) + "…"
            text.append(set_cell_size(shown, lanes), style="dim").append("  ")
            text.append_text(self._left(row, (width if stacks else width - right - 1) - text.cell_len))
            text.truncate(width if stacks else width - right - 1, overflow="ellipsis", pad=not stacks)
            gradient.no_wrap, gradient.overflow = True, "ellipsis"
            if stacks:
                yield text
                yield Text("  ").append(" " * lanes).append("  ").append_text(gradient)
            else:
                text.append(" ").append_text(gradient)
                text.truncate(width, overflow="ellipsis")
                yield text

    def _left(self, row: Row, room: int) -> Text:
        """What a row is, and the size of what it makes, which is seen in any case."""
        text = Text()
        if row.rows:
            text.append("▸ ", style="dim").append(row.title, style="op.name")
            text.append(f"  {len(row.ops)} ops", style="dim")
        else:
            text.append(f"{row.label} ", style="op.number").append(row.title)
        values = self._slide.shown(row)
        made = Text()
        for value in values[:3]:
            size = size_text(self._slide, value) or shape_text(value.shape)
            made.append(f"  {'' if len(values) == 1 else value.name + ' '}{size}", style="value.shape")
        made.truncate(max(2 * room // 5, 11), overflow="ellipsis")
        text.truncate(max(room - made.cell_len, 0), overflow="ellipsis")
        return text.append_text(made)

    def _right(self, row: Row) -> Text:
        """The gradients of a row: of what it makes, and of what it learns, each with its size."""
        text = Text()
        for name, value in self._slide.gradients(row)[:5]:
            gradient = self._slide.gradient(value)
            assert gradient is not None
            text.append("  " if text else "")
            text.append(name, style="gradient" if name.startswith("∂") else "value.name")
            text.append(f" {size_text(self._slide, gradient)}".rstrip())
        if not text:
            return text.append("no gradient" if row.ops and not row.back else "", style="dim")
        return Text(bar(self._slide.share_of(row)) + " ", style="gradient").append_text(text)


def _taken(row: Row) -> list[Value]:
    own = {value for op in row.ops for value in op.outputs}
    return [value for value in dict.fromkeys(value for op in row.ops for value in op.inputs) if value not in own]


def size_text(slide: Slide, value: Value) -> str:
    """A small value itself, `[0 0 0]`; of a larger one its norm; "" where it is not computed."""
    stat = slide.stat(value)
    if stat is None:
        return ""
    if stat.nans or stat.infs:
        return "NaN" if stat.nans else "∞"
    return inline(value.array) or f"‖{number(stat.norm)}‖"


def bar(share: float) -> str:
    """A gradient's size beside the largest of the pass: a bar of so many columns."""
    eighths = round(8 * BAR * share)
    bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    return (bar or ("▏" if share > 0 else "")).ljust(BAR)
