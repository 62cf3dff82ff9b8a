"""Restarts: runs the program again, from the entry of the pass in which it waits or from its start."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NoReturn

from nnrepl.record.listener import RecordedCall
from nnrepl.record.names import ProgramNames
from nnrepl.record.native import levels_of
from nnrepl.record.recorder import MUTED, Recorder
from nnrepl.replay.divergence import CannotExchange, Diverged
from nnrepl.replay.interrupts import hold_on
from nnrepl.replay.restart_point import RestartPoint
from nnrepl.replay.run import Run
from nnrepl.session import closed
from nnrepl.session.errors import UserError
from nnrepl.session.standing import Standing
from nnrepl.session.state import Replaying, RunAgain
from nnrepl.tape import Op, Tape
from nnrepl.timeline.code import SourceChanges

_SHARE, _FREE_SECONDS = 0.1, 0.5


class ProgramRestarts:
    """Runs a program again that waits under a session.

    Args:
        whole: Whether it can run again from its start; else only the pass in which it waits can.
    """

    def __init__(self, session: Standing, recorder: Recorder, whole: bool = True) -> None:
        self.whole = whole
        self._session = session
        self._recorder = recorder
        self._point: RestartPoint | None = None
        self._began = time.monotonic()
        self._spent = 0.0

    # -- restart points ------------------------------------------------------------------------------------

    def pass_started(self, call: RecordedCall) -> None:
        """Keep the entry of a pass in which the user may stop. That takes a while where much is reachable;
        in a long run it may take a tenth of the time, no more: the start of the program is a restart point too."""
        self._point = None
        if self._comes_by():
            return
        now = time.monotonic()
        if self._spent <= _FREE_SECONDS + _SHARE * (now - self._began):
            self._point = RestartPoint(self._recorder, call)
            self._spent += time.monotonic() - now

    def _comes_by(self) -> bool:
        """Whether the program is on its way along a tape of which steps are opened, and waits in a later one: to keep
        what it can reach in each of many steps took a fifth of the way."""
        opening, tape = self._session.opening, self._recorder.tape
        if opening is None or not self.whole or not isinstance(self._session.course.now, Replaying):
            return False
        return len(tape.steps) + 1 < len(opening.old.steps)

    def left(self) -> None:
        """Note that the program goes on."""
        self._point = None

    # -- running again ---------------------------------------------------------------------------------------

    @contextmanager
    def computing(self) -> Iterator[Recorder]:
        """Wake the program's own recorder."""
        recorder = self._recorder
        before, recorder.mode = recorder.mode, MUTED
        try:
            levels = levels_of(recorder)
            with nullcontext() if levels is None else levels.awake():
                yield recorder
        finally:
            recorder.mode = before

    def reaches(self, position: int) -> bool:
        """Whether what comes after a position can run again."""
        point = self._point
        if self.whole:
            return True
        tape = self._session.tape
        return point is not None and not point.lost and self._within(Run(tape, position, (), position), point)

    def again(self, run: Run, codes: SourceChanges, things: Iterable[Any] = ()) -> tuple[Tape, ProgramNames]:
        """Run again what has to.

        Args:
            codes: What of the program's source is to be another, and what the user does in it.
            things: What that may change.

        Raises:
            UserError: If that cannot be done; then everything is as it was.
            RunAgain: Unwinds the program, if it has to run again from its start.
        """
        point = self._point
        anew = codes.anew(len(run.old) if point is None else point.start, not self.whole)
        anew = anew or bool(run.opened)
        if not anew and self._is_over(run, codes):
            return self.go_on(run)
        if anew or point is None or not self._within(run, point) or point.lost:
            if self.whole:
                self._from_start(run)
            if point is not None and point.lost:
                raise UserError(f"this cannot run again: {point.lost[0]} cannot be put back to where it was")
            raise UserError("only what lies in the pass in which the program waits can be changed here")
        names = ProgramNames(run.old, point.start)
        tape = names.tape
        self._session.hooks.running_again(run, tape, False)
        come_back, wanted = codes.moment(), codes.wanted
        point.reaches(things)
        try:
            point.again(run, tape, codes)
        except BaseException as error:
            come_back()
            if isinstance(error, (Diverged, CannotExchange)):
                if self.whole and closed.closed_between(run.old, 0, run.position):
                    codes.wanted = wanted
                    self._from_start(run)  # what a restart point keeps natively may not be all that there is
                raise UserError(f"{error}; nothing has changed") from None
            raise
        return tape, names

    def _from_start(self, run: Run) -> NoReturn:
        """Unwind the program, which then runs again from its start. Raises RunAgain."""
        self._session.hooks.unwinding()
        hold_on()
        raise RunAgain(run)

    def _is_over(self, run: Run, codes: SourceChanges) -> bool:
        """Whether nothing has to run again: all that was recorded stays, and only what comes is different."""
        recorder = self._recorder
        at_end = not run.ops and run.position == len(run.old) and not run.opened
        if not at_end or recorder.differentiating or self._session.failure is not None:
            return False
        if self._point is not None and not codes.same_behind(self._point.start):
            return False
        if run.old is recorder.tape:
            return True
        return not self.whole and _same(_before_typed(run.old), _before_typed(recorder.tape))

    def go_on(self, run: Run) -> tuple[Tape, ProgramNames]:
        """Let the program go on from where it waits, on a tape of its own."""
        recorder = self._recorder
        names = ProgramNames(run.old, run.position)
        tape = names.tape
        pass_ = recorder.pass_
        if pass_ is not None and pass_.start >= run.position:  # it begins with the op that is to be made again
            recorder.pass_ = None
        elif pass_ is not None and tape.passes:
            recorder.pass_ = tape.passes[-1] = replace(pass_, tape=tape, end=run.position)
        recorder.tape = tape
        self._session.hooks.going_on(tape, run.old)
        self._session.codes.stand(run.position)
        return tape, names

    def _within(self, run: Run, point: RestartPoint) -> bool:
        """Whether all that has to run again lies in the pass that begins at a point, in which the program waits:
        what comes before is the program's own past."""
        start = point.start
        if not self._session.running or not start <= run.position <= point.end_of(run.old):
            return False
        return _same(self._recorder.tape.ops[:start], run.old.ops[:start])


def _before_typed(tape: Tape) -> Sequence[Op]:
    """Return a tape without what the user's own lines made at its end: they have been taken back, or made again; and
    without the op before which they stand, which is made with them or without."""
    end = len(tape)
    while end and (tape.ops[end - 1] in tape.notes.typed or tape.ops[end - 1] in tape.notes.awaited):
        end -= 1
    return tape.ops[:end]


def _same(a: Sequence[Op], b: Sequence[Op]) -> bool:
    """Whether two stretches of tape hold the same values."""
    return len(a) == len(b) and all(map(lambda one, other: one.outputs == other.outputs, a, b))
