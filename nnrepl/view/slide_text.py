"""Slide text: a gradient pass in the terminal: forward to the left, downwards; backward to the right, upwards."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.explain.words import inline
from nnrepl.seen.slide import Slide, SlideRow
from nnrepl.tape import Value
from nnrepl.view.digits import number
from nnrepl.view.lanes import GraphNode, Lanes
from nnrepl.view.narrow import packed_lines
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

    def __init__(self, slide: Slide, rows: list[SlideRow], cursor: int) -> None:
        self._slide = slide
        self._rows = rows
        self._cursor = cursor
        nodes = [GraphNode(row.ops, _taken(row), [value for op in row.ops for value in op.outputs]) for row in rows]
        self._lanes = [lanes for lanes, _ in Lanes(nodes, cursor).rows()]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        lanes = min(max(map(cell_len, self._lanes), default=0), width // 4)
        parts = [self._parts(row) for row in self._rows]
        most = max((Text("  ").join(each).cell_len for each in parts), default=0)
        right = min(most, max(width // 2, width - 50))
        left = width - right - 1 - lanes - 4
        stacks = left < 16
        if not stacks:
            head = Text("    forward ↓".ljust(width - right), style="heading", no_wrap=True)
            yield head.append("backward ↑", style="heading")
        for row, line, each in zip(self._rows, self._lanes, parts):
            here = any(op.position == self._cursor for op in (*row.ops, *row.back))
            text = Text("▶ " if here else "  ", style="source.current", no_wrap=True, overflow="ellipsis")
            shown = line if cell_len(line) <= lanes else set_cell_size(line, lanes - 1) + "…"
            text.append(set_cell_size(shown, lanes), style="dim").append("  ")
            text.append_text(self._left(row, (width if stacks else width - right - 1) - text.cell_len))
            text.truncate(width if stacks else width - right - 1, overflow="ellipsis", pad=not stacks)
            if stacks:
                yield text
                indent = 4 + lanes
                for packed in packed_lines(_few(each), width - indent):
                    packed.truncate(width - indent, overflow="ellipsis")
                    yield Text(" " * indent, no_wrap=True).append_text(packed)
            else:
                text.append(" ").append_text(_whole(each, width - text.cell_len - 1))
                text.truncate(width, overflow="ellipsis")
                yield text

    def _left(self, row: SlideRow, room: int) -> Text:
        """Return what a row is, and the size of what it makes, which is seen in any case."""
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

    def _parts(self, row: SlideRow) -> list[Text]:
        """Return the gradients of a row: of what it makes, and of what it learns, each with its size; before them a
        bar."""
        parts: list[Text] = []
        for name, value in self._slide.gradients(row):
            gradient = self._slide.gradient(value)
            assert gradient is not None
            text = Text(name, style="gradient" if name.startswith("∂") else "value.name")
            parts.append(Text().append_text(text).append(f" {size_text(self._slide, gradient)}".rstrip()))
        if not parts:
            return [Text("no gradient", style="dim")] if row.ops and not row.back else []
        first = Text(bar(self._slide.share_of(row)) + " ", style="gradient").append_text(parts[0])
        return [first, *parts[1:]]


def _few(parts: list[Text]) -> list[Text]:
    """Not more than five gradients, and how many there are besides."""
    more = [Text(f"+{len(parts) - 5}", style="dim")] if len(parts) > 5 else []
    return [*parts[:5], *more]


def _whole(parts: list[Text], room: int) -> Text:
    """As many gradients as there is room for, each whole, and how many more there are: no number is cut."""
    line = Text(no_wrap=True)
    for at, part in enumerate(parts):
        left = len(parts) - at - 1
        gap = 2 if line else 0
        if line and line.cell_len + gap + part.cell_len + (4 if left else 0) > room:
            return line.append(f"  +{left + 1}", style="dim")
        line.append(" " * gap).append_text(part)
    return line


def _taken(row: SlideRow) -> list[Value]:
    own = {value for op in row.ops for value in op.outputs}
    return [value for value in dict.fromkeys(value for op in row.ops for value in op.inputs) if value not in own]


def size_text(slide: Slide, value: Value) -> str:
    """Return a small value itself, `[0 0 0]`; of a larger one its norm; "" where it is not computed."""
    stat = slide.stat(value)
    if stat is None:
        return ""
    if stat.nans or stat.infs:
        return "NaN" if stat.nans else "∞"
    return inline(value.array) or f"‖{number(stat.norm)}‖"


def bar(share: float) -> str:
    """Return a gradient's size beside the largest of the pass: a bar of so many columns."""
    eighths = round(8 * BAR * share)
    bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    return (bar or ("▏" if share > 0 else "")).ljust(BAR)
