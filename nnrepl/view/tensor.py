"""Tensor: numbers as a user wants to see them, whole when they are few, corners and a summary when many."""

from __future__ import annotations

from itertools import product
from typing import Any

import mlx.core as mx
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.tape import Value, samples_of
from nnrepl.view.digits import Format, number
from nnrepl.view.summary import (
    Summary,
    count_within,
    differing,
    summarize,
    summary_text,
    within,
)

WHOLE = 200
"""Up to so many elements a tensor is shown whole."""
LINES = 40
"""Up to so many rows a matrix is shown whole."""
EDGE = 3
"""How many rows are shown at each end of a long axis."""
WIDEST = 12
"""How many columns are shown at each end of a long axis at most, where the terminal is wide enough."""
MATRICES = 3
"""Up to so many matrices of a batch are shown; of more, the first and the last."""


USUAL = Format()


@dataclass(frozen=True, slots=True)
class TensorStyle:
    """How a tensor is to be shown.

    Attributes:
        format: How each number is written.
        within: The closed range whose elements are marked.
        before: What it was before; elements that changed are marked.
    """

    format: Format = USUAL
    within: tuple[float, float] | None = None
    before: mx.array | None = None


def shape_text(shape: tuple[int, ...]) -> str:
    """`(1, 3)`, `(3,)`, `()`."""
    return str(tuple(shape))


def dtype_text(dtype: mx.Dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("mlx.core.")


# -- what is shown of an array ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NumberText:
    """One number as text."""

    text: str
    marked: bool = False

    @property
    def style(self) -> str:
        """How it is to look."""
        if self.marked:
            return "tensor.mark"
        return (
            "tensor.zero" if self.text in ("0", "-0") else "tensor.nan" if self.text in ("nan", "inf", "-inf") else ""
        )


@dataclass(frozen=True, slots=True)
class Block:
    """A part of an array: nested lists of cells, and which axes have a gap in the middle.

    Attributes:
        cells: As deep as there are axes.
        gaps: For each axis, how many elements stand before the gap; 0 where nothing is left out.
        at: The place of a matrix in its batch.
    """

    cells: Any
    gaps: tuple[int, ...]
    at: tuple[int, ...] = ()

    def width(self) -> int:
        """Of the widest cell."""
        return max(len(cell.text) for cell in _flat(self.cells))


def _flat(tree: Any) -> list[NumberText]:
    return [cell for item in tree for cell in _flat(item)] if isinstance(tree, list) else [tree]


def blocks(array: mx.array, look: TensorStyle) -> list[Block]:
    """Return what is shown of an array: all of it if it is small, else the corners of its matrices."""
    if not is_folded(array):
        return [_block(array, look, look.before, (), cut=False)]
    lead = array.shape[:-2]
    count = array.size // max(_last_two(array.shape), 1)
    places = list(product(*map(range, lead))) if count <= MATRICES else [(0,) * len(lead), tuple(n - 1 for n in lead)]
    before = look.before
    return [_block(array[at], look, None if before is None else before[at], at, cut=True) for at in places]


def is_folded(array: mx.array) -> bool:
    """Whether a tensor is too large to be shown whole: it has many numbers, or its matrices many rows."""
    return array.size > WHOLE or (array.ndim > 1 and array.shape[-2] > LINES)


def _last_two(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape[-2:]:
        size *= extent
    return size


def _block(array: mx.array, look: TensorStyle, before: mx.array | None, at: tuple[int, ...], cut: bool) -> Block:
    gaps = []
    for axis, extent in enumerate(array.shape):
        edge = WIDEST if axis == array.ndim - 1 else EDGE
        gaps.append(edge if cut and extent > 2 * edge else 0)
        if gaps[-1]:
            ends = mx.array([*range(edge), *range(extent - edge, extent)])
            array = mx.take(array, ends, axis=axis)
            before = mx.take(before, ends, axis=axis) if before is not None else None
    mark = None
    if before is not None:
        mark = differing(array, before).tolist()
    elif look.within is not None:
        mark = within(array, *look.within).tolist()
    return Block(_cells(look.format.prepare(array).tolist(), mark, look.format), tuple(gaps), at)


def _cells(tree: Any, mark: Any, form: Format) -> Any:
    if isinstance(tree, list):
        return [_cells(item, None if mark is None else mark[at], form) for at, item in enumerate(tree)]
    return NumberText(form(tree), bool(mark))


# -- how it is laid out ----------------------------------------------------------------------------------


class _Layout:
    """Writes nested brackets the way NumPy does, into a width.

    Args:
        block: What to write.
        width: How many columns there are.
        indent: How far continuation lines are moved to the right.
        star: Whether marked numbers get a `*`, because there is no colour.
    """

    def __init__(self, block: Block, width: int, indent: int, star: bool) -> None:
        self._block = block
        self._star = star
        self._indent = indent
        self._cell = block.width() + star
        self._axes = len(block.gaps)
        self._room = max((width - indent - 2 * self._axes + 1) // (self._cell + 1), 1)

    def text(self) -> Text:
        """All of it."""
        text = Text()
        if self._axes:
            self._nested(text, self._block.cells, 0)
        else:
            self._append(text, self._block.cells, 0)
        return text

    def _nested(self, text: Text, cells: Any, axis: int) -> None:
        if axis == self._axes - 1:
            self._row(text, cells)
            return
        text.append("[")
        for at, item in enumerate(cells):
            if at:
                self._new_line(text, axis)
            if self._block.gaps[axis] and at == self._block.gaps[axis]:
                text.append("...")
                self._new_line(text, axis)
            self._nested(text, item, axis + 1)
        text.append("]")

    def _new_line(self, text: Text, axis: int) -> None:
        text.append("\n" * (self._axes - axis - 1) + " " * (self._indent + axis + 1))

    def _row(self, text: Text, cells: list[NumberText]) -> None:
        """Lay out the innermost axis: what does not fit is left out of a large tensor, and wrapped of a small one."""
        gap, wrap = self._block.gaps[-1], 0
        if gap or (len(cells) > self._room and self._cut):
            keep = max((self._room - 1) // 2, 1)
            gap = min(keep, gap) if gap else keep
            cells = cells[:gap] + (cells[-gap:] if self._room > 2 else [])
        elif len(cells) > self._room:
            wrap = self._room
        width = self._cell if len(cells) > 1 or self._axes > 1 else 0
        text.append("[")
        for at, cell in enumerate(cells):
            if wrap and at and at % wrap == 0:
                text.append("\n" + " " * (self._indent + self._axes))
            elif at:
                text.append(" ")
            if gap and at == gap:
                text.append("... ")
            self._append(text, cell, width)
        text.append(" ...]" if gap == len(cells) else "]")

    @property
    def _cut(self) -> bool:
        return any(self._block.gaps) or bool(self._block.at)

    def _append(self, text: Text, cell: NumberText, width: int) -> None:
        shown = cell.text + ("*" if cell.marked and self._star else " " if self._star else "")
        text.append(shown.rjust(width), style=cell.style)


def numbers(array: mx.array, indent: int = 0) -> Text:
    """Return the elements in brackets, aligned, rows under each other; corners only if there are many.

    Args:
        array: Any shape and dtype; it is evaluated, as far as it is shown.
        indent: How far the continuation lines are moved to the right.
    """
    if array.size == 0:
        return Text("[]")
    return Text("\n" + " " * indent).join(
        [_Layout(block, 100, indent, False).text() for block in blocks(array, TensorStyle())]
    )


class Tensor:
    """A named tensor: `z1 = [[...]]`; with shape, dtype and a summary where it is not shown whole.

    Everything is computed when this is made; what is shown of it depends on the width at which it is rendered.
    """

    def __init__(self, name: str, array: mx.array, look: TensorStyle | None = None, note: str = "") -> None:
        look = look or TensorStyle()
        if look.before is not None and (look.before.shape, look.before.dtype) != (array.shape, array.dtype):
            look = TensorStyle(look.format, look.within)
        self._name = name
        self._size = array.size
        self._starred = look.within is not None or look.before is not None
        self._head = tensor_line(name, array) if is_folded(array) or not array.size else None
        self._blocks = blocks(array, look) if array.size else []
        self._batch = array.shape[:-2]
        self._note = note
        if look.within is not None and array.size:
            low, high = look.within
            self._note += f"{count_within(array, low, high)} of {array.size} in [{number(low)}, {number(high)}]"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        star = self._starred and (console.color_system is None or console.no_color)
        if self._head is None:
            yield self._whole(width, star)
        else:
            yield self._head
            yield from self._corners(width, star)
        if self._note:
            yield Text(self._note, style="hint")

    def _whole(self, width: int, star: bool) -> Text:
        text = Text(no_wrap=True)
        text.append(self._name, style="value.name").append(" = ")
        block, indent = self._blocks[0], text.cell_len
        cells, row = block.cells, 1
        while isinstance(cells, list):
            row, cells = len(cells), cells[0]
        if indent > 12 and row > 1 and indent + (block.width() + 1) * row + 2 * len(block.gaps) > width:
            text.append("\n  ")
            indent = 2
        return text.append_text(_Layout(block, width, indent, star).text())

    def _corners(self, width: int, star: bool) -> RenderResult:
        count = 1
        for extent in self._batch:
            count *= extent
        for at, block in enumerate(self._blocks):
            label = f"[{', '.join(map(str, block.at))}] " if block.at else ""
            if at and count > len(self._blocks):
                yield Text(f"... {count - 2} more", style="dim")
            text = Text(label, style="dim", no_wrap=True)
            layout = _Layout(block, width, len(label), star).text()
            yield Text(no_wrap=True).append_text(text).append_text(layout)


def tensor(name: str, array: mx.array, look: TensorStyle | None = None, note: str = "") -> Tensor:
    """Return a named tensor, to be rendered. Evaluates it."""
    return Tensor(name, array, look, note)


def tensor_line(name: str, array: mx.array) -> Text:
    """Return a tensor in one line: its shape, dtype and summary."""
    text = Text()
    text.append(name, style="value.name")
    text.append(f" {shape_text(array.shape)} {dtype_text(array.dtype)}  ", style="value.shape")
    return text.append_text(summary_text(summarize(array))) if array.size else text.append("empty")


class OneLine:
    """A tensor in one line, with as much of its summary as fits."""

    def __init__(self, name: str, array: mx.array) -> None:
        self._line = tensor_line(name, array)
        short = summary_text(summarize(array), brief=True) if array.size else Text("empty")
        self._brief = Text(name, style="value.name").append(f" {shape_text(array.shape)}  ", style="value.shape")
        self._brief.append_text(short)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._line if self._line.cell_len <= options.max_width else self._brief


__all__ = [
    "Format",
    "OneLine",
    "Summary",
    "Tensor",
    "TensorStyle",
    "dtype_text",
    "number",
    "numbers",
    "shape_text",
    "summarize",
    "summary_text",
    "tensor",
    "tensor_line",
]  # fmt: skip


def samples_text(value: Value | None) -> str:
    """`4 samples along axis 0`, for what lies inside of a `vmap`; "" for all else."""
    found = [] if value is None else samples_of(value)
    return ", ".join(f"{size} samples along axis {axis}" for size, axis in found)
