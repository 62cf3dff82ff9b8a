"""Session: where the user stands on the tape, and how they move.

The session has no face: it is told to move, it says through its hooks where it stopped and why. A program
may still be running under it: then a motion beyond what has been recorded lets the program run on, and the
recorder's calls (`op_recorded`, `pass_recorded`) are where it comes back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nnrepl.record.intake import RECORDING
from nnrepl.record.listener import RecordedCall
from nnrepl.record.names import ProgramNames
from nnrepl.record.process import this_process
from nnrepl.record.recorder import Recorder
from nnrepl.replay.interrupts import hold_on
from nnrepl.replay.keeping import Keeping
from nnrepl.replay.opening import Opening
from nnrepl.replay.replay import Replay
from nnrepl.session import closed, goals, natively
from nnrepl.session.below import TakesCells
from nnrepl.session.changes import Changes
from nnrepl.session.errors import Quit, Restart, UserError
from nnrepl.session.expressions import Expressions
from nnrepl.session.hooks import END_OF_PROGRAM, END_OF_TAPE, EXCEPTION, OPENED, START_OF_TAPE, Hooks, Stop
from nnrepl.session.lookup import Lookup
from nnrepl.session.own_names import Surroundings
from nnrepl.session.passing import Passing
from nnrepl.session.place import Place
from nnrepl.session.program import Program
from nnrepl.session.reclosing import bound, history_of, look_at
from nnrepl.session.restarts import ProgramRestarts
from nnrepl.session.running import Lookout
from nnrepl.session.settings import defaults
from nnrepl.session.standing import Edits, Files, Standing
from nnrepl.session.state import Course, Going, Replaying, RunAgain
from nnrepl.session.stops import Breakpoint, Hit, Stops, Trigger
from nnrepl.session.typed import at_end, ended_here, only_defines
from nnrepl.tape import ClosedOp, Op, Pass, Tape
from nnrepl.timeline.code import SourceChanges
from nnrepl.timeline.evaluation import Work
from nnrepl.timeline.history import History
from nnrepl.timeline.timelines import Timelines

__all__ = ["END_OF_PROGRAM", "END_OF_TAPE", "EXCEPTION", "START_OF_TAPE", "Hooks", "Stop", "TapeSession"]


class TapeSession(Standing):
    """A user's place on a tape.

    Attributes:
        tape: The ops.
        cursor: The position of the op that comes next.
        course: Whose turn it is, the user's or the program's (see `nnrepl.session.state`).
        settings: What `config` changes (see `nnrepl.session.settings`).
        displays: Expressions that are shown at each stop.
        stops: Breakpoints, watches and catches.
        level: How many calls above the one that makes the next op Python at the prompt stands (`up`).
        work: What evaluations the user has asked for.
        on_load: Told the path of another program that is about to start; returns a line for the user, or "".
        files: The program's files; None where there is no program that was read from any.
        debuggee: The program, which takes what is typed as its next lines; None where there is none that can.
        outer: The session from which one has gone inside of an op; None outside of all.
    """

    def __init__(
        self, tape: Tape, names: ProgramNames, recorder: Recorder | None = None, *, whole: bool = True
    ) -> None:
        self.tape = tape
        self.names = names
        self.recorder = recorder
        self.cursor, self.predicting = 0, False
        self.course = Course()
        self.hooks: Hooks = Hooks()
        self.settings: dict[str, Any] = defaults()
        self.displays: dict[int, str] = {}
        self.lookup = Lookup(tape, names)
        self.program = Program(tape)
        self.expressions = Expressions(self.lookup)
        self._whole = whole
        self.restarts = None if recorder is None else ProgramRestarts(self, recorder, whole)
        self.changes = Changes(self, self.restarts)
        self.stops = Stops()
        self.lookout = Lookout(self)
        self.passing = Passing(lambda: natively.tripped(self))
        self.function = self.scouts = None
        self.work: list[Work] = []
        self.codes = SourceChanges()
        self.files: Files | None = None
        self.on_load: Callable[[str], str] = lambda path: ""
        self.opening: Opening | None = None
        self.stood: int | None = None
        self.level = self.surprises = self.alarms = self.wary = 0
        self.awaited = []
        self.many, self.openings = 1, 0
        self.keeping = Keeping()
        self.history: History | None = None
        self.process = this_process()
        self.outer: TapeSession | None = None
        self.debuggee: TakesCells | None = None

    # -- the program's side ------------------------------------------------------------------------------

    def begin(self, at_entry: bool, through: bool = False, reason: str = "first op") -> None:
        """Run to the first stop as the program is about to start, or through to its end, where more is to come."""
        self.surprises = 0
        first = goals.Ending() if through else goals.FirstForward(self._forward_started)
        self.course.begin(goals.At(0, reason) if at_entry else first)

    @property
    def may_stop(self) -> bool:
        """Whether the user may get the floor before the program ends."""
        return not isinstance(self.goal, goals.Never) or bool(self.stops.enabled)

    def break_here(self, reason: str) -> None:
        """Stop at the program's next op, since it asks for the floor itself. What it does again asks for nothing."""
        if isinstance(self.course.now, Going):
            self.course.redirect(goals.At(len(self.tape), reason))

    def _forward_started(self) -> bool:
        return self.recorder is not None and self.recorder.started

    def op_recorded(self, op: Op) -> None:
        """Hear that an op at the top level of the program; the program waits."""
        self.call_started()
        self._recorded()

    def call_started(self) -> None:
        """Hear that the program stands between two ops of its top level, or is about to call a compiled function."""
        if self.recorder is not None:
            self.codes.reach(natively.reached(self, self.recorder))

    def call_comes(self, gradient: bool) -> None:
        """Hear that the program is about to make a call that is recorded."""
        if self.recorder is not None:
            is_long = bound(self, self.recorder, gradient)
            if gradient and not self.recorder.intake.follows:
                natively.keep(self, self.recorder, self.keeping, points=is_long)

    def pass_started(self, call: RecordedCall) -> None:
        """Hear that a gradient pass begins."""
        if this_process() == self.process:
            self.hooks.pass_started()
            assert self.recorder is not None
            history_of(self, self.recorder).trim()
            self.codes.reach(natively.reached(self, self.recorder), entering=True)
            if self.restarts is not None and self.may_stop:
                self.restarts.pass_started(call)

    def pass_recorded(self, call: RecordedCall) -> None:
        """Hear that a gradient pass has been recorded to its end; the program waits."""
        self.call_started()
        self._recorded()
        if self.restarts is not None:
            self.restarts.left()

    def runs_natively(self, step: int) -> bool:
        """Hear that a gradient call of the top level is about to be made, in this step."""
        return natively.wanted(self, step)

    def remember(self, reached: tuple[Any, ...]) -> Callable[[], None] | None:
        """Keep what a compiled function can reach."""
        return natively.remember(reached)

    def rests(self) -> bool:
        """Tell whether what comes after an evaluation runs natively, as one stretch."""
        return natively.rests(self)

    def evaluated_natively(self, count: int) -> None:
        """Hear that in such a stretch the program has forced an evaluation."""
        natively.evaluated(self, count)

    def may_run_natively(self) -> bool:
        """Tell whether calls may run natively."""
        return natively.may_run(self)

    def not_expected(self, pass_: Pass) -> None:
        """Hear that natively, something else has become of the weights after a gradient call than always before."""
        natively.not_expected(self, pass_)

    def call_closed(self, op: ClosedOp) -> bool:
        """Hear that a call has run natively; return whether the program goes on so."""
        if self.recorder is not None and op.position % 16 == 0:
            history_of(self, self.recorder).trim()
        return natively.goes_on(self, op)

    def closed_call_started(self) -> None:
        """Hear that a gradient call is about to be made natively; new source holds in it."""
        if self.recorder is not None:
            natively.call_begins(self, self.recorder, self.keeping)

    def call_left(self) -> None:
        """Hear that a call has been made that is closed on the tape, or was."""
        now = self.course.now
        if isinstance(now, Replaying) and (now.interrupted or now.goal.find(self.tape) is not None):
            self._again(now)

    def out_of_bounds(self, text: str) -> None:
        """Hear that the program is about to read or write outside of a tensor."""
        if isinstance(self.course.now, Going) and this_process() == self.process:
            self.hooks.announce(text)

    def evaluation_forced(self) -> None:
        """Hear that the program forces an evaluation; a good moment to look for what only numbers tell."""
        self.call_started()
        if self.recorder is not None and this_process() == self.process:
            history_of(self, self.recorder).evaluated()
        if isinstance(self.course.now, Going) and this_process() == self.process:
            hits = self.lookout.caught_up()
            if hits:
                self.hit(hits)
                self.give_floor()

    def _recorded(self) -> None:
        if this_process() != self.process:
            return  # a forked child is not debugged
        now = self.course.now
        if isinstance(now, Replaying):
            self._again(now)
        elif isinstance(now, Going):
            self._anew(now)
        else:  # nobody let the program go on
            self.give_floor()

    def _anew(self, now: Going) -> None:
        """Note that the program has done something new: it may have come to what it runs on for, or to a stop on the
        way."""
        goal = now.goal
        found = None if now.interrupted else goal.find(self.tape)
        hits = [] if now.interrupted else self.lookout.recorded(found)
        if now.interrupted or self.lookout.interrupted:
            self.arrive(len(self.tape) - 1, "interrupted", by=goal)
        elif hits:
            self.hit(hits, by=goal)
        elif found is not None:
            self.arrive(found, goal.reason, by=goal)
        else:
            self.hooks.cursor_moved(len(self.tape))
            return
        self.give_floor()

    def _again(self, now: Replaying) -> None:
        """Note that the program has done something again that is on the tape. Where that was all, it goes on to what
        the user wanted, or waits; where the user interrupts it, everything is as it was before."""
        assert self.recorder is not None
        found = None if now.interrupted else now.goal.find(self.tape)
        if now.interrupted:
            self.recorder.intake, self.opening = RECORDING, None
            self.changes.adrift()
            self.arrive(self.cursor, now.why, failed=True)
        elif found is None:
            self.hooks.cursor_moved(len(self.tape))
            return
        elif self.caught_up(found + 1):
            self._recorded()
            return
        elif natively.opened(self):
            pass
        else:
            self.arrive(found, now.goal.reason)
        self.give_floor()

    def caught_up(self, position: int) -> bool:
        """All that was on the tape has been done again: what is recorded from a position on is new, and looked at.
        Returns whether the program has something to run on for."""
        assert self.recorder is not None
        natively.settle(self)
        self.recorder.intake = self.recorder.intake.pending or RECORDING
        self.lookout.begin(position)
        if onward := self.course.caught_up():  # what is opened on the way on lies after where the user has been
            self.cursor = max(self.cursor, position - 1)
        return onward

    def ended(self, error: BaseException | None) -> None:
        """Note that the program has ended, by itself or by an exception; the user may still look around."""
        self.course.error = error
        self.changes.timelines.live.ended = True
        natively.look_at_end(self)
        goal, hits = at_end(self, error)
        natively.look_at_failure(self, error)
        if natively.opened(self):
            pass
        elif hits:
            self.hit(hits, "the program has ended meanwhile")
        elif error is not None and not isinstance(error, SystemExit):
            errors = self.tape.notes.errors.items()
            raised = [op.position for op, raised in errors if raised is error and not isinstance(op, ClosedOp)]
            self.arrive(raised[-1] if raised else len(self.tape), EXCEPTION, error)
        elif isinstance(goal, goals.FirstForward):
            self.arrive(len(self.tape) if only_defines(self.tape) else 0, END_OF_PROGRAM, error)
        elif isinstance(goal, goals.UntilStepEnds):
            self.arrive(goal.give_up(), goal.reason, missed="the program has ended meanwhile")
        else:
            self.arrive(len(self.tape), END_OF_PROGRAM, error, missed=goals.missed(goal, self.tape))
        self.give_floor()

    def give_floor(self) -> None:
        """Let the user look around, until the program is to go on."""
        self.passing.disarm()
        with contextlib.nullcontext() if self.recorder is None else self.recorder.muted():
            self.hooks.interact()
        self.hooks.cursor_moved(len(self.tape))
        natively.watch(self)

    def hit(self, hits: list[Hit], missed: str = "", by: goals.Goal | None = None) -> None:
        """Put the cursor where breakpoints, watches or catches were hit."""
        said = ", ".join(hit.entry.title for hit in hits)
        self.arrive(hits[0].position, said, missed=missed, hits=tuple(hits), by=by)

    # -- other tapes ---------------------------------------------------------------------------------------

    def look_at(self, tape: Tape, names: ProgramNames, cursor: int) -> None:
        """Stand on another tape."""
        self.tape, self.names, self.cursor = tape, names, min(cursor, len(tape))
        tape.stand(self.cursor)
        self.lookup = self.expressions.lookup = Lookup(tape, names)
        self.program = Program(tape)

    def attach(self, tape: Tape, names: ProgramNames, recorder: Recorder) -> None:
        """Note that a program is about to run (again), recorded on this tape."""
        self.recorder = recorder
        if not self.changes.coming:
            self.changes.timelines = Timelines(tape, names)
            self.codes = SourceChanges()
            self.stops.begin()
        self.restarts = self.changes.restarts = ProgramRestarts(self, recorder)
        self.look_at(tape, names, 0)
        self.lookout.begin(0)

    def begin_again(self, wish: RunAgain) -> None:
        """Note that the program is about to run again along a tape: to where the user stands, or to where that tape
        ends and then on to what they wanted."""
        run, then = wish.run, wish.then
        self.opening, self.stood = None, None
        goal: goals.Goal = goals.RunBehind(run) if then is None else goals.At(max(len(run.expected) - 1, 0))
        if then is not None and self.changes.timelines.live.below:
            goal = goals.Ending()  # up to the cell that is new
        if then is None and run.pass_number:
            goal = goals.NextPass(run.pass_number)
        if run.opened and self.recorder is not None and isinstance(self.recorder.intake, Replay):
            goal = natively.way_back(self, run, self.recorder.intake.opening, then)
        self.course.follow(goal, then, wish.failure)
        natively.watch(self)
        self.hooks.running_again(run, self.tape, True)

    def strand(self, why: str) -> None:
        """Note that the program could not be run again: the user may look at what there is."""
        self.restarts = self.changes.restarts = None
        self.course.strand()
        self.arrive(min(self.cursor, len(self.tape)), why, failed=True)
        self.give_floor()

    # -- moving --------------------------------------------------------------------------------------------

    def arrive(
        self,
        position: int,
        reason: str = "",
        error: BaseException | None = None,
        *,
        missed: str = "",
        hits: tuple[Hit, ...] = (),
        by: goals.Goal | None = None,
        failed: bool = False,
    ) -> None:
        if self.waits and not failed and closed.is_closed_at(self.tape, position):
            self.stops.recount(self.lookout.counted if hits else {})  # the command comes by them once more
            closed.open_at(self, position)
        before, self.cursor = self.cursor, position
        timeline = self.changes.timelines.current
        timeline.seen = max(timeline.seen, position)
        self.tape.stand(position)
        look_at(self.tape, position)
        self.lookout.search.skip = 0
        self.function = None
        if reason != OPENED:  # else the user stands where they stood
            self.alarms = self.wary = 0
            self.stand_in(self.meant(position, hits, by))
        stepped = isinstance(by, goals.Stepping) and before < position
        first = before if isinstance(by, goals.Telling) else position - 1
        passed = tuple(self.tape.ops[first:position]) if stepped and position <= len(self.tape) else ()
        self.course.rest(Stop(reason, position, passed, error, missed, hits, failed, self))
        self.hooks.cursor_moved(position)

    def forward(self, goal: goals.Goal) -> None:
        """Go on towards a goal: on the tape as far as it reaches, then by letting the program run."""
        found = goal.find(self.tape)
        hits = self.ahead(goal, found)
        if hits:
            self.hit(hits, by=goal)
        elif found is not None:
            self.arrive(found, goal.reason, by=goal)
        elif self.goes_on:
            self.let_go(goal)
        elif goal.sought:
            raise UserError(f"nothing ahead is at {goal.sought}; {self.lookup.extent()}")
        else:
            # the op stepped over is shown, and so the end
            shows = isinstance(goal, goals.Stepping) and self.cursor < len(self.tape)
            self.arrive(len(self.tape), "" if shows else END_OF_TAPE, by=goal)

    def ahead(self, goal: goals.Goal, found: int | None) -> list[Hit]:
        """Return what is hit on the way to a goal. Raises RunAgain where steps have to be opened first."""
        hits = closed.hit_before(self, goal, found)
        if hits:
            return hits
        closed.open_ahead(self, goal, found)
        return self.lookout.ahead(len(self.tape) + (not self.goes_on) if found is None else found + 1, goal)

    def behind(self, target: int, each: bool = True) -> list[Hit]:
        """Return what is hit on the way back to a position. Raises RunAgain where steps have to be opened first: where
        `each` op counts, or something may be hit."""
        hits = closed.hit_behind(self, target)
        if hits:
            return hits
        closed.open_behind(self, target, each)
        return self.lookout.behind(target)

    def open_ahead(self, goal: goals.Goal, found: int | None) -> None:
        """Open steps on the way to a goal, if what lies in them counts there. Raises RunAgain then."""
        closed.open_ahead(self, goal, found)

    def open_newer(self, found: int) -> None:
        """Open what may have what was found once more, nearer to the cursor. Raises RunAgain then."""
        closed.open_newer(self, found)

    def let_go(self, goal: goals.Goal) -> None:
        """Let the program run on to a goal, on the timeline that the user looks at. Raises UserError, RunAgain."""
        try:
            self.changes.relive()
        except RunAgain as wish:
            wish.then = goal
            raise
        self.course.give(goal)

    @property
    def goes_on(self) -> bool:
        """Whether more can be recorded on this tape: the program runs, or can run again for this timeline."""
        return self.running or self.changes.unfinished

    def restart(self) -> None:
        """Run the program again from its start, from its files as they are now.

        Raises Restart through the program, UserError without one or if a file does not parse.
        """
        if self.recorder is None or not self._whole:
            said = "there is no program here that nnrepl could run again; nnrepl PROGRAM has one"
            raise UserError(self.changes.closed or said)
        if self.files is not None:
            self.files.read_again()
        self.hooks.unwinding()
        hold_on()
        raise Restart

    def close(self, why: str = "") -> None:
        """Nothing runs any more, and nothing can run again: from now on one looks, and changes nothing. `why` is said
        to whoever tries."""
        self.changes.closed = why
        self.recorder = self.restarts = self.changes.restarts = None

    def quit(self) -> None:
        """End the session; unwinds the program if it is running."""
        self.hooks.quitting()
        raise Quit

    @property
    def edits(self) -> Edits:
        """The timelines, and who makes new ones."""
        return self.changes

    @property
    def timelines(self) -> Timelines:
        """All timelines."""
        return self.changes.timelines

    def breaks_at(self, entry: Breakpoint) -> Place | None:
        """Return the place of a breakpoint; None while nothing is called so."""
        return self.lookout.search.place(entry)

    def unasked(self, entry: Trigger) -> str | None:
        """Why a condition could not be asked where its place matched; None if it could."""
        return self.lookout.search.unasked.get(entry)

    def find(self, place: Place, start: int, end: int, reverse: bool = False) -> int | None:
        """Return the first position of a place in a range (the last one, in reverse), its condition included."""
        return self.lookout.search.find(place, start, end, reverse)

    def where(self) -> Surroundings:
        """Where Python at the prompt stands."""
        where = self.where_at(self.cursor)
        if ended_here(self) and self.debuggee is not None:
            return replace(where, ended=self.debuggee.namespace)
        scope = where.scope
        for _ in range(self.level):
            scope = scope.parent if scope is not None else None
        return where if scope is where.scope else self.where_at(self.cursor, scope)
