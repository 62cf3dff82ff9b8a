"""Training: the loss over the steps, and the gradients of this one by size, in the room that a pane has."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from rich.text import Text

from nnrepl.seen.gradient_sizes import NOT_COMPUTED, NOT_MADE, Sizes
from nnrepl.tape import Value
from nnrepl.view.content import Item, Part
from nnrepl.view.narrow import ending
from nnrepl.view.plot import HEIGHT, Curve, Plot
from nnrepl.view.tensor import number

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLOT_LINES = HEIGHT + 3


class Training:
    """The pane: a curve (a line of blocks where there is little room), and bars."""

    def __init__(self, losses: Sequence[tuple[int, float]], gradients: Sizes | None, key: Hashable) -> None:
        self._losses = losses
        self._gradients = gradients
        self.key = key

    title = "loss and gradients"

    def count(self, width: int) -> int | None:
        """As many as it takes."""
        return None

    def home(self, count: int, height: int) -> int:
        """Return the beginning."""
        return 0

    def chosen(self) -> int:
        """Return the first line."""
        return 0

    def parts(self, first: int, width: int, height: int, right: int) -> Sequence[Part]:
        """Return the curve above the bars."""
        bars = _bars(self._gradients, width)
        if not self._losses:
            return [Part(Text("loss: not computed yet", style="hint")), *bars]
        if len(self._losses) > 1 and height >= _PLOT_LINES + min(len(bars), 8):
            numbers, values = zip(*self._losses)
            return [Part(Plot([Curve("loss", numbers, values)]), Item(enter="plot loss")), *bars]
        return [Part(self._blocks(width), Item(enter="plot loss")), *bars]

    def _blocks(self, width: int) -> Text:
        """`loss ▁▂▂▃▅▇ 2.94 (step 10)`."""
        step, last = self._losses[-1]
        said = f" {number(last)} (step {step})"
        room = max(width - len("loss ") - len(said), 1)
        line = Text(no_wrap=True).append("loss ", style="heading")
        values = [value for _, value in self._losses][-room:]
        finite = [value for value in values if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
        for value in values if len(values) > 1 else []:
            share = (value - low) / (high - low) if high > low else 0.0
            block = _BLOCKS[round(share * 7)] if math.isfinite(value) else "×"
            line.append(block, style="source.current" if math.isfinite(value) else "tensor.nan")
        return line.append(said, style="" if math.isfinite(last) else "tensor.nan")


def _bars(gradients: Sizes | None, width: int) -> list[Part]:
    """One line each, the largest first."""
    if gradients is None or not gradients.pass_.wrt:
        return []
    rows = sorted(gradients.norms.items(), key=lambda one: (math.isfinite(one[1][1]), -one[1][1]))
    top = max((size for _, (_, size) in rows if math.isfinite(size)), default=0.0)
    names = min(max((len(leaf.name) for leaf, _ in rows), default=0), max(width // 2 - 4, 8))
    parts = [Part(Text(f"gradients (norm) · {gradients.pass_.address}", style="heading"))]
    for leaf, (gradient, size) in rows:
        line = Text(no_wrap=True, overflow="ellipsis")
        name = Text(ending(leaf.name, names), style="value.name")
        name.truncate(names, overflow="ellipsis", pad=True)
        line.append_text(name)
        odd = not math.isfinite(size) or not size
        line.append(f" {number(size).rjust(9)} ", style="warning" if odd else "")
        share = size / top if top and math.isfinite(size) else 0.0
        line.append("█" * math.ceil(share * max(width - line.cell_len - 1, 1)), style="gradient")
        parts.append(Part(line, _item(leaf, gradient)))
    waiting = list(gradients.missing.values()).count(NOT_COMPUTED)
    unmade = list(gradients.missing.values()).count(NOT_MADE)
    if waiting:
        said = f"{waiting} not computed yet: info gradients computes them"
        parts.append(Part(Text(said, style="hint"), Item("info gradients", "info gradients")))
    if unmade:
        parts.append(Part(Text(f"{unmade} not made yet", style="hint")))
    return parts


def _item(leaf: Value, gradient: Value) -> Item:
    op = gradient.op
    where = f"goto {op.label}" if op is not None else ""
    return Item(where, f"why grad({leaf.name})", f"break {op.label}" if op is not None else "")
