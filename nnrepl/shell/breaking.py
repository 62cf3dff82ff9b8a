"""Breaking: Ctrl-C breaks off what goes on at the prompt; while the program runs, it stops that at its next op."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from rich.text import Text

from nnrepl.record.recorder import NATIVE, RECORD
from nnrepl.replay.interrupts import at_work, put_off

_TWICE = 0.5
"""Seconds between two presses of Ctrl-C that mean the program itself."""


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
        if put_off(frame) or (self.at_prompt and not self._breaks):
            return
        before, self._pressed = self._pressed, time.monotonic()
        stopping = not session.waits and getattr(session.course.now, "interrupted", False)
        if stopping and (session.replaying or self._pressed - before < _TWICE):
            return  # it stops at its next op already
        if not self.at_prompt and session.waits and at_work(frame):
            return
        runs = recorder is not None and recorder.mode in (RECORD, NATIVE)
        idle = recorder is None or (not runs and not self.session.replaying and not at_work(frame))
        if self.at_prompt or idle or not self.session.course.interrupt():
            raise KeyboardInterrupt
        self.show(Text("\nstopping at the next op; Ctrl-C again interrupts the program itself", style="hint"))
