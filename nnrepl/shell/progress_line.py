"""Progress: what a long stretch is at, without getting in the way of what the program prints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.console import Console

_EVERY, _AFTER, _LONG = 0.3, 0.5, 1.5


class Progress:
    """Shows how far something is: an evaluation in a line that is gone afterwards, the running program in the
    terminal's title. Says nothing where there is no terminal, and nothing about what is done at once.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._line = False
        self._waiting: threading.Timer | None = None

    def to_first_op(self, say: Callable[[], None]) -> None:
        """The program begins: say so if it computes long before its first op."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        self._waiting = threading.Timer(_LONG, say)
        self._waiting.daemon = True
        self._waiting.start()

    def here(self) -> None:
        """The user has the floor."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def begin(self) -> None:
        """Something begins."""
        self._next = time.monotonic() + _AFTER

    def evaluated(self, share: float) -> None:
        """An evaluation has come so far."""
        if self._due():
            self._line = True
            self._console.file.write(f"\r\x1b[Kevaluating: {share:.0%}, Ctrl-C interrupts")
            self._console.file.flush()

    def running(self, passes: int, ops: int) -> None:
        """The program has come so far."""
        if self._due():
            self._console.set_window_title(f"nnrepl · running · pass {passes} · {ops:,} ops")

    def end(self) -> None:
        """It is over."""
        if self._line:
            self._line = False
            self._console.file.write("\r\x1b[K")
            self._console.file.flush()

    def _due(self) -> bool:
        now = time.monotonic()
        if now < self._next or not self._console.is_terminal or self._console.is_dumb_terminal:
            return False
        self._next = now + _EVERY
        return True
