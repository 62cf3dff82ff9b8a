"""Restarts: runs the program again, from the entry of the pass in which it waits or from its start."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.intake import RECORDING
from nnrepl.record.names import ProgramNames
from nnrepl.record.objects import object_of
from nnrepl.record.recorder import MUTED, RECORD, Recorder
from nnrepl.record.transforms import GradientCall
from nnrepl.replay.replay import CannotExchange, Diverged, Replay
from nnrepl.replay.world import World
from nnrepl.session.changes import Run
from nnrepl.session.errors import RunAgain, UserError
from nnrepl.tape import GRADIENT_PASS, Tape, Value

if TYPE_CHECKING:
    from nnrepl.session.session import Session

_copy = mx.array.__copy__
_SHARE, _FREE_SECONDS = 0.1, 0.5


class Entry:
    """The entry of a pass: everything that a second run must find as the first one did."""

    def __init__(self, recorder: Recorder, call: GradientCall) -> None:
        self.call = call
        self.start = len(recorder.tape)
        self._recorder = recorder
        self._world = World([call.fun, call.given])
        self._known = [(weakref.ref(array), value) for array, value in _objects(recorder)]
        self._draws = recorder.draws

    def restore(self) -> None:
        """Put everything back: the program's objects are refilled, while the values keep what they held."""
        recorder = self._recorder
        objects = list(_objects(recorder))
        for array, value in objects:
            if value.held is array:
                value.held = _copy(array)
        self._world.restore()
        recorder.live.clear()
        recorder.guards.clear()
        for array, value in objects:
            if value.op is None and value.origin is None:
                recorder.link(array, value)  # it may have come from outside since then
        for reference, value in self._known:
            known = reference()
            if known is not None:
                recorder.link(known, value)
        recorder.draws = self._draws


def _objects(recorder: Recorder) -> Iterator[tuple[mx.array, Value]]:
    """The array objects that are alive, and what they stand for."""
    for key, value in recorder.live.items():
        array = object_of(recorder, key, value)
        if array is not None:
            yield array, value


class ProgramRestarts:
    """Runs a program again that waits under a session.

    Args:
        whole: Whether it can run again from its start; else only the pass in which it waits can.
    """

    def __init__(self, session: Session, recorder: Recorder, whole: bool = True) -> None:
        self._whole = whole
        self._session = session
        self._recorder = recorder
        self._entry: Entry | None = None
        self._began = time.monotonic()
        self._spent = 0.0

    # -- restart points ------------------------------------------------------------------------------------

    def pass_started(self, call: GradientCall) -> None:
        """Keep the entry of a pass in which the person may stop. That takes a while where much is reachable;
        in a long run it may take a tenth of the time, no more: the start of the program is a restart point too."""
        self._entry = None
        now = time.monotonic()
        if self._spent <= _FREE_SECONDS + _SHARE * (now - self._began):
            self._entry = Entry(self._recorder, call)
            self._spent += time.monotonic() - now

    def left(self) -> None:
        """The program goes on."""
        self._entry = None

    # -- running again ---------------------------------------------------------------------------------------

    @contextmanager
    def computing(self) -> Iterator[Recorder]:
        """The program's own recorder, awake."""
        recorder = self._recorder
        before, recorder.mode = recorder.mode, MUTED
        try:
            yield recorder
        finally:
            recorder.mode = before

    def again(self, run: Run) -> tuple[Tape, ProgramNames]:
        """Run again what has to.

        Raises:
            UserError: If the program goes another way before the edit; then everything is as it was.
            RunAgain: Unwinds the program, if it has to run again from its start.
        """
        entry = self._entry
        codes = self._session.codes
        anew = any(change.early and change not in codes.held for change in codes.wanted)
        if not anew and self._is_over(run):
            return self._go_on(run)
        if anew or entry is None or not self._within(run, entry.start):
            if not self._whole:
                raise UserError("only what lies in the pass in which the program waits can be changed here")
            raise RunAgain(run)
        names = ProgramNames()
        tape = run.old.fork(entry.start, names)
        names.tape = tape
        self._attempt(entry, run, tape)
        return tape, names

    def _is_over(self, run: Run) -> bool:
        """Whether nothing has to run again: all that was recorded stays, and only what comes is different."""
        recorder = self._recorder
        at_end = not run.ops and run.position == len(run.old) and run.old is recorder.tape
        return at_end and not recorder.differentiating and self._entry is None

    def _go_on(self, run: Run) -> tuple[Tape, ProgramNames]:
        """Let the program go on from where it waits, on a tape of its own."""
        recorder = self._recorder
        names = ProgramNames()
        tape = run.old.fork(run.position, names)
        names.tape = tape
        part = recorder.part
        if part is not None and tape.passes:
            recorder.part = tape.passes[-1] = replace(part, tape=tape, end=run.position)
        recorder.tape = tape
        self._session.codes.stand(run.position)
        return tape, names

    def _within(self, run: Run, start: int) -> bool:
        """Whether all that has to run again lies in the pass that begins at `start`, in which the program waits:
        what comes before is the program's own past."""
        end = next((part.end for part in run.old.passes if part.kind == GRADIENT_PASS and part.start >= start), 0)
        if not self._session.running or not start <= run.position <= end:
            return False
        mine, theirs = self._recorder.tape.ops[:start], run.old.ops[:start]
        return all(a.outputs == b.outputs for a, b in zip(mine, theirs, strict=True))

    def _attempt(self, entry: Entry, run: Run, tape: Tape) -> None:
        recorder, call = self._recorder, entry.call
        before: dict[str, Any] = {"part": call.part, "result": call.result, "error": call.error}
        found = Entry(recorder, call)
        codes = self._session.codes
        held = codes.held
        old = recorder.tape
        replay = Replay(run.expected, run.old, run.position)
        recorder.tape, recorder.intake, recorder.part = tape, replay, None
        mode, recorder.mode = recorder.mode, RECORD
        recorder.overwritten.clear()
        self._session.hooks.running_again(run.position, False)
        try:
            entry.restore()
            codes.stand(entry.start)
            replay.refresh(recorder)
            call.attempt()
        except (Diverged, CannotExchange) as error:
            recorder.tape = old
            found.restore()
            codes.wanted = held
            codes.stand(entry.start)
            for name, thing in before.items():
                setattr(call, name, thing)
            raise UserError(str(error)) from None
        finally:
            recorder.intake, recorder.mode, recorder.part = RECORDING, mode, None
