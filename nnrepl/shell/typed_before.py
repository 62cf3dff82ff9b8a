"""History: what was typed in a program before; a file that cannot be read or written is said once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory, ThreadedHistory

from nnrepl.session.files import for_the_user_alone, private_directory
from nnrepl.session.settings import file_name, state_directory

FIRST_TIME = "Tab completes, F8 steps, F7 steps back, Ctrl-R searches, Ctrl-D leaves."


def history_of(program: str) -> tuple[History, str]:
    """Return the history of a program, and what a user should know about it: a hint if there never was one, or what is
    wrong with its file; "" if nothing is."""
    path = state_directory() / "histories" / file_name(program)
    note = "" if os.path.exists(path.parent) else FIRST_TIME
    try:
        private_directory(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        for_the_user_alone(path)
    except OSError as error:
        return InMemoryHistory(), f"what you type is not kept: cannot write {path}: {error.strerror}"
    return ThreadedHistory(_LinesInFile(path)), note


class _LinesInFile(FileHistory):
    """A file that may vanish or fill up while one works: the line is then kept for this session only."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))

    def load_history_strings(self) -> Iterable[str]:
        """Return what was typed, the newest first."""
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        """Add a line to the file."""
        try:
            super().store_string(string)
        except (OSError, UnicodeEncodeError):
            pass
