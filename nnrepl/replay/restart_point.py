"""Restart point: a moment whose world is kept, so that the program can be run again from there."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from nnrepl.record.gradient_call import GradientCall
from nnrepl.record.intake import RECORDING
from nnrepl.record.objects import object_of
from nnrepl.record.recorder import RECORD, Recorder
from nnrepl.replay.interrupts import allowed, held
from nnrepl.replay.replay import Replay
from nnrepl.replay.run import Run
from nnrepl.replay.world import World
from nnrepl.tape import GRADIENT_PASS, Pass, Tape, Value

_copy = mx.array.__copy__


class RestartPoint:
    """The entry of a pass: everything that a second run must find as the first one did.

    Attributes:
        start: The position of the first op after it.
        lost: What the world holds that cannot be put back, in words.
    """

    def __init__(self, recorder: Recorder, call: GradientCall) -> None:
        self.call = call
        self.start = len(recorder.tape)
        self._recorder = recorder
        self._world = World([call.fun, call.given])
        self.lost = self._world.lost
        self._known = [(weakref.ref(array), value) for array, value in _objects(recorder)]
        self._draws = recorder.draws
        self._restored: Callable[[], None] = _nothing

    def restore(self) -> None:
        """Put everything back: the program's objects are refilled, while the values keep what they held."""
        recorder = self._recorder
        objects = list(_objects(recorder))
        for array, value in objects:
            # The object is about to be refilled for the program; the tape goes on holding what it held, on a handle
            # of its own (the same buffer, no numbers are copied).
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

    def again(self, run: Run, tape: Tape, restored: Callable[[], None]) -> None:
        """Make the call again, on `tape`. Whatever happens on the way, everything is then as it was.

        Args:
            restored: Called when the world is as it was at the entry: brings the program's source to where it is to be.

        Raises:
            Diverged: If the program does not do the same when it runs again.
            CannotExchange: If an edit cannot stand where it is to stand.
            KeyboardInterrupt: If the user interrupts it.
        """
        now = _Moment(self._recorder, self.call)
        self._restored = restored
        with held():
            try:
                with allowed():
                    replay = self._follow(run, tape)
                    # A program with a clock in it goes another way by itself: only a run without the edit can tell.
                    if replay.other_way is not None:
                        self._control(run)
            except BaseException:
                now.come_back()
                raise

    def end_of(self, tape: Tape) -> int:
        """Where on a tape the pass ends that begins here."""
        return next((part.end for part in tape.passes if part.kind == GRADIENT_PASS and part.start >= self.start), 0)

    def _follow(self, run: Run, tape: Tape) -> Replay:
        """Make the call again along a tape."""
        recorder, call = self._recorder, self.call
        replay = Replay(run, end=max(self.end_of(run.old), run.position))
        mode = recorder.mode
        try:
            recorder.tape, recorder.intake, recorder.part, recorder.mode = tape, replay, None, RECORD
            recorder.overwritten.clear()
            with held():
                self.restore()
                self._restored()
                replay.refresh(recorder)
            call.attempt()
            if isinstance(call.error, KeyboardInterrupt):
                raise call.error
            replay.ended(recorder, call.error)
        finally:
            recorder.intake, recorder.mode, recorder.part = RECORDING, mode, None
        return replay

    def _control(self, run: Run) -> None:
        """Note that the program went another way after an edit. It was because of the edit if it does the same again
        without it.

        Raises:
            Diverged: If it does not.
        """
        edited = _Moment(self._recorder, self.call)
        try:
            plain = run.old.fork(self.start, run.old.names)
            self._follow(Run(run.old, self.end_of(run.old), (), 0), plain)
        finally:
            edited.come_back()


class _Moment:
    """The present, to come back to."""

    def __init__(self, recorder: Recorder, call: GradientCall) -> None:
        self._point = RestartPoint(recorder, call)
        self._recorder = recorder
        self._state = {name: getattr(recorder, name) for name in _STATE}
        running: list[list[Any]] = [recorder.sweeps, recorder.tracing]
        self._lists = [(part, list(part)) for part in running]
        self._part: Pass = call.part
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
            call.part = self._part
            call.result, call.error = self._outcome


def _nothing() -> None:
    """Note that the source is what it was."""


_STATE = ("tape", "intake", "mode", "part", "differentiating", "captured", "stream", "started")
"""What an interrupt may leave as it was in the middle of something."""


def _objects(recorder: Recorder) -> Iterator[tuple[mx.array, Value]]:
    """Yield the array objects that are alive, and what they stand for."""
    for key, value in recorder.live.copy().items():  # some may die meanwhile
        array = object_of(recorder, key, value)
        if array is not None:
            yield array, value
