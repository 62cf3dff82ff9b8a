"""Interrupts: Ctrl-C waits while something must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Held:
    """Ctrl-C is held back.

    Attributes:
        pending: Whether it was pressed meanwhile.
    """

    def __init__(self) -> None:
        self.pending = False
        self._handler: Any = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pending = True

    def begin(self) -> None:
        """Hold it back from now on."""
        self._handler = signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        """It takes effect again, what was held back included. Raises what the handler raises."""
        signal.signal(signal.SIGINT, self._handler)
        pending, self.pending = self.pending, False
        if pending and callable(self._handler):
            self._handler(signal.SIGINT, None)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Inside, it takes effect at once."""
        if self._handler is None:  # nothing is held
            yield
            return
        try:
            self.end()
            yield
        finally:
            self.begin()


@contextmanager
def held() -> Iterator[Held]:
    """Hold Ctrl-C back inside; it takes effect at the end. Only the main thread gets signals: elsewhere this does
    nothing."""
    holding = Held()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield holding
        return
    holding.begin()
    try:
        yield holding
    finally:
        holding.end()
