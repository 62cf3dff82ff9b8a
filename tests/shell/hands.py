"""Hands: the full screen on a terminal that is only imagined: keys, the wheel and clicks go in, a picture comes out."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyte
from prompt_toolkit.application import get_app
from prompt_toolkit.data_structures import Size
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys
from rich.console import Console

from nnrepl.commands.interpreter import Interpreter
from nnrepl.session.session import TapeSession
from nnrepl.shell.complete import TapeIndex
from nnrepl.shell.full import FullScreen, Terminal
from nnrepl.shell.prompts import PROMPT
from nnrepl.shell.shell import Shell
from tests.shell.screen import KEYS

END = "\x1b[24~"
"""F12: the last key that is pressed."""


class _Wire(io.StringIO):
    """What the application writes, and a terminal that reads it."""

    encoding = "utf-8"  # type: ignore[assignment]

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self.screen)
        self.raw = ""

    def write(self, text: str) -> int:
        """Draw it."""
        self.raw += text
        self._stream.feed(re.sub(r"\x1b\[[<>=?][\d;]*[a-zA-Z]", "", text))
        return len(text)


class Desk:
    """Somebody at the full screen.

    Attributes:
        ran: The lines that were run, typed or for a key or a click.
    """

    echoes = pages = False
    note = ""

    def __init__(self, session: TapeSession, keys: PipeInput, columns: int, rows: int) -> None:
        self._keys = keys
        self.wire = _Wire(columns, rows)
        self.ran: list[str] = []
        self.shell = Shell(session, Console(file=io.StringIO()), self._reader)

    def _reader(self, interpreter: Interpreter) -> Desk:
        self.interpreter = interpreter
        interpreter.can_full_screen = interpreter.full_screen = True
        terminal = Terminal(
            self.wire,
            lambda: Size(rows=self.wire.screen.lines, columns=self.wire.screen.columns),
            term="xterm-256color",
        )
        index = TapeIndex(interpreter.session)
        self.screen = FullScreen(interpreter, InMemoryHistory(), index, terminal, self._keys)
        own, application = KeyBindings(), self.screen._app
        own.add("f12")(self._end)
        application.key_bindings = merge_key_bindings([application.key_bindings or KeyBindings(), own])
        return self

    def read(self, prompt: str = PROMPT) -> str | None:
        """The line that the keys give; where they give none, Ctrl-C after the last of them."""

        def begin() -> None:
            if self._esc:  # by itself, no terminal could tell it from the beginning of another key
                get_app().key_processor.feed(KeyPress(Keys.Escape, "\x1b"))
                get_app().key_processor.process_keys()
            self._esc = False

        line = self.screen.read(prompt, False, begin)
        self.ran += [] if line is None else [line]
        return line

    def _end(self, event: KeyPressEvent) -> None:
        event.app._redraw()
        self._shown = "\n".join(line.rstrip() for line in self.wire.screen.display)
        self._cells = list(self._drawn())
        event.app.exit(exception=KeyboardInterrupt)

    def press(self, *keys: str) -> str:
        """Press keys (names from KEYS, or what is typed). Returns what is then seen."""
        self._esc = "Esc" in keys
        self._keys.send_text("".join(KEYS.get(key, key) for key in keys if key != "Esc") + END)
        self._shown = ""
        while not self._shown:
            self.shell._turn()
        return self._shown

    def line(self, text: str) -> str:
        """Type a line, and Enter."""
        return self.press(text, "Enter")

    def mouse(self, text: str, what: str = "click", nth: int = 0) -> str:
        """Click on a text that is seen, or turn the wheel on it ("up", "down"). Returns what is then seen."""
        lines = (self._shown or self.press()).split("\n")
        found = [(row, line.index(text)) for row, line in enumerate(lines) if text in line]
        row, column = found[nth]
        at = f"{column + 1};{row + 1}"
        sent = {"click": f"\x1b[<0;{at}M\x1b[<0;{at}m", "up": f"\x1b[<64;{at}M", "down": f"\x1b[<65;{at}M"}
        return self.press(sent[what])

    def resize(self, columns: int, rows: int) -> str:
        """Make the terminal another size."""
        self.wire.screen.resize(rows, columns)
        return self.press()

    def cells(self) -> list[tuple[str, Any]]:
        """Each sign that was seen after the last keys, and how."""
        return self._cells

    def _drawn(self) -> Iterator[tuple[str, Any]]:
        screen = self.wire.screen
        for row in range(screen.lines):
            for column in range(screen.columns):
                cell = screen.buffer[row][column]
                yield cell.data, cell


@contextmanager
def desk(session: TapeSession, columns: int = 120, rows: int = 40, **settings: str) -> Iterator[Desk]:
    """A full screen on a session."""
    session.settings.update(settings)
    with create_pipe_input() as keys:
        made = Desk(session, keys, columns, rows)
        made.press()
        yield made
