"""Goals: what the program runs on for. A goal looks at each op once, as it is recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import mlx.core as mx

from nnrepl.record.segments import cell_of
from nnrepl.replay.run import Run
from nnrepl.session.entered import InCell
from nnrepl.session.errors import CannotAsk
from nnrepl.session.parsed import parse
from nnrepl.session.place import Find, Place, named_from
from nnrepl.session.points import Condition, StepStart
from nnrepl.tape import Activation, ClosedOp, Tape
from nnrepl.timeline import moves

Move = Callable[[Tape, int, int | None, Sequence[str], Activation | None], int | None]


class Goal(Protocol):
    """Where a motion wants to go.

    Attributes:
        reason: What to say on arrival.
        sought: The place that it looks for, "" if any will do.
    """

    reason: str
    sought: str

    def find(self, tape: Tape) -> int | None:
        """Return the position to stop at, if it has been recorded."""


def missed(goal: Goal | None, tape: Tape) -> str:
    """Return what to say where the program has ended before it came to a goal."""
    if goal is None or not goal.sought:
        return ""
    if isinstance(goal, Until) and goal.place.first_after(tape, len(tape)) is not None:
        return f"{goal.sought} has run, and no op came after it"
    return f"{goal.sought} was not reached"


class At:
    """A fixed position."""

    def __init__(self, position: int, reason: str = "", sought: str = "") -> None:
        self.position = position
        self.reason = reason
        self.sought = sought

    def find(self, tape: Tape) -> int | None:
        return self.position if self.position < len(tape) else None


class RunBehind(At):
    """Where the user is to stand once something has run again."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.cursor)
        self._run = run

    def find(self, tape: Tape) -> int | None:
        at = self._run.stands()
        return None if at is None or at >= len(tape) else at


class Stepping(At):
    """A position a few ops ahead: the result of the last op that was stepped over is worth showing."""


class Telling(Stepping):
    """The first op from a position on, or the `count`-th, that does more than arrange numbers (`config dull pass`)."""

    def __init__(self, position: int, count: int) -> None:
        super().__init__(position)
        self._left = count

    def find(self, tape: Tape) -> int | None:
        while self.position < len(tape):
            self._left -= not moves.is_dull(tape.ops[self.position])
            if not self._left:
                return self.position
            self.position += 1
        return None


class Found(At):
    """The position of a place that has been looked for on the way already."""

    def __init__(self, position: int, reason: str, place: Place) -> None:
        super().__init__(position, reason, place.title)
        self.place = place


class FirstForward:
    """The first op of the first forward pass."""

    reason = "first op"
    sought = ""

    def __init__(self, started: Callable[[], bool]) -> None:
        self._started = started

    def find(self, tape: Tape) -> int | None:
        return tape.origin if self._started() and tape.origin < len(tape) else None


class Ending:
    """The end of the program, with what may stop it on the way."""

    reason = sought = ""

    def find(self, tape: Tape) -> int | None:
        return None


class Moving(Stepping):
    """A motion relative to the function in which the user stands: `next`, `finish`, `until`.

    Args:
        move: One of the forward functions of `nnrepl.timeline.moves`.
        skip: The modules whose functions are not the program's own.
        count: How often.
        scope: The call in which the user goes on by lines; None for that of the op.

    Attributes:
        scope: That in which they go on from the position that was found.
    """

    def __init__(
        self, move: Move, position: int, skip: Sequence[str], count: int = 1, scope: Activation | None = None
    ) -> None:
        super().__init__(position)
        self.scope = scope
        self._move = move
        self._skip = skip
        self._count = count
        self._seen: int | None = None

    def find(self, tape: Tape) -> int | None:
        while self._count:
            found = self._move(tape, self.position, self._seen, self._skip, self.scope)
            if found is None:
                self._seen = len(tape)
                return None
            self.scope = moves.standing(tape, self.position, found, self._skip, self.scope)
            self.position, self._seen = found, None
            self._count -= 1
        return self.position


class Until:
    """The next position of a place, from a position on.

    Args:
        place: The place.
        find: Finds the first position of it in a range; raises CannotAsk if its condition cannot be asked.
        start: Where to begin.
        said: What to say on arrival at a position.

    Attributes:
        over: Why it will not be found any more: the step or the pass that is named is over; "" as long as it may.
    """

    def __init__(self, place: Place, find: Find, start: int, said: Callable[[int], str]) -> None:
        self.reason = self.sought = place.title
        self.place = place
        self._find = find
        self._said = said
        self._start = self._seen = start
        self._asked = False
        self.over = ""

    def find(self, tape: Tape) -> int | None:
        start, self._seen = self._seen, max(len(tape), self._seen)
        if self.place.by_name:  # what an update has made gets its name when the program comes by once more
            self._seen = max(self._start, min(named_from(tape), self._seen))
        try:
            found = self._find(start, len(tape), False)
            if found is not None:
                self.reason = self._said(found)
            return self._given_up(tape) if found is None else found
        except CannotAsk as error:
            if not self._asked:
                raise
            self.reason = str(error)  # the program waits: it must not see this
            return error.position
        finally:
            self._asked = True

    def move(self, moved: Callable[[int], int]) -> None:
        """Note that positions of the tape have moved."""
        self._start, self._seen = moved(self._start), moved(self._seen)

    def _given_up(self, tape: Tape) -> int | None:
        """Return the first op of the step or the pass that is named, if that is over and has nothing at the place; if
        it began before this, where the user stands."""
        if not self.place.is_bounded(tape):
            return None
        start, end = self.place.span(tape, 0, len(tape) + 1)
        if any(isinstance(op, ClosedOp) for op in tape.ops[start:end]):
            return None  # who knows what is in it
        self.over = self.over or self.place.gone(tape)
        self.reason = self.over or self.reason
        return max(start, self._start - 1) if self.over else None


class UntilStepEnds(Until):
    """The next position of a place that the step before had, as far as this step goes; where that has none, the one of
    the step before.

    Args:
        step: The number of this step.
        instead: The last position before this step.
    """

    def __init__(
        self, place: Place, find: Find, start: int, said: Callable[[int], str], step: int, instead: int
    ) -> None:
        super().__init__(place, find, start, said)
        self.step, self.instead = step, instead

    def find(self, tape: Tape) -> int | None:
        found = super().find(tape)
        if found is not None or not len(tape) or tape.steps.number_at(len(tape) - 1) <= self.step:
            return found
        return self.give_up()

    def give_up(self) -> int:
        """Where to go back to, this step being over."""
        self.reason = f"{self.place.title} was not in step {self.step}; this is the last one before"
        return self.instead


class NextCell:
    """The first op of a later cell of a notebook.

    Args:
        start: From where on.
        count: The how manyth.
    """

    sought = ""

    def __init__(self, start: int, count: int) -> None:
        self.reason = ""
        self._seen = start
        self._left = count
        self._cell = InCell(0)

    def find(self, tape: Tape) -> int | None:
        start, self._seen = self._seen, max(len(tape), self._seen)
        for at in self._cell.positions(tape, start, len(tape)):
            self._left -= 1
            if not self._left:
                scope = tape.ops[at].scope
                assert scope is not None
                self.reason = f"cell {cell_of(scope.path()[0].code)[1]}"
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
        for pass_ in reversed(tape.passes):
            if pass_.number < self._number:
                return None
            if pass_.number == self._number:
                return pass_.start if pass_.start < len(tape) else None
        return None


class InStep:
    """The first op of a step."""

    reason = ""

    def __init__(self, step: int) -> None:
        self.sought = f"step {step}"
        self.step = step

    def find(self, tape: Tape) -> int | None:
        start = tape.steps.start_of(self.step)
        return start if start is not None and start < len(tape) else None


class AtEvaluation:
    """The first op after an evaluation that the program has forced.

    Args:
        count: The how manyth of the run that is.
        forced: Tells how many it has forced up to now.
    """

    reason = "interrupted"
    sought = ""

    def __init__(self, count: int, forced: Callable[[], int]) -> None:
        self._count = count
        self._forced = forced

    def find(self, tape: Tape) -> int | None:
        since = self._forced() - self._count
        if not 0 <= since < len(tape.marks):
            return None
        position = tape.marks[-since - 1].position
        return position if position < len(tape) else None


class Never:
    """Run to the end."""

    reason = ""
    sought = ""

    def find(self, tape: Tape) -> int | None:
        return None


def needed_from(goal: Goal) -> int:
    """Return the first training step of which a goal has to see ops; those before may run natively."""
    if isinstance(goal, (Never, Ending, Found)):
        return sys.maxsize
    if isinstance(goal, InStep):
        return goal.step
    if isinstance(goal, Until) and isinstance(goal.place, StepStart):
        return goal.place.number
    return sys.maxsize if of_loss(goal) else 0  # of every step, that is


def of_loss(goal: Goal) -> str:
    """Return the condition that a goal waits for, if that speaks of nothing but the loss of a gradient call; else
    ""."""
    place = goal.place if isinstance(goal, Until) else None
    if not isinstance(place, Condition) or place.place is not None:
        return ""
    parsed = parse(place.condition)
    return place.condition if parsed.plain_names == ["loss"] and not parsed.gradients else ""


def holds(condition: str, loss: mx.array) -> bool:
    """Whether a condition on the loss is true of one. What cannot be asked is taken to be: what is wrong is said where
    its step is open."""
    try:
        return bool(eval(condition, {"loss": loss, "mx": mx}))
    except Exception:
        return True


def over(position: int, skip: Sequence[str], count: int, scope: Activation | None = None) -> Moving:
    """`next`: to the next line of the function here."""
    return Moving(moves.over, position, skip, count, scope)


def out(position: int, skip: Sequence[str], scope: Activation | None = None) -> Moving:
    """`finish`: out of the function here."""
    return Moving(moves.out, position, skip, scope=scope)


def further_down(position: int, skip: Sequence[str], scope: Activation | None = None) -> Moving:
    """`until` without a place: to a greater line."""
    return Moving(moves.further_down, position, skip, scope=scope)
