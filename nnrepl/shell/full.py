"""Full screen: source, ops, tensors, displays, what commands show, and the prompt, in one application."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from prompt_toolkit.application import Application
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyBindingsBase, KeyPressEvent, merge_key_bindings
from prompt_toolkit.key_binding.bindings.auto_suggest import load_auto_suggest_bindings
from prompt_toolkit.layout import (
    AnyContainer,
    BufferControl,
    ConditionalContainer,
    Dimension,
    Float,
    FloatContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    VSplit,
    Window,
)  # fmt: skip
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import AppendAutoSuggestion, BeforeInput
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import DynamicStyle
from prompt_toolkit.widgets import SearchToolbar
from rich.console import Group, RenderableType
from rich.segment import Segment, Segments
from rich.text import Text
from rich.theme import Theme

from nnrepl.commands.interpreter import Interpreter
from nnrepl.shell.colours import STYLES, LineLexer
from nnrepl.shell.complete import NameCompleter, TapeIndex
from nnrepl.shell.keys import bindings, editing_mode
from nnrepl.shell.panes import Line, Pane, render
from nnrepl.shell.readers import PROMPT, continued
from nnrepl.shell.toolbar import Toolbar
from nnrepl.view.scene import Content, Fixed, OpsPane, Scenes, SourcePane
from nnrepl.view.theme import THEMES

KEPT = 5000
"""So many lines of what commands have shown can be looked at again."""


class Terminal(Vt100_Output):
    """The terminal, which stays in its second screen from one line to the next."""

    inside = False

    def enter_alternate_screen(self) -> None:
        """Go to the second screen, if one is not there."""
        if not self.inside:
            self.inside = True
            super().enter_alternate_screen()

    def quit_alternate_screen(self) -> None:
        """Stay; `leave` goes back."""

    def leave(self) -> None:
        """Go back to the first screen, as it was."""
        if self.inside:
            self.inside = False
            super().quit_alternate_screen()
            self.show_cursor()
            self.flush()


class Shown:
    """What commands have shown: the end of it, or as far back as one has moved."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self.back = 0
        self.version = 0

    def add(self, lines: Sequence[Line]) -> None:
        """Something more."""
        self._lines.extend(lines)
        self.back = 0
        self.version += 1

    def move(self, lines: int) -> None:
        """Look further back, or further on."""
        self.back = max(min(self.back + lines, len(self._lines) - 1), 0)
        self.version += 1

    def part(self, height: int) -> list[Line]:
        """As many lines as there is room for."""
        lines = list(self._lines)
        end = len(lines) - self.back
        return lines[max(end - height, 0) : end]


class FullScreen:
    """The application. It gives lines as any reader does, and shows what the shell would print.

    Args:
        interpreter: Whose session is shown.
        history: What was typed.
        index: What is known of the tape, for completion.
    """

    def __init__(self, interpreter: Interpreter, history: History, index: TapeIndex) -> None:
        self._interpreter = interpreter
        self._session = interpreter.session
        self._settings = interpreter.session.settings
        self._scenes = Scenes(interpreter.session)
        self._toolbar = Toolbar(interpreter.session)
        self._shown = Shown()
        self._typed = ""
        self._held: list[str] = []
        self._begun = ""
        self.output = cast(Terminal, Terminal.from_pty(sys.stdout, term=os.environ.get("TERM")))
        self._colours = self.output.get_default_color_depth() != ColorDepth.DEPTH_1_BIT and not os.environ.get(
            "NO_COLOR"
        )
        self._source: SourcePane | None = None
        self._ops = OpsPane(self._session)
        self._tensors: Content = Fixed(())
        self._displays: Content = Fixed(())
        self._displayed: tuple[object, ...] = ()
        self._prompt = PROMPT
        self._buffer = Buffer(
            name="DEFAULT_BUFFER", history=history, completer=NameCompleter(interpreter, index), multiline=True,
            auto_suggest=AutoSuggestFromHistory(), accept_handler=self._accept,
            complete_while_typing=Condition(lambda: bool(self._settings["complete"] == "typing")),
            enable_history_search=Condition(lambda: bool(self._settings["complete"] == "tab")),
        )  # fmt: skip
        self._app = self._application()

    # -- for the shell -------------------------------------------------------------------------------------

    def read(self, prompt: str, in_thread: bool, begin: Callable[[], None]) -> str | None:
        """The next line, None on Ctrl-D. Raises KeyboardInterrupt on Ctrl-C."""
        self._prompt = prompt
        self._look()
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
        width = self.output.get_size().columns
        lines = render(renderable, width, THEMES[self._settings["theme"]], self._colours, KEPT)
        self._shown.add(lines)
        return lines

    def typed(self, line: str) -> None:
        """Show the line that is run."""
        self.show(Text(self._prompt, style="bold").append(continued(line, self._prompt)))

    def printed(self, text: str) -> None:
        """The program prints on the first screen; it is to be seen on this one as well."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.show(Text(line or " "))

    def said(self, text: str) -> None:
        """The program has printed something: shown here, and on the first screen when one goes back to it."""
        if self.output.inside:
            self._held.append(text)
        else:
            sys.stdout.write(text)
        self.show(Text(text.rstrip("\n")))

    def leave(self) -> None:
        """Give the terminal back."""
        self.output.leave()
        for text in self._held:
            sys.stdout.write(text)
        self._held.clear()
        sys.stdout.flush()

    # -- what is seen --------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Compute what is shown of this stop: here, where the program's own thread runs."""
        displayed = (tuple(self._session.displays.items()), self._session.cursor, id(self._session.tape))
        if displayed != self._displayed:
            self._displayed = displayed
            self._displays = Fixed((Group(*self._interpreter.displays()),))
        self._source = self._scenes.source()
        self._ops = OpsPane(self._session)
        self._tensors = self._scenes.tensors()

    # -- the windows ---------------------------------------------------------------------------------------

    def _pane(self, content: Callable[[], Content | None], title: Callable[[], str], size: Dimension) -> AnyContainer:
        def heading() -> StyleAndTextTuples:
            return [("class:frame.line", "── "), ("class:frame.title", title()), ("", " ")]

        line = Window(FormattedTextControl(heading), height=1, char="─", style="class:frame.line")
        return HSplit([line, Window(Pane(content, self._theme, self._colours))], height=size, width=size)

    def _theme(self) -> Theme:
        return THEMES[self._settings["theme"]]

    def _application(self) -> Application[str]:
        roomy = Condition(lambda: self.output.get_size().columns >= 70)
        high = Condition(lambda: self.output.get_size().rows >= 16)
        displaying = Condition(lambda: bool(self._session.displays))
        weight = Dimension(weight=1)
        source = self._pane(lambda: self._source, lambda: self._source.title if self._source else "source", weight)
        ops = self._pane(lambda: self._ops, lambda: "ops", weight)
        tensors = self._pane(lambda: self._tensors, lambda: f"tensors as {self._settings['tensors']}", weight)
        displays = self._pane(lambda: self._displays, lambda: "displays", weight)
        bar = Window(width=1, char="│", style="class:frame.line")
        above = VSplit([source, ConditionalContainer(VSplit([bar, ops], width=weight), roomy)], height=weight)
        middle = VSplit(
            [tensors, ConditionalContainer(VSplit([bar, displays], width=weight), roomy & displaying)], height=weight
        )
        shown = self._pane(lambda: _Tail(self._shown), lambda: "output", weight)
        search = SearchToolbar()
        typing = Window(
            BufferControl(
                self._buffer,
                lexer=LineLexer(self._interpreter.table),
                input_processors=[BeforeInput(lambda: self._prompt, style="class:prompt"), AppendAutoSuggestion()],
                search_buffer_control=search.control,
                preview_search=True,
            ),
            height=lambda: Dimension.exact(min(max(self._buffer.document.line_count, 1), 8)),
            wrap_lines=True,
        )
        toolbar = Window(
            FormattedTextControl(lambda: self._toolbar.fragments(self.output.get_size().columns)),
            height=1,
            style="class:bottom-toolbar",
        )
        body = HSplit(
            [ConditionalContainer(above, high), ConditionalContainer(middle, high), shown, typing, search, toolbar]
        )
        menu = Float(CompletionsMenu(max_height=8, scroll_offset=1), xcursor=True, ycursor=True)
        return Application(
            layout=Layout(FloatContainer(body, [menu]), focused_element=typing),
            key_bindings=merge_key_bindings([load_auto_suggest_bindings(), self._keys()]),
            full_screen=True,
            output=self.output,
            style=DynamicStyle(lambda: STYLES[self._settings["theme"]]),
            mouse_support=Condition(lambda: bool(self._settings["mouse"] == "on")),
        )

    def _keys(self) -> KeyBindingsBase:
        keys = KeyBindings()

        @keys.add("f3")
        def _(event: KeyPressEvent) -> None:
            other = "numbers" if self._settings["tensors"] == "heatmap" else "heatmap"
            self._run_key(event, f"config tensors {other}")

        @keys.add("pageup")
        def _(event: KeyPressEvent) -> None:
            self._shown.move(5)

        @keys.add("pagedown")
        def _(event: KeyPressEvent) -> None:
            self._shown.move(-5)

        typing = has_focus(self._buffer)

        @keys.add("c-c", filter=typing)
        def _(event: KeyPressEvent) -> None:
            event.app.exit(exception=KeyboardInterrupt)

        @keys.add("c-d", filter=typing & Condition(lambda: not self._buffer.text))
        def _(event: KeyPressEvent) -> None:
            event.app.exit(exception=EOFError)

        @keys.add("c-l")
        def _(event: KeyPressEvent) -> None:
            event.app.renderer.clear()

        return merge_key_bindings([bindings(self._interpreter.table, self._settings, self._run_key), keys])

    def _run_key(self, event: KeyPressEvent, line: str) -> None:
        """A key stands for a line; what one was typing comes back afterwards."""
        self._typed = self._buffer.text
        event.app.exit(result=line)

    def _accept(self, buffer: Buffer) -> bool:
        self._app.exit(result=buffer.text)
        return False


class _Tail:
    """The end of what commands have shown; another object each time something was added."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._version = shown.version

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tail) and other._shown is self._shown and other._version == self._version

    def __hash__(self) -> int:
        return hash(self._version)

    def lines(self, width: int, height: int) -> RenderableType:
        """As many as there is room for."""
        return Segments([segment for line in self._shown.part(height) for segment in (*line, Segment.line())])
