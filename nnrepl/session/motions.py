"""Motions: where a user can go from where they stand, forwards, backwards and to a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nnrepl.session import goals
from nnrepl.session.entered import InCell, SourceLine, check_cells
from nnrepl.session.errors import NotYet, UserError
from nnrepl.session.findings import source_of
from nnrepl.session.hooks import END_OF_TAPE, START_OF_TAPE
from nnrepl.session.passing import passed_by
from nnrepl.session.place import Place
from nnrepl.session.places import base
from nnrepl.session.program import lines_with_ops, near
from nnrepl.session.reading import Reading
from nnrepl.session.running import Lookout
from nnrepl.session.stops import Breakpoint, Hit
from nnrepl.tape import Activation, Tape, is_skipped
from nnrepl.timeline import moves

_FIXED = ("op", "edge", "pass", "step", "turn")
"""Places of which there is one only."""
_COUNTED = 20_000
"""In a step of more ops than this those at a place are not counted: that would take longer than to go there."""


class Back(Protocol):
    """One of the backward functions of `nnrepl.timeline.moves`."""

    def __call__(
        self, tape: Tape, position: int, skip: Sequence[str] = (), scope: Activation | None = None
    ) -> int | None: ...


class Motions(Reading):
    """The motions of a session. Each ends with a new `stop`, or lets the program run on.

    Attributes:
        lookout: What may stop a motion on its way.
        function: The call in which the user goes on by lines, where that is not the one in which the next op is made:
            `next` goes over the calls of a line, also where the line's first op lies in one.
    """

    lookout: Lookout
    function: Activation | None

    def arrive(
        self,
        position: int,
        reason: str = "",
        error: BaseException | None = None,
        *,
        missed: str = "",
        hits: tuple[Hit, ...] = (),
        by: goals.Goal | None = None,
    ) -> None:
        """Put the cursor somewhere, where the user has the floor. `by`: what they wanted, if that led here."""
        raise NotImplementedError

    def hit(self, hits: list[Hit], missed: str = "", by: goals.Goal | None = None) -> None:
        """Put the cursor where breakpoints, watches or catches were hit."""
        raise NotImplementedError

    def forward(self, goal: goals.Goal) -> None:
        """Go on towards a goal: on the tape as far as it reaches, then by letting the program run."""
        raise NotImplementedError

    def behind(self, target: int, each: bool = True) -> list[Hit]:
        """Return what is hit on the way back to a position, where `each` op counts or not."""
        raise NotImplementedError

    def open_ahead(self, goal: goals.Goal, found: int | None) -> None:
        """Open steps on the way to a goal that ran natively, if what lies in them counts there."""
        raise NotImplementedError

    def open_newer(self, found: int) -> None:
        """Open steps that ran natively, where they may have what was found once more, nearer to the cursor."""
        raise NotImplementedError

    def stand_in(self, call: Activation | None) -> None:
        """Stand in a call around the next op, as pdb does at a line of it: `next` goes on by its lines, and Python at
        the prompt sees its variables. None, and a call of a library's: in the one that makes the op."""
        scope = self.lookup.frames.scope_at(self.cursor)
        around = call is not None and scope is not None and scope.within(call) and not is_skipped(call, self.skip)
        self.function = call if around else None
        self.level = scope.depth - call.depth if around and call is not None and scope is not None else 0

    def meant(self, position: int, hits: Sequence[Hit], by: goals.Goal | None) -> Activation | None:
        """Return the call in which the user wanted to arrive; None where they did not say."""
        if hits:
            entry = hits[0].entry
            place = self.lookout.search.place(entry) if isinstance(entry, Breakpoint) else None
        elif isinstance(by, goals.Moving):
            return by.scope if by.position == position else None
        else:
            place = by.place if isinstance(by, (goals.Until, goals.Found)) else None
        return None if place is None else place.frame(self.tape, position)

    def step(self, count: int = 1) -> None:
        """Go to the next op, or the `count`-th from here."""
        passes = self.settings["dull"] == "pass"
        self.forward(goals.Telling(self.cursor + 1, count) if passes else goals.Stepping(self.cursor + count))

    def next(self, count: int = 1) -> None:
        """Go to the first op of the next line of this function or of a caller."""
        self.forward(goals.over(self.cursor, self.skip, count, self.function))

    def next_pass(self, count: int = 1) -> None:
        """Go to the first op of the next pass, or the `count`-th from here."""
        pass_ = self.pass_
        self.forward(goals.NextPass(count if pass_ is None else pass_.number + count))

    def next_step(self, count: int = 1) -> None:
        """Go to the first op of the next training step, or the `count`-th from here."""
        self.forward(goals.InStep(self.tape.here + count))

    def next_turn(self, count: int = 1) -> None:
        """Go to the first op of the next turn of the program's loop, or the `count`-th from here. Raises UserError."""
        self.until(f"turn {self.tape.turns.number_at(self.cursor, self.tape.ops) + count}")

    def back_turn(self, count: int = 1) -> None:
        """Go back to the first op of the turn before this one, or `count` turns. Raises UserError."""
        self.goto(f"turn {max(self.tape.turns.number_at(self.cursor, self.tape.ops) - count, 1)}")

    def back_step(self, count: int = 1) -> None:
        """Go back to the first op of the training step before this one, or `count` steps."""
        number = self.tape.here - count
        start = self.tape.steps.start_of(max(number, 1 if self.tape.here else 0))
        self.arrive(start or 0, START_OF_TAPE if number < 1 else "")

    def back_pass(self, count: int = 1) -> None:
        """Go back to the first op of the pass before this one, or `count` passes."""
        pass_ = self.pass_
        number = 0 if pass_ is None else pass_.number - count
        found = [other for other in self.tape.passes if other.number <= number and len(other)]
        self.arrive(found[-1].start if found else 0, "" if found else START_OF_TAPE)

    def finish(self) -> None:
        """Go to the first op outside of this function."""
        self.forward(goals.out(self.cursor, self.skip, self.function))

    def until(self, place: str = "") -> None:
        """Go on to the next position of a place; without one, to a greater line of this function.

        Raises:
            UserError: If there is no such place.
        """
        if place:
            self._on(self.place(place), self.cursor + 1)
        else:
            self.forward(goals.further_down(self.cursor, self.skip, self.function))

    def resume(self, count: int = 1) -> None:
        """Go to the next stop, or the `count`-th from here, or the end."""
        self.lookout.search.skip = count - 1
        self.forward(goals.Never())

    def back(self, count: int = 1) -> None:
        """Go `count` ops back."""
        at_start = self.cursor == 0
        passes = self.settings["dull"] == "pass"
        target = moves.back_telling(self.tape, self.cursor, count) if passes else max(self.cursor - count, 0)
        self._return_to(target, START_OF_TAPE if at_start else "")

    def back_next(self, count: int = 1) -> None:
        """Go back to the first op of this line of this function; from there, of the line before."""
        self._backward(moves.back_over, count)

    def back_finish(self) -> None:
        """Go back to where this function was entered."""
        self._backward(moves.back_out, 1)

    def _backward(self, move: Back, count: int) -> None:
        position, scope = self.cursor, self.function
        for _ in range(count):
            found = move(self.tape, position, self.skip, scope)
            if found is None:
                at_start = position == self.cursor
                self._return_to(0 if not at_start else position, START_OF_TAPE)
                return
            scope = moves.standing(self.tape, position, found, self.skip, scope)
            position = found
        self._return_to(position)
        if self.cursor == position:
            self.stand_in(scope)

    def _return_to(self, position: int, reason: str = "", each: bool = True) -> None:
        """Go back to a position, or to what is hit on the way; `each` op in between counts, or only what may be hit."""
        hits = self.behind(position, each)
        if hits:
            self.hit(hits)
        else:
            self.arrive(position, reason)

    def back_resume(self, count: int = 1) -> None:
        """Go back to the last stop, or the `count`-th before here, or the start of the first forward pass."""
        self.lookout.search.skip = count - 1
        target = self.tape.origin if self.cursor > self.tape.origin else 0
        self._return_to(target, START_OF_TAPE if self.cursor == target else "", each=False)

    def goto(self, text: str) -> None:
        """Go to the nearest position of a place, in either direction (see `nnrepl.session.places`): in this step, as
        far as it goes; else before; else ahead.

        Raises:
            UserError: If there is no such place.
        """
        place = self.place(text)
        found = self.nearest(place)
        if place.kind not in _FIXED and not place.is_bounded(self.tape):
            self.open_newer(-1 if found is None else found)
        if found is not None and self._comes_next(place, found):
            find = lambda begin, end, reverse: self.find(place, begin, end, reverse)  # noqa: E731
            here = self.tape.here
            self.forward(
                goals.UntilStepEnds(place, find, len(self.tape), lambda at: self._arrival(place, at), here, found)
            )
        elif found is not None:
            reason = END_OF_TAPE if place.title == "end" else self._arrival(place, found)
            self.arrive(found, reason, by=goals.Found(found, reason, place))
        else:
            self._on(place, len(self.tape))

    def _comes_next(self, place: Place, found: int) -> bool:
        """Whether the nearest position of a place is the step before's, and this step's may be still to come."""
        steps, here = self.tape.steps, self.tape.here
        fixed = place.kind in _FIXED or place.is_bounded(self.tape)
        return not fixed and self.goes_on and here == len(steps) and 0 < steps.number_at(found) == here - 1

    def _on(self, place: Place, start: int) -> None:
        """Go on to the first position of a place from `start` on, by letting the program run if it has to."""
        goal = goals.Until(
            place,
            lambda begin, end, reverse: self.find(place, begin, end, reverse),
            start,
            lambda found: self._arrival(place, found),
        )
        found = goal.find(self.tape)
        self.open_ahead(goal, found)
        if goal.over:
            raise UserError(goal.over)
        if found is not None:
            self.forward(goals.Found(found, goal.reason, place))
        elif not self.goes_on or place.gone(self.tape):
            raise UserError(place.gone(self.tape) or self._nowhere(place, start))
        else:
            self.forward(goal)

    def _nowhere(self, place: Place, start: int) -> str:
        """Why no op is at a place from a position on; of a line that has made none, which near it have."""
        if isinstance(place, SourceLine) and not place.makes_ops(self.tape):
            made = sorted(lines_with_ops(self.tape, place.file))
            close = " and ".join(f"{base(place.file)}:{line}" for line in near(made, place.line))
            return f"no op has come from {place.title}" + (f"; the nearest that made some: {close}" if close else "")
        if place.is_bounded(self.tape) and place.span(self.tape, 0, len(self.tape) + 1)[0] > len(self.tape):
            return f"{place.title} was never reached; {self.lookup.extent(len(self.tape.steps) + 1)}"
        return f"no op is at {place.title}{' from here on' if start else ''}; {self.lookup.extent()}"

    def _arrival(self, place: Place, found: int) -> str:
        """`softmax · 2 of 4 in this step`: the place in its canonical spelling, and how many ops here are at it."""
        passed = passed_by(place, self.tape, found)
        if passed:
            return passed
        step = self.tape.steps.at(found)
        if place.kind in ("op", "edge", "pass", "phase", "step", "turn"):
            return ""
        if place.condition or len(step) > _COUNTED:
            return place.title
        positions = list(place.positions(self.tape, step.start, step.end))
        if found not in positions:
            return place.title
        return f"{place.title} · {positions.index(found) + 1} of {len(positions)} in this step"

    def last_write(self, name: str) -> None:
        """Go back to the op that wrote a value last; from there, to the write before.

        Raises:
            UserError: If no op before the cursor wrote it.
        """
        try:
            value = source_of(self.named(name))
        except NotYet as answer:  # the write before may be another call's, or another step's
            if answer.last is None or answer.last.op is None or answer.last.op.position >= self.cursor:
                raise
            value = source_of(answer.last)
        if value.op is None:
            what = "a gradient that the pass starts from" if value.kind == "seed" else f"{value.kind} of the program"
            if value.kind == "captured" and self.tape.closed:
                what = "made in what is closed, or outside of the recording"
            raise UserError(f"no op on the tape wrote {name}: it is {what}")
        self.arrive(value.op.position)

    def rewind(self) -> None:
        """Go back to the first op of this pass; from there, of the one before."""
        tape, pass_ = self.tape, self.pass_
        if pass_ is None:
            self.arrive(0, START_OF_TAPE)
            return
        if self.cursor == pass_.start:
            pass_ = tape.passes[max(tape.passes.index(pass_) - 1, 0)]
        self.arrive(pass_.start, START_OF_TAPE if pass_.start == self.cursor else "")

    def next_cell(self, count: int = 1) -> None:
        """Go to the first op of the next cell of a notebook that makes ops, or of the `count`-th from here.

        Raises:
            UserError: If no notebook runs.
        """
        check_cells(self.tape)
        self.forward(goals.NextCell(self.cursor + 1, count))

    def back_cell(self, count: int = 1) -> None:
        """Go back to the first op of this cell of a notebook; from there, of the one before. Raises UserError."""
        check_cells(self.tape)
        found = list(InCell(0).positions(self.tape, 0, self.cursor))[-count:]
        self.arrive(found[0] if len(found) == count else 0, "" if found else START_OF_TAPE)
