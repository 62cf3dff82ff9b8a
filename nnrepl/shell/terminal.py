"""Terminal: the prompt for a person, on prompt-toolkit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory, ThreadedHistory

from nnrepl.commands.interpreter import Interpreter
from nnrepl.shell.readers import PROMPT
from nnrepl.view.tensor import dtype_text, shape_text


class TerminalReader:
    """Reads lines with history, suggestions and completion.

    Args:
        interpreter: Whose commands and names are completed.
    """

    echoes = False

    def __init__(self, interpreter: Interpreter) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=NameCompleter(interpreter),
            auto_suggest=AutoSuggestFromHistory(),
            complete_while_typing=False,
            enable_suspend=True,
        )

    def read(self) -> str | None:
        """The next line, None on Ctrl-D. Raises KeyboardInterrupt on Ctrl-C."""
        try:
            return self._session.prompt(PROMPT, in_thread=_in_event_loop())
        except EOFError:
            return None


def _in_event_loop() -> bool:
    """Whether the program itself runs in an event loop: the prompt then needs a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def state_directory() -> Path:
    """Where nnrepl keeps what it remembers."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(base) / "nnrepl"


def _history() -> ThreadedHistory:
    directory = state_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return ThreadedHistory(FileHistory(str(directory / "history")))
    except OSError:
        return ThreadedHistory(InMemoryHistory())


class NameCompleter(Completer):
    """Offers commands at the start of a line and names of the tape elsewhere; evaluates nothing."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Completions for the word before the cursor."""
        word = document.get_word_before_cursor(WORD=True)
        before = document.text_before_cursor[: -len(word)] if word else document.text_before_cursor
        if not before.strip():
            for command in self._interpreter.table.commands:
                for name in command.names[:1]:
                    if name.startswith(word):
                        yield Completion(name, -len(word), display_meta=command.summary)
        piece = word
        for sign in "([,+-*/@=<>":
            piece = piece.rpartition(sign)[2]
        session = self._interpreter.session
        for name in sorted(session.names.known()):
            if name.startswith(piece):
                value = session.names.newest(name, session.cursor) or session.names.versions(name)[-1][1]
                meta = f"{shape_text(value.shape)} {dtype_text(value.dtype)}"
                yield Completion(name, -len(piece), display_meta=meta)
