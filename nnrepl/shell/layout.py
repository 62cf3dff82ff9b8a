"""Layout: where the panes of the full screen stand, at each size of the terminal, and which of them has the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.filters import Condition, Filter
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import (
    AnyContainer,
    AnyDimension,
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
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import SearchToolbar
from rich.theme import Theme

from nnrepl.commands.interpreter import Interpreter
from nnrepl.session.session import TapeSession
from nnrepl.shell import keybar
from nnrepl.shell.colours import LineLexer
from nnrepl.shell.panes import Pane
from nnrepl.shell.scrollback import Output
from nnrepl.shell.toolbar import Toolbar
from nnrepl.view.content import Content

if TYPE_CHECKING:
    from nnrepl.shell.scenes import Seen

ROOMY, HIGH, WIDE, TALL = 70, 16, 160, 36
"""From so many columns there are two panes side by side; from so many lines there are panes; from so many columns three
stand in a row; from so many lines there is room for the curves beside the displays."""


class Screens:
    """The windows.

    Args:
        interpreter: Whose session is shown.
        seen: What is seen, pane by pane.
        shown: What commands have shown.
        buffer: Where one types, behind `prompt`.
        theme, colours: The colours, and whether there are any.
        run: Runs a line for a key or a click.
        size: Gives the size of the terminal.
    """

    def __init__(
        self, interpreter: Interpreter, seen: Seen, shown: Output, buffer: Buffer, prompt: Callable[[], str],
        theme: Callable[[], Theme], colours: bool, run: Callable[[str], None], size: Callable[[], Size],
    ) -> None:  # fmt: skip
        self._interpreter = interpreter
        self._settings = interpreter.session.settings
        self._seen = seen
        self._buffer = buffer
        self._prompt = prompt
        self._run = run
        self._size = size
        self._toolbars: dict[TapeSession, Toolbar] = {}

        def make(content: Callable[[], Content | None]) -> Pane:
            return Pane(content, theme, colours, run)

        self.source = make(lambda: seen.source)
        self.ops = make(lambda: seen.ops)
        self.tensors = make(lambda: seen.tensors)
        self.displays = make(lambda: seen.displays)
        self.training = make(lambda: seen.training)
        self.output = make(lambda: shown)
        self.layout = self._layout(interpreter)

    @property
    def _session(self) -> TapeSession:
        """The session that is looked at: that of the program, or one inside of an op."""
        return self._interpreter.session

    # -- focus ---------------------------------------------------------------------------------------------

    def next_pane(self) -> None:
        """Give the keys to the next pane that is seen, and after the last one to the prompt."""
        panes = [pane for pane in self._panes() if pane in self._visible()]
        now = get_app().layout.current_control
        at = panes.index(now) + 1 if now in panes else 0
        if at < len(panes):
            get_app().layout.focus(panes[at])
        else:
            self.to_prompt()

    def to_prompt(self) -> None:
        """Give the keys to the line that one types."""
        get_app().layout.focus(self._buffer)

    def drawn(self) -> None:
        """Note that the screen has been drawn: a pane for which it has become too small has the keys no longer."""
        now = get_app().layout.current_control
        if isinstance(now, Pane) and now not in self._visible():
            self.to_prompt()
            get_app().invalidate()

    def _panes(self) -> list[Pane]:
        return [self.source, self.ops, self.tensors, self.displays, self.training, self.output]

    def _visible(self) -> set[object]:
        return {window.content for window in get_app().layout.visible_windows}

    def picture(self) -> None:
        """Show tensors as pictures, or as numbers again."""
        other = "numbers" if self._settings["tensors"] == "heatmap" else "heatmap"
        self._run(f"config tensors {other}")

    def _key_pressed(self, name: str) -> None:
        """Do what a click on the key bar does."""
        now = get_app().layout.current_control
        if name == "pane":
            self.next_pane()
        elif name == "prompt":
            self.to_prompt()
        elif name == "picture":
            self.picture()
        elif name in ("click", "enter", "stop", "until"):
            if isinstance(now, Pane):
                now.act(name)
        else:
            self._run(name)

    # -- windows -------------------------------------------------------------------------------------------

    def _columns(self) -> int:
        return self._size().columns

    def _pane(self, pane: Pane, title: Callable[[], str], size: AnyDimension) -> AnyContainer:
        def clicked(event: MouseEvent) -> object:
            if event.event_type != MouseEventType.MOUSE_UP:
                return NotImplemented
            get_app().layout.focus(pane)
            return None

        def heading() -> StyleAndTextTuples:
            focused = get_app().layout.current_control is pane
            style = "class:frame.focused" if focused else "class:frame.title"
            return [("class:frame.line", "── ", clicked), (style, title(), clicked), ("", " ", clicked)]

        line = Window(FormattedTextControl(heading), height=1, char="─", style="class:frame.line")
        return HSplit([line, Window(pane)], height=size, width=size)

    def _layout(self, interpreter: Interpreter) -> Layout:
        weight = Dimension(weight=1)
        roomy = Condition(lambda: self._columns() >= ROOMY)
        high = Condition(lambda: self._size().rows >= HIGH)
        displaying = Condition(lambda: bool(self._session.displays))
        curves = Condition(self._curves)
        seen = self._seen
        source = self._pane(self.source, lambda: seen.source.title if seen.source else "source", weight)
        ops = self._pane(self.ops, lambda: seen.ops.title, weight)
        tensors = self._pane(self.tensors, lambda: f"tensors as {self._settings['tensors']}", weight)
        displays = self._pane(self.displays, lambda: "displays", weight)
        training = self._pane(self.training, lambda: "loss and gradients", weight)
        bar = Window(width=1, char="│", style="class:frame.line")
        above = VSplit([source, self._if(roomy, VSplit([bar, ops], width=weight))], height=weight)
        side = HSplit(
            [
                self._if(displaying & ~self._three, displays),
                self._if(curves, training),
            ],
            width=weight,
        )
        middle = VSplit(
            [
                tensors,
                self._if(roomy & displaying & self._three, VSplit([bar, displays], width=weight)),
                self._if(roomy & (curves | (displaying & ~self._three)), VSplit([bar, side], width=weight)),
            ],
            height=weight,
        )
        shown = self._pane(self.output, lambda: "output", lambda: Dimension(weight=2 if self._teaches() else 1))
        search = SearchToolbar()
        typing = self._typing(interpreter, search)
        body = HSplit(
            [
                self._if(high, above),
                self._if(high & ~Condition(self._teaches), middle),
                shown,
                typing,
                search,
                self._status(),
                self._bar(),
            ]
        )
        menu = Float(CompletionsMenu(max_height=8, scroll_offset=1), xcursor=True, ycursor=True)
        return Layout(FloatContainer(body, [menu]), focused_element=typing)

    @property
    def _three(self) -> Condition:
        """Whether three panes stand in a row."""
        return Condition(lambda: self._columns() >= WIDE)

    def _curves(self) -> bool:
        """Whether there is room for the loss and the gradients."""
        return not self._session.displays or self._columns() >= WIDE or self._size().rows >= TALL

    def _teaches(self) -> bool:
        """Whether a lesson needs the room in which tensors are seen: what it says is read, and it prints them."""
        return self._interpreter.player is not None and self._size().rows < TALL

    @staticmethod
    def _if(condition: Filter, inside: AnyContainer) -> AnyContainer:
        return ConditionalContainer(inside, condition)

    def _typing(self, interpreter: Interpreter, search: SearchToolbar) -> Window:
        return Window(
            BufferControl(
                self._buffer,
                lexer=LineLexer(interpreter.table),
                input_processors=[BeforeInput(self._prompt, style="class:prompt"), AppendAutoSuggestion()],
                search_buffer_control=search.control,
                preview_search=True,
            ),
            height=lambda: Dimension.exact(min(max(self._buffer.document.line_count, 1), 8)),
            wrap_lines=True,
        )

    def _status(self) -> Window:
        def fragments() -> StyleAndTextTuples:
            session = self._session
            if session not in self._toolbars:
                self._toolbars = {session: Toolbar(session)}
            return self._toolbars[session].fragments(self._columns())

        return Window(FormattedTextControl(fragments), height=1, style="class:bottom-toolbar")

    def _bar(self) -> Window:
        def fragments() -> StyleAndTextTuples:
            keys = keybar.IN_PANE if isinstance(get_app().layout.current_control, Pane) else keybar.AT_PROMPT
            shown = keybar.fragments(keys, self._columns(), self._key_pressed)
            said = " Shift+drag selects text " if self._settings["mouse"] == "on" else ""
            room = self._columns() - sum(get_cwidth(piece[1]) for piece in shown)
            return [*shown, ("class:key.does", said.rjust(room))] if said and room >= len(said) + 2 else shown

        return Window(FormattedTextControl(fragments), height=1, style="class:key.does")
