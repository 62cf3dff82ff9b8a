"""Full screen: source, ops, tensors, displays, curves, what commands show, and the prompt, in one application."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from threading import Timer
from typing import cast

from prompt_toolkit.application import Application
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyBindingsBase, KeyPressEvent, merge_key_bindings
from prompt_toolkit.key_binding.bindings.auto_suggest import load_auto_suggest_bindings
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import DynamicStyle
from rich.console import RenderableType
from rich.text import Text
from rich.theme import Theme

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.learning import asked_by_key
from nnrepl.shell.colours import STYLES
from nnrepl.shell.complete import NameCompleter, TapeIndex
from nnrepl.shell.key_bindings import bindings, editing_mode
from nnrepl.shell.layout import Screens
from nnrepl.shell.panes import Line, render
from nnrepl.shell.prompts import PROMPT, continued
from nnrepl.shell.scenes import Seen
from nnrepl.shell.scrollback import KEPT, Output
from nnrepl.view.theme import THEMES

ESCAPE = 0.1
"""So many seconds after it, Esc is a key of its own, and not the beginning of another."""


MOMENT = 0.2
"""So many seconds a step of the program may take without the first screen being seen."""


class Terminal(Vt100_Output):
    """The terminal, which stays in its second screen from one line to the next."""

    inside = False
    _timer: Timer | None = None

    def enter_alternate_screen(self) -> None:
        """Go to the second screen, if one is not there, and to its first place."""
        if self.inside:
            self.cursor_goto(0, 0)
        else:
            self.inside = True
            if self._timer is not None:
                self._timer.cancel()
            super().enter_alternate_screen()

    def quit_alternate_screen(self) -> None:
        """Stay; `leave` goes back."""

    def flush(self) -> None:
        """Write what was drawn as one picture: a terminal that can shows it at once, without tearing (mode 2026)."""
        if self.inside and self._buffer:
            self._buffer = ["\x1b[?2026h", *self._buffer, "\x1b[?2026l"]
        super().flush()

    def leave(self, for_now: bool = False) -> None:
        """Go back to the first screen, as it was.

        Args:
            for_now: Whether the second may be wanted again at once: then a terminal that can goes on to show that one
                for a moment (mode 2026), and a step of a running program does not flicker.
        """
        if self.inside:
            self.inside = False
            if for_now:
                self.write_raw("\x1b[?2026h")
            self.erase_screen()  # a terminal that has only one screen keeps nothing of it
            self.cursor_goto(0, 0)
            super().quit_alternate_screen()
            self.show_cursor()
            self.flush()
            if for_now:
                self._timer = Timer(MOMENT, self._release)
                self._timer.daemon = True
                self._timer.start()

    def _release(self) -> None:
        """Show what is there: the program takes its time. This is called in a thread of its own."""
        if not self.inside:
            self.stdout.write("\x1b[?2026l")
            self.stdout.flush()


class StandingApplication(Application[str]):
    """An application whose picture stays while a line runs. Others draw a last one, as high as it must be and no
    higher: of this one that would leave nothing but the line that one types."""

    def _redraw(self, render_as_done: bool = False) -> None:
        if render_as_done:
            self.renderer.reset()
        elif not self.is_done:
            super()._redraw()


def depth_of(output: Vt100_Output) -> ColorDepth:
    """How many colours there are: none where NO_COLOR is set, all of them where the terminal says so."""
    if os.environ.get("NO_COLOR"):
        return ColorDepth.DEPTH_1_BIT
    usual = output.get_default_color_depth()
    full = os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") or "direct" in os.environ.get("TERM", "")
    return ColorDepth.DEPTH_24_BIT if full and usual != ColorDepth.DEPTH_1_BIT else usual


class FullScreen:
    """The application. It gives lines as any reader does, and shows what the shell would print.

    Args:
        interpreter: Whose session is shown.
        history: What was typed.
        index: What is known of the tape, for completion.
        output, source: The terminal, if it is not the one of this process.
    """

    def __init__(
        self, interpreter: Interpreter, history: History, index: TapeIndex, output: Terminal | None = None,
        source: Input | None = None,
    ) -> None:  # fmt: skip
        self._interpreter = interpreter
        self._settings = interpreter.session.settings
        self._typed = ""
        self._held: list[str] = []
        self._begun = ""
        self.output = output or cast(Terminal, Terminal.from_pty(sys.stdout, term=os.environ.get("TERM")))
        self._depth = depth_of(self.output)
        self._shown = Output(self._lines)
        self._seen = Seen(interpreter)
        self._prompt = PROMPT
        self._buffer = Buffer(
            name="DEFAULT_BUFFER", history=history, completer=NameCompleter(interpreter, index), multiline=True,
            auto_suggest=AutoSuggestFromHistory(), accept_handler=self._accept,
            complete_while_typing=Condition(lambda: bool(self._settings["complete"] == "typing")),
            enable_history_search=Condition(lambda: bool(self._settings["complete"] == "tab")),
        )  # fmt: skip
        self._screens = Screens(
            interpreter, self._seen, self._shown, self._buffer, lambda: self._prompt, self._theme,
            self._depth != ColorDepth.DEPTH_1_BIT, self.run_line, self.output.get_size,
        )  # fmt: skip
        self._app = self._application(source)

    # -- for the shell -------------------------------------------------------------------------------------

    def read(self, prompt: str, in_thread: bool, begin: Callable[[], None]) -> str | None:
        """Return the next line, None on Ctrl-D. Raises KeyboardInterrupt on Ctrl-C."""
        self._prompt = prompt
        self._seen.look()
        self.output.enter_alternate_screen()
        self._app.editing_mode = editing_mode(self._settings)
        self._buffer.reset(Document(self._typed))
        self._typed = ""
        try:
            return self._app.run(pre_run=begin, in_thread=in_thread)
        except EOFError:
            return None

    def show(self, renderable: RenderableType) -> list[Line]:
        """Show something where commands show what they have to say; returns its lines."""
        return self._shown.add(renderable, self.output.get_size().columns)

    def _lines(self, renderable: RenderableType, width: int) -> list[Line]:
        return render(renderable, width, self._theme(), self._depth != ColorDepth.DEPTH_1_BIT, KEPT)

    def typed(self, line: str) -> None:
        """Show the line that is run."""
        self.show(Text(self._prompt, style="bold").append(continued(line, self._prompt)))

    def printed(self, text: str) -> None:
        """Note that the program prints on the first screen; it is to be seen on this one as well."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.show(Text(line or " "))

    def said(self, text: str) -> None:
        """Note that the program has printed something: shown here, and on the first screen when one goes back to it."""
        if self.output.inside:
            self._held.append(text)
        else:
            sys.stdout.write(text)
        self.show(Text(text.rstrip("\n")))

    def leave(self, for_now: bool = False) -> None:
        """Give the terminal back; perhaps only for now, while the program makes a step."""
        self.output.leave(for_now)
        for text in self._held:
            sys.stdout.write(text)
        self._held.clear()
        sys.stdout.flush()

    # -- the application -----------------------------------------------------------------------------------

    def _theme(self) -> Theme:
        return THEMES[self._settings["theme"]]

    def _application(self, source: Input | None) -> StandingApplication:
        application = StandingApplication(
            layout=self._screens.layout,
            key_bindings=merge_key_bindings([load_auto_suggest_bindings(), self._keys()]),
            full_screen=True,
            input=source,
            output=self.output,
            color_depth=self._depth,
            style=DynamicStyle(lambda: STYLES[self._settings["theme"]]),
            mouse_support=Condition(lambda: bool(self._settings["mouse"] == "on")),
        )
        application.ttimeoutlen = ESCAPE
        application.after_render += lambda _: self._screens.drawn()
        return application

    def _keys(self) -> KeyBindingsBase:
        keys = KeyBindings()
        screens = self._screens
        typing = has_focus(self._buffer)
        keys.add("f3")(lambda event: screens.picture())
        for key in ("f2", "s-tab"):
            keys.add(key)(lambda event: screens.next_pane())
        keys.add("tab", filter=~typing)(lambda event: screens.next_pane())
        keys.add("escape", filter=~typing, eager=True)(lambda event: screens.to_prompt())
        keys.add("pageup", filter=typing)(lambda event: screens.output.scroll(-5))
        keys.add("pagedown", filter=typing)(lambda event: screens.output.scroll(5))

        @keys.add("c-c", filter=typing)
        def _(event: KeyPressEvent) -> None:
            event.app.exit(exception=KeyboardInterrupt)

        keys.add("c-c", filter=~typing)(lambda event: screens.to_prompt())

        @keys.add("c-d", filter=typing & Condition(lambda: not self._buffer.text))
        def _(event: KeyPressEvent) -> None:
            event.app.exit(exception=EOFError)

        @keys.add("c-l")
        def _(event: KeyPressEvent) -> None:
            event.app.renderer.clear()

        asked = partial(asked_by_key, self._interpreter)
        own = bindings(self._interpreter.table, self._settings, lambda event, line: self.run_line(line), asked=asked)
        return merge_key_bindings([own, keys])

    def run_line(self, line: str) -> None:
        """Run the line that a key or a click stands for, shown as if it had been typed; what one was typing comes back
        afterwards."""
        if self._app.is_running and not self._app.is_done:
            self._typed = self._buffer.text
            self._app.exit(result=line)

    def _accept(self, buffer: Buffer) -> bool:
        self._app.exit(result=buffer.text)
        return False
