"""Restart point: a moment whose world is kept, so that the program can be run again from there."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import mlx.core as mx

from nnrepl.record.intake import RECORDING
from nnrepl.record.listener import RecordedCall
from nnrepl.record.objects import object_of
from nnrepl.record.recorder import RECORD, Recorder
from nnrepl.replay import readings
from nnrepl.replay.interrupts import allowed, held
from nnrepl.replay.replay import Replay
from nnrepl.replay.run import Changing, Run
from nnrepl.replay.world import World
from nnrepl.tape import GRADIENT_PASS, Pass, Tape, Value

_copy = mx.array.__copy__


class PutBack(Changing, Protocol):
    """What changes in the program on the way, also where it is put back."""

    def leave(self, position: int) -> None:
        """Take back what was done once after a position."""

    def stand(self, position: int) -> None:
        """Bring the living program to what it is to be at a position."""


class KeptMoment:
    """A moment of what can be reached from some things, to come back to.

    Args:
        things: What is to be found then as it is now.

    Attributes:
        lost: What cannot be put back, in words.
    """

    def __init__(self, recorder: Recorder, things: Iterable[Any]) -> None:
        self._recorder = recorder
        self.things = list(things)
        self._worlds = [World(self.things)]
        self.lost = self._worlds[0].lost
        self._known = [(weakref.ref(array), value) for array, value in _objects(recorder)]
        self._draws = recorder.draws
        self._read = readings.mark()

    def reaches(self, things: Iterable[Any]) -> None:
        """Keep more, which is as it was at that moment: the user may change it."""
        more = list(things)
        if more:
            self.things += more
            self._worlds.append(World(more))

    def restore(self) -> None:
        """Put everything back: the program's objects are refilled, while the values keep what they held."""
        recorder = self._recorder
        objects = list(_objects(recorder))
        for array, value in objects:
            # The object is about to be refilled for the program; the tape goes on holding what it held, on a handle
            # of its own (the same buffer, no numbers are copied).
            if value.held is array:
                value.held = _copy(array)
        for world in reversed(self._worlds):  # the first one last: it has what later ones hold as it was at the moment
            world.restore()
        # What objects stand for is as it was at the moment; an `id` of then may be another object's by now.
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
        readings.rewind(self._read)


class RestartPoint(KeptMoment):
    """The entry of a pass: everything that a second run must find as the first one did.

    Attributes:
        start: The position of the first op after it.
    """

    def __init__(self, recorder: Recorder, call: RecordedCall, things: Iterable[Any] = ()) -> None:
        super().__init__(recorder, [call.fun, call.given, *things])
        self.call = call
        self.start = len(recorder.tape)

    def again(self, run: Run, tape: Tape, changes: PutBack) -> None:
        """Make the call again, on `tape`. Whatever happens on the way, everything is then as it was.

        Args:
            changes: Brings the program's source to where it is to be, and does what the user does in it.

        Raises:
            Diverged: If the program does not do the same when it runs again.
            CannotExchange: If an edit cannot stand where it is to stand.
            KeyboardInterrupt: If the user interrupts it.
        """
        now = _Moment(self._recorder, self.call, self.things)
        # Ctrl-C is let through where the program runs, and waits where its world is put back: half of one is none.
        with held():
            try:
                with allowed():
                    replay = self._follow(run, tape, changes)
                    # A program with a clock in it goes another way by itself: only a run without the edit can tell.
                    if replay.other_way is not None:
                        self._control(run, changes)
            except BaseException:
                changes.leave(self.start)
                now.come_back()
                raise

    def end_of(self, tape: Tape) -> int:
        """Where on a tape the pass ends that begins here."""
        return next(
            (pass_.end for pass_ in tape.passes if pass_.kind == GRADIENT_PASS and pass_.start >= self.start), 0
        )

    def _follow(self, run: Run, tape: Tape, changes: PutBack) -> Replay:
        """Make the call again along a tape."""
        recorder, call = self._recorder, self.call
        replay = Replay(run, end=max(self.end_of(run.old), run.position), changes=changes)
        mode = recorder.mode
        try:
            recorder.tape, recorder.intake, recorder.pass_, recorder.mode = tape, replay, None, RECORD
            recorder.overwritten.clear()
            with held():
                changes.leave(self.start)
                self.restore()
                changes.stand(self.start)
                replay.refresh(recorder)
            call.attempt()
            if isinstance(call.error, KeyboardInterrupt):
                raise call.error
            replay.ended(recorder, call.error)
        finally:
            recorder.intake, recorder.mode, recorder.pass_ = RECORDING, mode, None
        return replay

    def _control(self, run: Run, changes: PutBack) -> None:
        """Note that the program went another way after an edit. It was because of the edit if it does the same again
        without it.

        Raises:
            Diverged: If it does not.
        """
        edited = _Moment(self._recorder, self.call, self.things)
        try:
            plain = run.old.fork(self.start, run.old.names)
            self._follow(Run(run.old, self.end_of(run.old), (), 0), plain, changes)
        finally:
            edited.come_back()


class _Moment:
    """The present, to come back to."""

    def __init__(self, recorder: Recorder, call: RecordedCall, things: Iterable[Any]) -> None:
        self._point = RestartPoint(recorder, call, things)
        self._recorder = recorder
        self._state = {name: getattr(recorder, name) for name in _STATE}
        running: list[list[Any]] = [recorder.sweeps, recorder.tracing]
        self._lists = [(part, list(part)) for part in running]
        self._pass: Pass = call.pass_
        self._outcome = call.result, call.error

    def come_back(self) -> None:
        """Everything is as it was."""
        with held():
            for name, part in self._state.items():
                setattr(self._recorder, name, part)
            for running, before in self._lists:
                running[:] = before
            self._point.restore()
            call = self._point.call
            call.pass_ = self._pass
            call.result, call.error = self._outcome


_STATE = ("tape", "intake", "mode", "pass_", "differentiating", "captured", "stream", "started")
"""What an interrupt may leave as it was in the middle of something."""


def _objects(recorder: Recorder) -> Iterator[tuple[mx.array, Value]]:
    """Yield the array objects that are alive, and what they stand for."""
    for key, value in recorder.live.copy().items():  # some may die meanwhile
        array = object_of(recorder, key, value)
        if array is not None:
            yield array, value
