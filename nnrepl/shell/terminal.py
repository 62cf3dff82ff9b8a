"""Terminal: the prompt for a user, on prompt-toolkit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyPressEvent
from prompt_toolkit.styles import BaseStyle, DynamicStyle

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.learning import asked_by_key
from nnrepl.shell.background import typed_meanwhile
from nnrepl.shell.colours import STYLES, LineLexer
from nnrepl.shell.complete import NameCompleter, TapeIndex
from nnrepl.shell.key_bindings import bindings, editing_mode
from nnrepl.shell.prompts import PROMPT
from nnrepl.shell.toolbar import Toolbar
from nnrepl.shell.typed_before import history_of

if TYPE_CHECKING:
    from nnrepl.shell.full import FullScreen


class TerminalReader:
    """Reads lines with history, suggestions, completion, colours and a toolbar.

    Args:
        interpreter: Whose commands and names are completed.
        program: What is debugged: each program has a history of its own.

    Attributes:
        history: What was typed.
        note: What is to be said before the first line: a hint, or what is wrong with the history.
    """

    echoes = False

    def __init__(self, interpreter: Interpreter, program: str = "") -> None:
        self._interpreter = interpreter
        self._settings = interpreter.session.settings
        self._index = TapeIndex(interpreter.session)
        self._toolbar = Toolbar(interpreter.session)
        self._typed = "".join(typed_meanwhile)
        typed_meanwhile.clear()
        self.history, self.note = history_of(program)
        self._session = self._prompt_session(self.history)
        self._full: FullScreen | None = None
        interpreter.can_full_screen = True

    @property
    def pages(self) -> bool:
        """Long output stops at each screen, but for the full screen, which keeps it."""
        return not self._interpreter.full_screen

    @property
    def screen(self) -> FullScreen | None:
        """The full screen, if the user wants one."""
        return self._full_screen() if self._interpreter.full_screen else None

    def _prompt_session(self, history: History) -> PromptSession[str]:
        while_typing = Condition(lambda: bool(self._settings["complete"] == "typing"))
        return PromptSession(
            history=history,
            completer=NameCompleter(self._interpreter, self._index),
            lexer=LineLexer(self._interpreter.table),
            style=DynamicStyle(self._style),
            auto_suggest=AutoSuggestFromHistory(),
            complete_while_typing=while_typing,
            enable_history_search=~while_typing,
            multiline=True,
            prompt_continuation=_continuation,
            bottom_toolbar=lambda: self._toolbar.fragments(get_app().output.get_size().columns),
            key_bindings=bindings(
                self._interpreter.table,
                self._settings,
                self._run_key,
                asked=lambda typed: asked_by_key(self._interpreter, typed),
            ),
            reserve_space_for_menu=6,
            enable_suspend=True,
            enable_open_in_editor=True,
            tempfile_suffix=".py",
        )

    def read(self, prompt: str = PROMPT) -> str | None:
        """Return the next line, None on Ctrl-D. Raises KeyboardInterrupt on Ctrl-C."""
        if self.note and self._interpreter.player is None:
            print(self.note)
            self.note = ""
        if self._interpreter.full_screen:
            full = self._full_screen()
            set_title(full.output, title(self._interpreter))
            return full.read(prompt, in_event_loop(), lambda: begin_indexing(self._index))
        if self._full is not None:
            self._full.leave()
        typed, self._typed = self._typed, ""
        set_title(self._session.output, title(self._interpreter))
        self._session.editing_mode = editing_mode(self._settings)
        try:
            return self._session.prompt(
                [("class:prompt", prompt)],
                default=typed,
                in_thread=in_event_loop(),
                pre_run=lambda: begin_indexing(self._index),
            )
        except EOFError:
            return None

    def _full_screen(self) -> FullScreen:
        from nnrepl.shell.full import FullScreen

        if self._full is None:
            self._full = FullScreen(self._interpreter, self.history, self._index)
        return self._full

    def _style(self) -> BaseStyle:
        return STYLES[self._settings["theme"]]

    def _run_key(self, event: KeyPressEvent, line: str) -> None:
        """Run the line that a key stands for; what one was typing comes back afterwards."""
        buffer = self._session.default_buffer
        self._typed = buffer.text
        buffer.text = line
        event.app.exit(result=line)


def _continuation(width: int, number: int, soft: int) -> StyleAndTextTuples:
    return [("class:continuation", "... ".rjust(width))]


def in_event_loop() -> bool:
    """Whether the program itself runs in an event loop: the prompt then needs a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def begin_indexing(index: TapeIndex) -> None:
    """Look through the tape while nothing is typed, a few milliseconds at a time."""

    async def advance() -> None:
        while not index.advance():
            await asyncio.sleep(0.001)

    get_app().create_background_task(advance())


def title(interpreter: Interpreter) -> str:
    """Return what the terminal's title bar says."""
    op = interpreter.session.op
    return "nnrepl" if op is None else f"{op.label} {op.name} · {op.phase} · nnrepl"


def set_title(output: Any, text: str) -> None:
    """Set the title of the terminal."""
    output.set_title(text)
    output.flush()
