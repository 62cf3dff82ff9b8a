"""Losses: those of the steps so far, as far as they have been computed."""

from __future__ import annotations

from typing import Any

from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Value

STEPS = 2000
"""The loss is looked for in so many steps before the cursor."""


class Losses:
    """The losses that have been computed, step by step. Nothing is computed to know them."""

    def __init__(self, session: Reading) -> None:
        self._session = session
        self._tape = session.tape
        self._known: dict[int, float] = {}

    def so_far(self) -> list[tuple[int, float]]:
        """Return the number of each step before the cursor (or in which it stands) and its last loss, where that is
        known."""
        tape, cursor = self._session.tape, self._session.cursor
        if tape is not self._tape:
            self._tape, self._known = tape, {}
        here = tape.steps.number_at(cursor)
        first = max(here - STEPS, 0)
        for at, step in enumerate(tape.steps[first:here], first + 1):
            if at in self._known and at != here:
                continue
            calls = [pass_ for pass_ in step.passes if pass_.kind == GRADIENT_PASS]
            loss = calls[-1].loss if calls else None
            self._known.pop(at, None)
            if loss is not None and loss.op is not None and loss.op.position < cursor and loss.evaluated:
                self._known.update({at: _float(loss)} if loss.size == 1 else {})
        return sorted((at, loss) for at, loss in self._known.items() if first < at <= here)


def _float(value: Value) -> float:
    scalar: Any = value.array.item()
    return float(scalar)
