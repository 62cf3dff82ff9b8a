"""Changes: edits, and the timelines that they make.

An edit is computed on a piece of tape of its own; then what lies after it runs again from the nearest restart
point. Where that is the pass in which the program waits, its function is called again; else the program
itself runs again from its start, and what it does up to the edit comes from the tape.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.replay.interrupts import allowed, held, hold_on
from nnrepl.replay.run import Run
from nnrepl.session import closed
from nnrepl.session.assigned import IndexKey, check_begun, is_alias, is_set, only_source_tells, value_named
from nnrepl.session.errors import UserError
from nnrepl.session.goals import Goal
from nnrepl.session.other_tape import check_kind, left_out, refusal, same_place
from nnrepl.session.parsed import Assignment, Parsed, parse
from nnrepl.session.reclosing import to_close
from nnrepl.session.standing import Standing
from nnrepl.session.state import RunAgain
from nnrepl.session.typed import append, at_last, ended_here, nothing_takes, upcoming
from nnrepl.tape import ClosedOp, Tape, Value, outermost
from nnrepl.timeline.code import CodeChange, SourceChanges
from nnrepl.timeline.edits import BadEdit, Edit, make_edit, place_of, said_inside
from nnrepl.timeline.timelines import Timeline, Timelines
from nnrepl.timeline.typed_cells import Cell


class Restarts(Protocol):
    """Who can run things again."""

    def computing(self) -> AbstractContextManager[Recorder]:
        """Return a recorder, installed, for the ops of an edit."""

    def reaches(self, position: int) -> bool:
        """Whether what comes after a position can run again."""

    def again(self, run: Run, codes: SourceChanges, things: Iterable[Any] = ()) -> tuple[Tape, ProgramNames]:
        """Run again what has to, with other source and what the user does in it, which may change some things. Raises
        UserError if that fails, and everything is as it was; or unwinds the program, and it is `Changes.arrived` that
        goes on."""


class Changes:
    """The edits of a session.

    Attributes:
        timelines: All of them.
        restarts: Who runs things again; None where nothing can be.
        closed: Why nothing can be any more, if there is more to say than that.
        news: The timeline that the last edit made, until the user has been told of it.
        taken: The cells that were taken back, until the user has been told of them.
    """

    def __init__(self, session: Standing, restarts: Restarts | None) -> None:
        self.session = session
        self.restarts = restarts
        self.closed = ""
        self.timelines = Timelines(session.tape, session.names)
        self.news: Timeline | None = None
        self._left: tuple[Timeline | None, Tape, ProgramNames, int] = (None, session.tape, session.names, 0)
        self.taken: tuple[Cell, ...] = ()
        self._began: list[int] = []
        self._coming: tuple[Timeline | None, Edit | CodeChange | None] | None = None
        self._came: tuple[Timeline | None, Edit | CodeChange | None] = (None, None)

    @property
    def coming(self) -> bool:
        """Whether a timeline is on its way: the program is about to run again for it."""
        return self._coming is not None

    @property
    def can_run_again(self) -> bool:
        """Whether there is a program that can run again from its start."""
        return bool(getattr(self.restarts, "whole", False))

    # -- edits ---------------------------------------------------------------------------------------------

    def target(self, change: Assignment) -> tuple[Value, str, bool] | None:
        """Return what an assignment changes: a value, what it is called, and whether only a part of it changes. None if
        it changes no value of the tape.

        Raises:
            NotYet: If the value lies ahead of the cursor.
        """
        session = self.session
        value = value_named(session, change.target)
        if value is not None:
            return None if is_set(session, change.target) else (value, change.target.text, False)
        base = None if change.base is None else value_named(session, change.base)
        return None if base is None or change.base is None else (base, change.base.text, True)

    def assign(self, change: Assignment, line: str) -> Timeline | None:
        """Do what an assignment says, if it changes a value of the tape. Raises as `target` and `edit` do."""
        found = self.target(change)
        if found is None:
            return None
        value, name, in_part = found
        session = self.session
        if session.op is None and ended_here(session):
            raise UserError(nothing_takes(session, name, value))

        def compute(recorder: Recorder) -> Any:
            def given(parsed: Parsed, **names: Any) -> Any:
                return session.expressions.compute(parsed, session.where(), recorder, **names)

            if not in_part:
                return given(change.whole())
            array = recorder.handle(value)
            key = given(change.key("__key__"), __key__=IndexKey())
            new = given(change.value)
            if change.operator is not None:
                new = given(change.combined("__old__", "__new__"), __old__=array[key], __new__=new)
            check_kind(value, name, new)
            array[key] = new
            return array

        variable = change.target if change.base is None else change.base
        alias = is_alias(session, variable, value)
        if only_source_tells(session, value, change, in_part, alias) and self._able().reaches(session.cursor):
            return self.state(parse(line), passing=True)  # which of its names are one object
        return self.edit(value, name, line, compute, alias)

    def acts_at_once(self, line: Parsed) -> bool:
        """Whether a change of a tensor is made at once, where the program waits: it cannot run again for that."""
        session, restarts = self.session, self.restarts
        if restarts is None or not session.running or session.cursor < len(session.tape) - 1 or not line.is_plain:
            return False
        known = session.expressions.known(session.where())
        return not restarts.reaches(session.cursor) and not line.read.isdisjoint(known)

    def edit(
        self, value: Value, name: str, line: str, compute: Callable[[Recorder], Any], alias: bool = False
    ) -> Timeline:
        """Change a value at the cursor, and run again what depends on it.

        Args:
            alias: Whether it goes by another name than the one by which it came in: then it changes here, and not where
                it enters.

        Raises:
            UserError: If that cannot be done; then nothing has changed.
            Exception: Whatever `compute` raises.
        """
        restarts = self._able()
        session = self.session
        self._check_outside(name, value)
        pass_ = session.pass_
        if alias and pass_ is not None and value in pass_.wrt:
            target, position = value, session.cursor
        else:
            target, position = place_of(session.tape, value, session.cursor)
        check_begun(target, name, pass_)
        closed.open_maker(session, target, position)
        scope = session.where().scope
        if session.op is not None and session.op.inner:  # it stands before the call, in the function that makes it
            scope = outermost(session.op.pass_).scope
        if target is value.origin:  # it is changed where it enters a gradient call
            scope = next((pass_.scope for pass_ in session.tape.passes if value in pass_.wrt), scope)
        with held():  # once it has run, all of it is there, or nothing
            with restarts.computing() as recorder, allowed():
                try:
                    edit = make_edit(recorder, target, name, line, position, lambda: compute(recorder), scope)
                except BadEdit as error:
                    raise UserError(str(error)) from None
            return self._make(edit, line)

    def _check_outside(self, name: str, value: Value | None = None) -> None:
        """Raise UserError for a change inside of a call that MLX runs by itself."""
        op = self.session.op
        inside = None if value is None else value.inside
        if inside is None and (op is None or not op.inner):
            return
        if inside is not None:
            raise UserError(said_inside(name, inside))
        assert op is not None
        if self.session.cursor != outermost(op.pass_).start:  # it does not stand before the call
            raise UserError(said_inside(name, op.pass_, "you stand"))

    def _make(self, edit: Edit, line: str) -> Timeline:
        """Run again with an edit."""
        session, position = self.session, edit.position
        moved = len(edit.ops) - left_out(session.tape, position, session.cursor) if position <= session.cursor else 0
        recoded = any(code.position > position for code in self.timelines.current.codes)
        run = Run(session.tape, position, tuple(edit.ops), session.cursor + moved, recoded=recoded)
        tape, names = self._again(run, None, edit)
        refused = refusal(session.tape, tape, position)
        if refused is not None:
            self._again(Run(session.tape, len(session.tape), (), session.cursor), self.timelines.live, None)
            self._coming = None
            raise UserError(f"{edit.name} cannot be {line!r} here: {refused}; nothing has changed")
        return self.arrived(tape, names, run.cursor)

    def reload(self, change: CodeChange) -> Timeline:
        """Take a change of the program's source in: what comes from its position on runs again over it.

        Raises:
            UserError: If that cannot be done; then nothing has changed.
        """
        session = self.session
        pass_ = session.pass_
        number = pass_.number if pass_ is not None and change.position < pass_.start else 0
        cursor = session.cursor - left_out(session.tape, change.position, session.cursor)
        run = Run(session.tape, change.position, (), cursor, pass_number=number, recoded=True)
        with held():
            tape, names = self._again(run, None, change)
            return self.arrived(tape, names, run.cursor)

    def state(self, line: Parsed, passing: bool = False) -> Timeline:
        """Do a line that changes something of the program's where the cursor stands, and run on from there with it.
        Where nothing can run again for it, it is done at once.

        Raises:
            UserError: If that cannot be done; then nothing has changed.
        """
        from nnrepl.session.typed_lines import as_change

        session = self.session
        if self.restarts is None or not self.restarts.reaches(session.cursor):
            return self._do_at_once(line)
        if session.op is not None and session.op.of is not None:  # no line of Python runs there
            self._check_outside(line.text)
        change, doing, made = as_change(session, line, passing)
        run = Run(session.tape, change.position, (), session.cursor, recoded=True, behind=made)
        with held():
            tape, names = self._again(run, None, change, doing.things(session.where().scope))
            return self.arrived(tape, names, run.stands() or run.cursor)

    def _do_at_once(self, line: Parsed) -> Timeline:
        """Do a line where the program waits, or where nothing runs any more. Raises UserError."""
        from nnrepl.session.instantly import at_once

        session = self.session
        go_on = getattr(self.restarts, "go_on", None) if session.running else None
        if go_on is not None:
            self.relive()
        with held():
            session.codes.wanted = self.timelines.current.codes
            change, tape, names, cursor = at_once(session, line, go_on)
            session.codes.held += (change,)
            session.codes.wanted = (*session.codes.wanted, change)
            self._coming = (None, change)
            return self.arrived(tape, names, cursor)

    def _again(
        self, run: Run, timeline: Timeline | None, edit: Edit | CodeChange | None, things: Iterable[Any] = ()
    ) -> tuple[Tape, ProgramNames]:
        """Run again, for a change or to come to a timeline."""
        self._coming = (timeline, edit)
        self._left = (timeline, self.session.tape, self.session.names, self.session.cursor)
        self.session.codes.wanted = self.timelines.codes_for(timeline, edit)
        try:
            return self._able().again(run, self.session.codes, things)
        except RunAgain:
            raise
        except BaseException:
            self._coming = None
            raise

    def arrived(self, tape: Tape, names: ProgramNames, cursor: int) -> Timeline:
        """Note that what had to run again has run (or runs, on this tape)."""
        assert self._coming is not None
        (timeline, edit), self._coming = self._coming, None
        self._came = timeline, edit
        if timeline is not None:
            timeline.tape, timeline.names = tape, names
            self.timelines.current = self.timelines.live = timeline
        else:
            assert edit is not None
            timeline = self.news = self.timelines.branch(tape, names, edit)
        timeline.seen = max(timeline.seen, cursor)
        self.session.look_at(tape, names, cursor)
        return timeline

    def failed(self) -> None:
        """Note that the program went another way when it ran again: everything is seen as it was before."""
        timeline, tape, names, cursor = self._left
        if timeline is not None and self.taken:
            timeline.cells.extend(self.taken)
            timeline.starts[:] = self._began
            self.taken = ()
        if timeline is not None:
            timeline.tape, timeline.names = tape, names
        else:
            self.timelines.drop(self.timelines.current)
        self.session.look_at(tape, names, min(cursor, len(tape)))

    def once_more(self, wish: RunAgain) -> RunAgain:
        """Run again for the same wish, with every number computed: the program could not be led there without."""
        self.failed()
        self.news = None
        self.session.tape.kept.points.clear()
        self._coming = self._came
        self.session.codes.wanted = self.timelines.codes_for(*self._came)
        again = RunAgain(wish.run.computing(), wish.failure)
        again.then = wish.then
        return again

    def recorded_before(self, wish: RunAgain) -> RunAgain | None:
        """Run again, with all recorded that was closed up to where a run along a tape led, which has failed; None where
        all has been recorded."""
        run = wish.run
        steps = closed.closed_between(run.old, 0, len(run.old) if run.opened else run.position)
        if not steps or run.opened.issuperset(steps):
            return None
        self.failed()
        self.news = None
        self.session.hooks.opening(f"all of {closed.all_of(steps)}")
        return RunAgain(self._along_again(frozenset(steps)))

    def come_back(self, failure: str) -> RunAgain:
        """Run again along the timeline before, where everything is as it was: the program could not come to the
        other one."""
        self.failed()
        self.news = None
        return RunAgain(self._along_again(), failure)

    def _along_again(self, opened: frozenset[int] = frozenset()) -> Run:
        """Note that the program is about to run again along the timeline that the user looks at."""
        session, current = self.session, self.timelines.current
        self._coming = (current, None)
        self._left = (current, session.tape, session.names, session.cursor)
        session.codes.wanted = current.codes
        run = replace(current.along(), cursor=session.cursor)
        return replace(run, opened=opened, seen=sys.maxsize) if opened else run

    def adrift(self) -> None:
        """Note that the program was interrupted on its way to a timeline: everything is seen as it was before, and the
        program comes to it when it is to run on."""
        self.failed()
        recorder = self.session.recorder
        assert recorder is not None
        self.timelines.live = Timeline(0, recorder.tape, self.session.names)

    def relive(self) -> None:
        """Bring the program onto the timeline that the user looks at."""
        timelines = self.timelines
        current = timelines.current
        if current is timelines.live:
            return
        with held():
            tape, names = self._again(current.along(), current, None)
            self.arrived(tape, names, self.session.cursor)

    def look_alive(self) -> None:
        """At its end the program's variables are read where they are: bring it to the timeline looked at, if it is not.

        Raises RunAgain through the program, UserError if it cannot run again.
        """
        current = self.timelines.current
        over = upcoming(self.session) or (current.ended and at_last(self.session) and not ended_here(self.session))
        if current is not self.timelines.live and over and self.can_run_again:
            self.session.hooks.opening(f"timeline {current.number}")
            self.open(frozenset([0]), self.session.cursor)  # the setup, which is never closed

    def open(self, steps: frozenset[int], cursor: int, then: Goal | None = None, losses: bool = False) -> None:
        """Let the program run again over the timeline that the user looks at, with some closed steps recorded.

        Args:
            cursor: Where the user is to stand then; -1 where the program will say (`then`: what it runs on for).
            losses: Whether the losses of those that stay closed are computed on the way, and kept.

        Raises RunAgain through the program, UserError if it cannot run again.
        """
        current, session = self.timelines.current, self.session
        closing = () if session.openings else to_close(session, current, steps)  # what the command needs stays open
        session.openings += 1
        run = Run.opening(current.tape, steps, cursor, closing, losses)
        with held():
            try:
                self._again(run, current, None)
            except RunAgain as wish:
                wish.then = then
                raise

    @property
    def unfinished(self) -> bool:
        """Whether the program has ended, but not on the timeline that the user looks at: it can run on there."""
        timelines = self.timelines
        waits = timelines.current is not timelines.live and not timelines.current.ended
        return waits and self.restarts is not None and self.session.recorder is not None

    def _able(self) -> Restarts:
        if self.restarts is None:
            raise UserError(self.closed or "nothing can be changed here: there is no program that could run again")
        return self.restarts

    # -- timelines -----------------------------------------------------------------------------------------

    def undo(self) -> Timeline:
        """Take back the last cell that was typed on this timeline and did something, or go to the timeline before the
        last edit. Cells after it that only looked go with it.

        Raises:
            UserError: If there is nothing to take back.
            RunAgain: Unwinds, for a cell: the program runs again without it.
        """
        current = self.timelines.current
        does = [at for at in range(current.inherited, len(current.cells)) if not current.cells[at].looks]
        if does:
            self._take_back(current, does[-1])
        if current.parent is not None:
            self._come_to(current.parent)
        nothing = "there is nothing to undo: this is timeline 1, without edits"
        looked = "there is nothing to undo: what was typed has only looked"
        return self._show(self.timelines.undo(), looked if current.cells else nothing)

    def _take_back(self, line: Timeline, at: int) -> None:
        """Run again without the cells from one on. Raises RunAgain."""
        self._able()
        session = self.session
        start = line.starts[at] if at < len(line.starts) else len(line.tape)
        self.taken, self._began = tuple(line.cells[at:]), list(line.starts)
        self._left = (line, session.tape, session.names, session.cursor)
        del line.starts[at:], line.cells[at:]
        self.timelines.taken_back(self.taken)
        self._coming = (line, None)
        session.codes.wanted = line.codes
        session.hooks.unwinding()
        hold_on()
        raise RunAgain(Run(line.tape, start, (), start, forward=False))

    def redo(self) -> Timeline | tuple[Cell, ...]:
        """Take the last `undo` back: go to the timeline that it left, or run the cells again that it took back.

        Raises:
            UserError: If there is nothing to take back.
        """
        session, timelines = self.session, self.timelines
        if timelines.can_redo_cells and not upcoming(session):
            raise UserError("what was taken back comes at the end of the program; goto end leads there")
        if isinstance(timelines.undone, Timeline):
            self._come_to(timelines.undone)
        found = timelines.redo()
        if not isinstance(found, tuple):
            return self._show(found, "there is nothing to redo")
        append(session, found)
        return found

    def switch(self, number: int) -> Timeline:
        """Look at another timeline. Raises UserError."""
        timeline = self.numbered(number)
        with contextlib.suppress(UserError):  # one may look at it without the program
            self._come_to(timeline)
        self.timelines.switch(timeline)
        return self._show(timeline, "")

    def _come_to(self, timeline: Timeline) -> None:
        """Another timeline is to be looked at: what was done at once holds on it or does not, now.

        Raises:
            UserError: If the program has run on with what would have to be taken back, and cannot run again.
        """
        session = self.session
        held, wanted = ([code for code in codes if code.at_once] for codes in (session.codes.held, timeline.codes))
        if held == wanted:
            return
        other = next(code for code in (*held, *wanted) if (code in held) != (code in wanted))
        tape = self.timelines.live.tape if session.recorder is None else session.recorder.tape
        notes = tape.notes
        if session.running and not notes.typed | notes.awaited >= set(tape.ops[other.position :]):
            raise UserError(
                f"the program has run on since {other.text} was done, and cannot run again for that; "
                "type what is to be another from here on"
            )
        session.codes.exchange(wanted)

    def numbered(self, number: int) -> Timeline:
        """Return the timeline with a number. Raises UserError."""
        try:
            return self.timelines[number]
        except IndexError:
            many = len(self.timelines)
            numbers = "is only timeline 1" if many == 1 else f"are timelines 1 to {many}"
            raise UserError(f"there is no timeline {number}; there {numbers}") from None

    def _show(self, timeline: Timeline | None, nothing: str) -> Timeline:
        if timeline is None:
            raise UserError(nothing)
        session = self.session
        op = session.op
        cursor = same_place(session.tape, session.cursor, timeline.tape) if op is not None else len(timeline.tape)
        session.look_at(timeline.tape, timeline.names, cursor)
        timeline.seen = max(timeline.seen, cursor)
        session.hooks.cursor_moved(cursor)
        if cursor < len(timeline.tape) and isinstance(timeline.tape.ops[cursor], ClosedOp) and self.can_run_again:
            step = timeline.tape.steps.at(cursor)
            session.hooks.opening(step.title, f"timeline {timeline.number}")
            self.open(frozenset([step.number, *timeline.tape.retraced]), cursor)
        return timeline
