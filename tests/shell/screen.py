"""Screen: nnrepl in a pseudo-terminal, driven by real keys and looked at as a person sees it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from types import TracebackType

import pexpect
import pyte

from tests.support import ROOT

KEYS = {
    "F2": "\x1bOQ", "F3": "\x1bOR", "F4": "\x1bOS", "F5": "\x1b[15~", "F6": "\x1b[17~", "F7": "\x1b[18~",
    "F8": "\x1b[19~",
    "F9": "\x1b[20~", "F10": "\x1b[21~", "F11": "\x1b[23~", "Shift-F10": "\x1b[21;2~", "Shift-F11": "\x1b[23;2~",
    "Tab": "\t", "Enter": "\r", "Ctrl-C": "\x03", "Ctrl-D": "\x04", "Ctrl-R": "\x12", "Ctrl-L": "\x0c", "Up": "\x1b[A",
    "Down": "\x1b[B",
    "Left": "\x1b[D", "Right": "\x1b[C", "Esc": "\x1b", "PageDown": "\x1b[6~", "PageUp": "\x1b[5~",
}  # fmt: skip


class Screen:
    """A terminal of some size with nnrepl in it.

    Args:
        arguments: Those of nnrepl.
        columns, rows: The size.
        env: What is different in the environment.
    """

    def __init__(self, *arguments: str, columns: int = 100, rows: int = 30, env: dict[str, str] | None = None) -> None:
        usual = {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "COLORFGBG": "15;0"}
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self._screen = pyte.HistoryScreen(columns, rows, history=5000)
        self._stream = pyte.Stream(self._screen)
        self.raw = ""
        self.process = pexpect.spawn(
            sys.executable, ["-m", "nnrepl", *arguments], dimensions=(rows, columns), encoding="utf-8",
            cwd=str(ROOT), env={**environment, **usual, **(env or {})}, timeout=60,
        )  # fmt: skip

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.close(force=True)

    def resize(self, columns: int, rows: int) -> None:
        """Make the terminal another size."""
        self._screen.resize(rows, columns)
        self.process.setwinsize(rows, columns)

    def press(self, *keys: str) -> None:
        """Press keys; names from `KEYS`, anything else is typed as it is."""
        for key in keys:
            self.process.send(KEYS.get(key, key))

    def line(self, text: str) -> None:
        """Type a line and Enter."""
        self.process.send(text + "\r")

    def _read(self, seconds: float) -> bool:
        try:
            data = self.process.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(re.sub(r"\x1b\[[<>=][\d;]*[a-zA-Z]", "", data))
        for _ in range(data.count("\x1b[6n")):  # where is the cursor?
            self.process.send(f"\x1b[{self._screen.cursor.y + 1};{self._screen.cursor.x + 1}R")
        return True

    @property
    def text(self) -> str:
        """The screen as it stands, without blanks at line ends."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def until(self, wanted: str | Callable[[str], bool], seconds: float = 30) -> str:
        """The screen, once a text stands on it (or a condition holds)."""
        end = time.monotonic() + seconds
        while not (wanted in self.text if isinstance(wanted, str) else wanted(self.text)):
            if not self._read(0.05) or time.monotonic() > end:
                raise AssertionError(f"{wanted!r} did not come; the screen was:\n{self.text}")
        return self.text

    def quiet(self, seconds: float = 0.3) -> str:
        """The screen, once nothing new has come for a while."""
        while True:
            before = len(self.raw)
            if not self._read(seconds) or len(self.raw) == before:
                return self.text

    def ended(self) -> int:
        """The exit status, once the process is over."""
        while self._read(1):
            pass
        self.process.close()
        return int(self.process.exitstatus if self.process.exitstatus is not None else -1)
