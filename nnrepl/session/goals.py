"""Goals: what the program runs on for. A goal looks at each op once, as it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nnrepl.session.errors import UserError
from nnrepl.session.places import Place
from nnrepl.tape import GRADIENT_PASS, Pass, Tape
from nnrepl.timeline import moves


class Goal(Protocol):
    """Where a motion wants to go.

    Attributes:
        reason: What to say on arrival.
        sought: The place that it looks for, "" if any will do.
    """

    reason: str
    sought: str

    def find(self, tape: Tape) -> int | None:
        """The position to stop at, if it has been recorded."""


class At:
    """A fixed position."""

    def __init__(self, position: int, reason: str = "", sought: str = "") -> None:
        self.position = position
        self.reason = reason
        self.sought = sought

    def find(self, tape: Tape) -> int | None:
        return self.position if self.position < len(tape) else None


class Stepping(At):
    """A position a few ops ahead: the result of the last op that was stepped over is worth showing."""


class FirstForward:
    """The first op of the first forward pass."""

    reason = "first op"
    sought = ""

    def __init__(self, started: Callable[[], bool]) -> None:
        self._started = started

    def find(self, tape: Tape) -> int | None:
        return tape.origin if self._started() and tape.origin < len(tape) else None


class Moving(Stepping):
    """A motion relative to the function in which the person stands: `next`, `finish`, `until`.

    Args:
        move: One of the forward functions of `nnrepl.timeline.moves`.
        count: How often.
    """

    def __init__(self, move: Callable[[Tape, int, int | None], int | None], position: int, count: int = 1) -> None:
        super().__init__(position)
        self._move = move
        self._count = count
        self._seen: int | None = None

    def find(self, tape: Tape) -> int | None:
        while self._count:
            found = self._move(tape, self.position, self._seen)
            if found is None:
                self._seen = len(tape)
                return None
            self.position, self._seen = found, None
            self._count -= 1
        return self.position


class Until:
    """The next op at a place."""

    def __init__(self, place: Place, start: int) -> None:
        self.reason = f"reached {place.text}"
        self.sought = place.text
        self._place = place
        self._seen = start

    def find(self, tape: Tape) -> int | None:
        start, self._seen = self._seen, len(tape)
        for at in range(start, len(tape)):
            if self._place.matches(tape.ops[at]):
                return at
        return None


class NextPass:
    """The first op of a later pass.

    Args:
        number: The number of that pass.
    """

    reason = ""
    sought = ""

    def __init__(self, number: int) -> None:
        self._number = number

    def find(self, tape: Tape) -> int | None:
        for part in reversed(tape.passes):
            if part.number < self._number:
                return None
            if part.number == self._number:
                return part.start if part.start < len(tape) else None
        return None


class InStep:
    """An op of a step: `step 30`, `30#12`.

    Args:
        step: The number of the step.
        number: Which of its ops, counted from 1.
    """

    def __init__(self, step: int, number: int = 1) -> None:
        self.reason = ""
        self.sought = f"step {step}" if number == 1 else f"{step}#{number}"
        self._step = step
        self._number = number

    def find(self, tape: Tape) -> int | None:
        start = tape.steps.start_of(self._step)
        if start is None:
            return None
        position = start + self._number - 1
        return position if position < len(tape) and tape.steps.number_at(position) == self._step else None


class Fulfilled:
    """The first gradient pass, from a position on, at whose end a condition holds.

    Args:
        text: The condition.
        holds: Tells whether it holds at the end of a pass.
        start: The position from which on passes count.
    """

    def __init__(self, text: str, holds: Callable[[Pass], bool], start: int) -> None:
        self.reason = self.sought = text
        self._holds = holds
        self._start = start
        self._seen = 0

    def find(self, tape: Tape) -> int | None:
        passes = tape.passes
        while self._seen < len(passes):
            part = passes[self._seen]
            if part.open:
                return None
            self._seen += 1
            try:
                if part.kind == GRADIENT_PASS and part.end > self._start and self._holds(part):
                    return part.end - 1
            except UserError as error:  # the program waits: it must not see this
                self.reason = str(error)
                return part.end - 1
        return None


class Never:
    """Run to the end."""

    reason = ""
    sought = ""

    def find(self, tape: Tape) -> int | None:
        return None


def over(position: int, count: int) -> Moving:
    """`next`: over the calls that the function here makes."""
    return Moving(moves.over, position, count)


def out(position: int, count: int = 1) -> Moving:
    """`finish`: out of the function here."""
    return Moving(moves.out, position, count)


def further_down(position: int) -> Moving:
    """`until` without a place: to a greater line."""
    return Moving(moves.further_down, position)
