"""Training: the loss over the steps, and the gradients of this one by size, in the room that a pane has."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from typing import Any

from rich.text import Text

from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Pass, Value
from nnrepl.view.content import Item, Part
from nnrepl.view.outline import norms
from nnrepl.view.plot import HEIGHT, Curve, Plot
from nnrepl.view.tensor import number

STEPS = 2000
"""The loss is looked for in so many steps before the cursor."""
_MANY = 200
"""Of more gradients than these none is computed unasked."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_PLOT_LINES = HEIGHT + 3


class Losses:
    """The losses that have been computed, step by step. Nothing is computed to know them."""

    def __init__(self, session: Reading) -> None:
        self._session = session
        self._tape = session.tape
        self._known: dict[int, float] = {}

    def so_far(self) -> list[tuple[int, float]]:
        """The number of each step before the cursor (or in which it stands) and its last loss, where that is known."""
        tape, cursor = self._session.tape, self._session.cursor
        if tape is not self._tape:
            self._tape, self._known = tape, {}
        here = tape.steps.number_at(cursor)
        first = max(here - STEPS, 0)
        for at, step in enumerate(tape.steps[first:here], first + 1):
            if at in self._known and at != here:
                continue
            calls = [part for part in step.passes if part.kind == GRADIENT_PASS]
            loss = calls[-1].loss if calls else None
            self._known.pop(at, None)
            if loss is not None and loss.op is not None and loss.op.position < cursor and loss.evaluated:
                self._known.update({at: _float(loss)} if loss.size == 1 else {})
        return sorted((at, loss) for at, loss in self._known.items() if first < at <= here)


def _float(value: Value) -> float:
    scalar: Any = value.array.item()
    return float(scalar)


class Gradients:
    """The norms of the gradients of the last gradient call before the cursor, as far as they are there already or small
    enough to be computed unasked.

    Args:
        session: Where the user stands.
        part: The call.
        known: The norms that are known already; those that are found are entered.
    """

    def __init__(self, session: Reading, part: Pass | None, known: dict[Value, float]) -> None:
        self.part = part
        self.norms: dict[Value, tuple[Value, float]] = {}
        self.unmade = self.waiting = 0
        if part is None:
            return
        found: dict[Value, Value] = {}
        for leaf in part.wrt:
            before = [one for one in part.grads.get(leaf, []) if one.op is None or one.op.position < session.cursor]
            if before:
                found[leaf] = before[-1]
        few = len(found) <= _MANY
        there = {leaf: one for leaf, one in found.items() if one.evaluated or (few and session.small([one]))}
        there = {leaf: one for leaf, one in there.items() if one.size}
        new = [one for one in there.values() if one not in known]
        session.evaluate(new)
        known.update(zip(new, norms([one.array for one in new])))
        self.norms = {leaf: (one, known[one]) for leaf, one in there.items()}
        self.unmade, self.waiting = len(part.wrt) - len(found), len(found) - len(there)

    def bars(self, width: int) -> list[Part]:
        """One line each, the largest first."""
        if self.part is None or not self.part.wrt:
            return []
        rows = sorted(self.norms.items(), key=lambda one: (math.isfinite(one[1][1]), -one[1][1]))
        top = max((size for _, (_, size) in rows if math.isfinite(size)), default=0.0)
        names = min(max((len(leaf.name) for leaf, _ in rows), default=0), max(width // 2 - 4, 8))
        parts = [Part(Text(f"gradients (norm) · {self.part.address}", style="heading"))]
        for leaf, (gradient, size) in rows:
            line = Text(no_wrap=True, overflow="ellipsis")
            name = Text(leaf.name, style="value.name")
            name.truncate(names, overflow="ellipsis", pad=True)
            line.append_text(name)
            odd = not math.isfinite(size) or not size
            line.append(f" {number(size).rjust(9)} ", style="warning" if odd else "")
            share = size / top if top and math.isfinite(size) else 0.0
            line.append("█" * math.ceil(share * max(width - line.cell_len - 1, 1)), style="gradient")
            parts.append(Part(line, _item(leaf, gradient)))
        if self.waiting:
            said = f"{self.waiting} not computed yet: info gradients computes them"
            parts.append(Part(Text(said, style="hint"), Item("info gradients", "info gradients")))
        if self.unmade:
            parts.append(Part(Text(f"{self.unmade} not made yet", style="hint")))
        return parts


def _item(leaf: Value, gradient: Value) -> Item:
    op = gradient.op
    where = f"goto {op.label}" if op is not None else ""
    return Item(where, f"why grad({leaf.name})", f"break {op.label}" if op is not None else "")


def last_call(session: Reading) -> Pass | None:
    """The last gradient call that has begun before the cursor."""
    passes = session.tape.passes
    at = bisect_right(passes, session.cursor, key=lambda part: part.start) - 1
    while at >= 0 and not passes[at].wrt:
        at -= 1
    return passes[at] if at >= 0 else None


class Training:
    """The pane: a curve (a line of blocks where there is little room), and bars."""

    def __init__(self, losses: Sequence[tuple[int, float]], gradients: Gradients, key: Hashable) -> None:
        self._losses = losses
        self._gradients = gradients
        self.key = key

    title = "loss and gradients"

    def count(self, width: int) -> int | None:
        """As many as it takes."""
        return None

    def home(self, count: int, height: int) -> int:
        """The beginning."""
        return 0

    def chosen(self) -> int:
        """The first line."""
        return 0

    def parts(self, first: int, width: int, height: int, right: int) -> Sequence[Part]:
        """The curve above the bars."""
        bars = self._gradients.bars(width)
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
