"""Reading: what a session tells those that look and change nothing: where the user stands, what places mean."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from nnrepl.record.bounds import OutOfBounds, outside
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.record.segments import file_of
from nnrepl.session import places
from nnrepl.session.below import TakesCells
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import Expressions, aside
from nnrepl.session.goals import Goal
from nnrepl.session.hooks import Hooks, Stop
from nnrepl.session.lookup import Lookup
from nnrepl.session.own_names import Surroundings
from nnrepl.session.place import Here, Place
from nnrepl.session.program import Program
from nnrepl.session.state import Course, Going, Over, Replaying, Waiting
from nnrepl.session.stops import Breakpoint, Stops, Trigger
from nnrepl.tape import GRADIENT_PASS, Activation, Op, Pass, Tape, Value, own_site
from nnrepl.timeline.evaluation import LeftTracer, Work, evaluate, pending
from nnrepl.timeline.timelines import Timeline, Timelines


class Reading:
    """A user's place on a tape, as far as it can be looked at.

    Attributes:
        tape, names: The ops, and what things are called.
        cursor: The position of the op that comes next.
        course: Whose turn it is, the user's or the program's.
        level: How many calls above the one that makes the next op Python at the prompt stands (`up`).
        settings: What `config` changes.
        work: What evaluations the user has asked for.
        stops: Breakpoints, watches and catches.
        displays: Expressions that are shown at each stop.
        debuggee: The program, which takes what is typed as its next lines; None where there is none that can.
        predicting: Whether a lesson asks what the next op gives: then nothing of it is shown unasked.
    """

    tape: Tape
    names: ProgramNames
    recorder: Recorder | None
    cursor: int
    level: int
    course: Course
    settings: dict[str, Any]
    work: list[Work]
    hooks: Hooks
    lookup: Lookup
    program: Program
    expressions: Expressions
    stops: Stops
    displays: dict[int, str]
    debuggee: TakesCells | None
    predicting: bool

    @property
    def running(self) -> bool:
        """Whether a program is still running under the session, also where it waits."""
        return not isinstance(self.course.now, Over)

    @property
    def waits(self) -> bool:
        """Whether the user has the floor."""
        return isinstance(self.course.now, (Waiting, Over))

    @property
    def stop(self) -> Stop:
        """Why the user has the floor, which they must have."""
        now = self.course.now
        assert isinstance(now, (Waiting, Over)), now
        return now.stop

    @property
    def goal(self) -> Goal | None:
        """What the program runs on for; None where the user has the floor."""
        now = self.course.now
        return now.goal if isinstance(now, (Going, Replaying)) else None

    @property
    def failure(self) -> BaseException | None:
        """The exception that ended the program; None while it runs, or if it ended by itself."""
        error = None if self.running else self.course.error
        return None if isinstance(error, SystemExit) else error

    @property
    def replaying(self) -> bool:
        """Whether the program does again what is on the tape already."""
        return isinstance(self.course.now, Replaying)

    @property
    def goes_on(self) -> bool:
        """Whether more can be recorded on this tape."""
        raise NotImplementedError

    def op_at(self, text: str) -> Op:
        """Return the op that a place means from here.

        Raises:
            UserError: If there is no such place, or no op is at it.
        """
        place = self.place(text)
        found = self.nearest(place)
        if found is None or found >= len(self.tape):
            raise UserError(f"no op is at {place.title}; {self.lookup.extent()}")
        return self.tape.ops[found]

    def place(self, text: str) -> Place:
        """Read a place, as every command reads it.

        Raises:
            UserError: If nothing recorded and nothing in the program's source can be it.
        """
        op = self.op_or_last
        variables = self.expressions.known(self.where())
        for step in reversed(op.scope.path()) if op is not None and op.scope is not None else ():
            variables = {**step.variables, **variables}
        here = Here(self.tape, self.names, op, self.program, self.goes_on, variables, self.skip)
        return places.read(text, here)

    @property
    def skip(self) -> tuple[str, ...]:
        """The modules whose lines are not the program's own."""
        return tuple(str(self.settings["skip"]).split())

    @property
    def program_name(self) -> str:
        """The name of the file whose lines made the first op; "" where none is known."""
        site = next((own_site(op, self.skip) for op in self.tape.ops if op.scope is not None), None)
        return "" if site is None else os.path.basename(file_of(site.scope.code))

    @property
    def timelines(self) -> Timelines:
        """All timelines."""
        raise NotImplementedError

    def breaks_at(self, entry: Breakpoint) -> Place | None:
        """Return the place of a breakpoint; None while nothing is called so."""
        raise NotImplementedError

    def unasked(self, entry: Trigger) -> str | None:
        """Why a condition could not be asked where its place matched; None if it could."""
        raise NotImplementedError

    def find(self, place: Place, start: int, end: int, reverse: bool = False) -> int | None:
        """Return the first position of a place in a range (the last one, in reverse), its condition included."""
        raise NotImplementedError

    def nearest(self, place: Place) -> int | None:
        """Where a place is: in this pass if it is there, else the last before the cursor, else the next."""
        return place.nearest(self.tape, self.cursor, lambda start, end, back: self.find(place, start, end, back))

    @property
    def op(self) -> Op | None:
        """The op that comes next; None after the last one."""
        return self.tape.ops[self.cursor] if self.cursor < len(self.tape) else None

    @property
    def op_or_last(self) -> Op | None:
        """The op that comes next; after the last one, that. None while nothing is recorded."""
        return self.op or (self.tape.ops[-1] if self.tape.ops else None)

    @property
    def pass_(self) -> Pass | None:
        """The pass in which the cursor stands."""
        return self.tape.pass_at(self.cursor)

    def where(self) -> Surroundings:
        """Where Python at the prompt stands."""
        raise NotImplementedError

    def where_at(self, position: int, call: Activation | None = None) -> Surroundings:
        """Where Python would stand with the cursor at a position: in the call that makes the op, or in another one."""
        scope, frame = call or self.lookup.frames.scope_at(position), None
        if self.recorder is not None and self.running:
            if call is None and position >= len(self.tape) and self.tape.ops and self.recorder.tape is self.tape:
                waits = self.recorder.stack.running(self.tape.ops[-1].scope)  # what has made the last op goes on there
                scope = scope if waits is None else waits[0]
            frame = self.recorder.stack.frame_of(scope)
        return Surroundings(position, scope, frame)

    def named(self, text: str) -> Value:
        """Return the tensor that a name means where the user stands. Raises as `Lookup.by_words` does."""
        return self.lookup.by_words(text, self.cursor, self.where().scope)

    def evaluate(self, values: list[Value], lazy: bool = False) -> Work:
        """Give values their numbers (none of them has any, where `lazy` is given); counts what that took. Says where
        the program has read them outside of a tensor. Raises UserError where that is still to be done."""
        if self.recorder is not None and self.recorder.tape is self.tape and self.tape.notes.updates:
            from nnrepl.record.giving_way import give_way

            give_way(self.recorder, looking=True)
        with aside():
            try:
                work = evaluate(values, self.hooks.progress, lazy)
            except (LeftTracer, OutOfBounds) as error:
                raise UserError(str(error)) from None
        self.tell_outside(values)
        if work.ops:
            self.work.append(work)
        return work

    def tell_outside(self, values: list[Value]) -> None:
        """Say of which the program has read what is outside of a tensor: any number may stand there."""
        with aside():
            found = outside([value.op for value in values if value.op is not None and value.evaluated])
        if found is not None:
            self.hooks.announce(found.text)

    def small(self, values: list[Value]) -> bool:
        """Whether values, and everything unevaluated that they depend on, are small enough to show unasked."""
        limit = int(self.settings["peek"])
        shown = sum(value.size for value in values)
        if any(value.refusal for value in values):
            return False
        ops = pending(values, limit - shown) if limit > 0 and shown <= limit else None
        if ops is None:
            return False
        with aside():
            return outside([*ops, *(value.op for value in values if value.op is not None)]) is None

    @contextlib.contextmanager
    def looking_at(self, line: Timeline) -> Iterator[None]:
        """Read another timeline for a while, from its end."""
        before = self.tape, self.names, self.cursor, self.lookup, self.program
        if line.tape is not self.tape:
            self.tape, self.names, self.cursor = line.tape, line.names, len(line.tape)
            self.tape.stand(self.cursor)
            self.lookup = self.expressions.lookup = Lookup(line.tape, line.names)
            self.program = Program(line.tape)
        try:
            yield
        finally:
            self.tape, self.names, self.cursor, self.lookup, self.program = before
            self.expressions.lookup = self.lookup
            self.tape.stand(self.cursor)

    def loss_of(self, pass_: Pass) -> Value | None:
        """Return the loss of a gradient pass."""
        return pass_.loss if pass_.kind == GRADIENT_PASS else None
