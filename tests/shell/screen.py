"""Screen: nnrepl in a pseudo-terminal, driven by real keys and looked at as a person sees it."""

from __future__ import annotations

import os
import re
import sys
import termios
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
    "Left": "\x1b[D", "Right": "\x1b[C", "Esc": "\x1b", "Backspace": "\x7f", "PageDown": "\x1b[6~", "PageUp": "\x1b[5~",
}  # fmt: skip
PATIENCE = 60
"""So many seconds the slowest machine may take: nobody waits for longer than something takes."""
_ENDS = "\x1b[?2004l"
"""What is written when a prompt, or a pager, has been answered."""


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
        self.raw = self._unfinished = ""
        self._left = 0  # so many prompts will have been left before the next key is pressed
        self._edits = (env or {}).get("TERM") != "dumb"
        self.process = pexpect.spawn(
            sys.executable, ["-m", "nnrepl", *arguments], dimensions=(rows, columns), encoding="utf-8",
            cwd=str(ROOT), env={**environment, **usual, **(env or {})}, timeout=PATIENCE,
        )  # fmt: skip

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.close(force=True)

    def resize(self, columns: int, rows: int) -> None:
        """Make the terminal another size."""
        self._screen.resize(rows, columns)
        self.process.setwinsize(rows, columns)

    def press(self, *keys: str, leaves: bool = False) -> None:
        """Press keys, all at once, when somebody waits for them.

        Args:
            keys: Names from `KEYS`; anything else is typed as it is.
            leaves: Whether the prompt (or the pager) is left by them: the next key is then for the one after it.
        """
        self.ready()
        self._left = self.raw.count(_ENDS) + 1 if leaves else 0
        self.process.send("".join(KEYS.get(key, key) for key in keys))

    def line(self, text: str) -> None:
        """Type a line, and Enter."""
        self.press(text, "Enter", leaves=True)

    def again(self, *keys: str, wanted: str) -> None:
        """Press keys, the first of them again after the others, until a text is seen: what is looked up meanwhile,
        as the history is, may come too late for the first time."""
        self.press(keys[0])
        end = time.monotonic() + PATIENCE
        while wanted not in self.text:
            assert time.monotonic() < end, f"{wanted!r} did not come; the screen was:\n{self.text}"
            if self._read(0.5) and wanted not in self.text:
                self.press(*keys[1:], keys[0])

    def cell(self, *lines: str) -> None:
        """Type the lines of one cell, each further one when there is a place for it."""
        for line in lines:
            self.ready()
            places, left = self.raw.count("... "), self.raw.count(_ENDS)
            self.press(line, "Enter")
            self.until(lambda _, p=places, e=left: self.raw.count("... ") > p or self.raw.count(_ENDS) > e)

    def interrupt(self) -> None:
        """Press Ctrl-C while something runs, which takes no keys."""
        self.process.send(KEYS["Ctrl-C"])

    def ready(self) -> str:
        """The screen, once keys are waited for: till then the terminal echoes them, and some it takes for itself."""
        if self._edits:
            self.until(lambda _: self.raw.count(_ENDS) >= self._left and not self._echoes())
        return self.text

    def _echoes(self) -> bool:
        return bool(termios.tcgetattr(self.process.child_fd)[3] & termios.ECHO)

    def _read(self, seconds: float) -> bool:
        try:
            data = self.process.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        data = self._unfinished + data
        self._unfinished = data[re.search(r"(?:\x1b(?:\[[<>=?\d;]*)?)?$", data).start() :]
        data = data[: len(data) - len(self._unfinished)]
        self._stream.feed(re.sub(r"\x1b\[[<>=][\d;]*[a-zA-Z]", "", data))
        for _ in range(data.count("\x1b[6n")):  # where is the cursor?
            self.process.send(f"\x1b[{self._screen.cursor.y + 1};{self._screen.cursor.x + 1}R")
        return True

    @property
    def text(self) -> str:
        """The screen as it stands, without blanks at line ends."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def until(self, wanted: str | Callable[[str], bool], seconds: float = PATIENCE) -> str:
        """The screen, once a text stands on it (or a condition holds)."""
        end = time.monotonic() + seconds
        while not (wanted in self.text if isinstance(wanted, str) else wanted(self.text)):
            if not self._read(0.05) or time.monotonic() > end:
                raise AssertionError(f"{wanted!r} did not come; the screen was:\n{self.text}")
        return self.text

    def ended(self) -> int:
        """The exit status, once the process is over."""
        end = time.monotonic() + PATIENCE
        while self._read(1):
            assert time.monotonic() < end, f"it did not end; the screen was:\n{self.text}"
        self.process.close()
        return int(self.process.exitstatus if self.process.exitstatus is not None else -1)
