"""Notebook: the prompt in a cell. Lines are asked for by `input()`, and what is shown is printed into the cell."""

from __future__ import annotations

import os
import sys
from typing import IO, Any, cast

from rich.console import Console

from nnrepl.commands.blocks import Blocks
from nnrepl.commands.interpreter import Interpreter
from nnrepl.shell.prompts import PROMPT
from nnrepl.view.said import WIDTH
from nnrepl.view.theme import THEMES

CANNOT_ASK = (
    "nobody can be asked here (the notebook is executed as a whole): the cell runs on; %nnrepl COMMAND or "
    "nnrepl.Session(trace).run(COMMAND) asks afterwards"
)


class CellEnded(BaseException):
    """The user has left nnrepl with `quit` in the middle of a cell: the cell ends there, the kernel lives on."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def ipython() -> Any:
    """IPython's shell, in a terminal or in a kernel; None outside of both."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if get is None else get()


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, whose standard input is no terminal but asks by `input()`."""
    return hasattr(ipython(), "kernel")


def notebook_console(stdout: Any, plain: bool, theme: str) -> Console:
    """Return a console that prints into the cell, in colour: one stream, and no output of its own for each line."""
    colours: Any = None if plain or os.environ.get("NO_COLOR") else "256"
    return Console(
        file=cast(IO[str], stdout), width=WIDTH, theme=THEMES[theme], highlight=False, markup=False, emoji=False,
        force_jupyter=False, force_terminal=False, color_system=colours,
    )  # fmt: skip


class CellReader:
    """Asks for lines with `input()`, which a kernel hands to the notebook.

    Where the notebook cannot be asked, a running program goes on, and what is over ends.
    """

    echoes = False
    pages = False
    screen = None

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._blocks = Blocks(self._line, interpreter.table, typed=True)
        self._prompt = PROMPT
        self._can_ask = True

    def read(self, prompt: str = PROMPT) -> str | None:
        """Return the next line, or lines that belong together; None at the end. Raises KeyboardInterrupt."""
        self._prompt = prompt
        line = self._blocks.read() if self._can_ask else None
        return line if self._can_ask or not self._interpreter.session.running else "continue"

    def _line(self) -> str | None:
        sys.stdout.flush()
        try:
            return input("... ".rjust(len(self._prompt)) if self._blocks.inside else self._prompt)
        except EOFError:
            return None
        except NotImplementedError:  # IPython.core.error.StdinNotImplementedError
            self._can_ask = False
            print(CANNOT_ASK)
            return None
