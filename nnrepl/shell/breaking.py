"""Breaking: Ctrl-C breaks off what goes on at the prompt; while the program runs, it stops that at its next op."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from rich.text import Text

from nnrepl.record.recorder import NATIVE, RECORD
from nnrepl.replay.interrupts import at_work, put_off

_TWICE = 0.5
"""Seconds between two presses of Ctrl-C that mean the program itself."""

_SOON = 0.6
"""Seconds in which a cell is to come to an op at which it can stop; more than between two presses."""

_LATER = 2.0
"""Seconds for what runs again: where it comes to an op, it need not run once more to be where it was."""


class Breaking:
    """What Ctrl-C does in a shell.

    Attributes:
        session: Whose program it stops.
        at_prompt: Whether the user has the floor.
    """

    session: Any
    at_prompt: bool
    _breaks = False
    _pressed = 0.0
    _late = False

    def show(self, renderable: Any) -> None:
        """Show something."""
        raise NotImplementedError

    def catch_interrupts(self) -> None:
        """From now on Ctrl-C stops the program at its next op instead of ending it."""
        signal.signal(signal.SIGINT, self._interrupted)

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Inside, Ctrl-C at the prompt breaks off what goes on; between two lines there is nothing to break off."""
        self._breaks = True
        try:
            yield
        finally:
            self._breaks = False

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        recorder, session = self.session.recorder, self.session
        stopping = not session.waits and getattr(session.course.now, "interrupted", False)
        late, self._late = self._late, False
        if late and (not stopping or at_work(frame)):  # it has stopped meanwhile, or is at an op
            if stopping:
                self._strike_soon()
            return
        if put_off(frame) or (self.at_prompt and not self._breaks):
            return
        if late:
            raise KeyboardInterrupt
        before, self._pressed = self._pressed, time.monotonic()
        if stopping and (session.replaying or self._pressed - before < _TWICE):
            return  # it stops at its next op already
        if not self.at_prompt and session.waits and at_work(frame):
            return
        runs = recorder is not None and recorder.mode in (RECORD, NATIVE)
        idle = recorder is None or (not runs and not self.session.replaying and not at_work(frame))
        if self.at_prompt or idle or not self.session.course.interrupt():
            raise KeyboardInterrupt
        in_cell = bool(session.changes.timelines.live.starts) and not session.replaying
        otherwise = ", or in a moment" if in_cell else "; Ctrl-C again interrupts the program itself"
        self.show(Text(f"\nstopping at the next op{otherwise}", style="hint"))
        if in_cell or session.replaying:
            self._strike_soon(_SOON if in_cell else _LATER)

    def _strike_soon(self, seconds: float = _SOON) -> None:
        """Break off a cell that comes to no op, as Python's prompt does, or a run again: nothing is lost by that."""

        def strike() -> None:
            self._late = True
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(seconds, strike)
        timer.daemon = True
        timer.start()
