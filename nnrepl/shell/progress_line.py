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
        self._next = self._began = 0.0
        self._line = False
        self._waiting: threading.Timer | None = None

    def to_first_op(self, say: Callable[[], None]) -> None:
        """Say that the program begins if it computes long before its first op."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        self._waiting = threading.Timer(_LONG, say)
        self._waiting.daemon = True
        self._waiting.start()

    def here(self) -> None:
        """Give the user the floor."""
        self.end()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def begin(self) -> None:
        """Something begins."""
        self._began = time.monotonic()
        self._next = self._began + _AFTER

    def come(self, share: float, doing: str) -> None:
        """Say how far an evaluation has come, or something else; of that also how long it will take."""
        if self._due():
            self._line = True
            left = (time.monotonic() - self._began) * (1 - share) / max(share, 1e-6)
            more = "" if doing == "evaluating" else f", about {left:.0f} s more"
            said = f"{doing}: {share:.0%}{more}, Ctrl-C interrupts"
            self._console.file.write(f"\r\x1b[K{said[: self._console.width - 1]}")
            self._console.file.flush()

    def running(self, passes: int, ops: int) -> None:
        """Note that the program has come so far."""
        if self._due():
            self._console.set_window_title(f"nnrepl · running · pass {passes} · {ops:,} ops")

    def end(self) -> None:
        """Note that it is over."""
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
