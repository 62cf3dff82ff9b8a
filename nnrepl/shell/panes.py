"""Panes: rich renderables in the windows of prompt-toolkit, with hands: keys, the wheel, clicks."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from prompt_toolkit.application import get_app
from prompt_toolkit.data_structures import Point
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import UIContent, UIControl
from prompt_toolkit.mouse_events import MouseButton, MouseEvent, MouseEventType
from prompt_toolkit.utils import get_cwidth
from rich.color import Color, ColorType
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.theme import Theme

from nnrepl.learn.glossary import word_at
from nnrepl.view.content import Content, Item, command_at
from nnrepl.view.glyphs import without_codes

if TYPE_CHECKING:
    from prompt_toolkit.key_binding.key_bindings import NotImplementedOrNone

Line = list[Segment]

MOST = 5000
"""What takes as many lines as it needs has at most so many."""
WHEEL = 3

_NAMES = (
    "ansiblack", "ansired", "ansigreen", "ansiyellow", "ansiblue", "ansimagenta", "ansicyan", "ansigray",
    "ansibrightblack", "ansibrightred", "ansibrightgreen", "ansibrightyellow", "ansibrightblue", "ansibrightmagenta",
    "ansibrightcyan", "ansiwhite",
)  # fmt: skip


@lru_cache(maxsize=4096)
def style_text(style: Style | None) -> str:
    """Return a rich style as prompt-toolkit writes it."""
    if style is None:
        return ""
    words = [name for name in ("bold", "italic", "underline", "reverse") if getattr(style, name)]
    words += [f"fg:{_colour(style.color)}"] if style.color is not None and not style.color.is_default else []
    words += [f"bg:{_colour(style.bgcolor)}"] if style.bgcolor is not None and not style.bgcolor.is_default else []
    return " ".join(words)


def _colour(colour: Color) -> str:
    if colour.type in (ColorType.STANDARD, ColorType.WINDOWS) and colour.number is not None:
        return _NAMES[colour.number]
    return colour.get_truecolor().hex


def fragments(line: Line) -> StyleAndTextTuples:
    """Return a line of rich as prompt-toolkit writes it."""
    return [(style_text(segment.style), segment.text) for segment in line if not segment.control]


def render(
    renderable: RenderableType, width: int, theme: Theme, colours: bool, most: int, height: int | None = None
) -> list[Line]:
    """At most so many lines of something, at a width.

    Args:
        height: How many lines there are for it; a picture is drawn as large as fits.
    """
    console = Console(
        file=io.StringIO(), width=max(width, 1), height=height, theme=theme, highlight=False, markup=False, emoji=False,
        force_terminal=True, color_system="truecolor" if colours else None, no_color=not colours,
    )  # fmt: skip
    shown: list[Line] = []
    for line in Segment.split_lines(without_codes(console.render(renderable, console.options.update(height=None)))):
        if len(shown) >= most:
            break
        shown.append(line)
    return shown


class Pane(UIControl):
    """A window's content, laid out again only when the content or the room has changed, or one moves in it.

    Args:
        content: Gives what is to be shown now; the same object as long as nothing has changed.
        theme: Gives the colours.
        colours: Whether there are any.
        run: Runs a command for a key or a click.
    """

    def __init__(
        self,
        content: Callable[[], Content | None],
        theme: Callable[[], Theme],
        colours: bool,
        run: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._content = content
        self._theme = theme
        self._colours = colours
        self._run = run
        self._key: object = None
        self._top: int | None = None
        self._mark: int | None = None
        self._right = 0
        self._first, self._count, self._width, self._height = 0, 0, 1, 1
        self._known: tuple[object, ...] = ()
        self._lines: list[StyleAndTextTuples] = []
        self._items: list[Item | None] = []
        self._flow: tuple[tuple[object, ...], list[StyleAndTextTuples], list[Item | None]] = ((), [], [])
        self._bindings = self._keys()

    # -- what is seen --------------------------------------------------------------------------------------

    def create_content(self, width: int, height: int) -> UIContent:
        """Return the lines for a window of some size."""
        content = self._content()
        focused = get_app().layout.current_control is self
        if content is None or height < 1:
            return UIContent(lambda number: [], 0, show_cursor=False)
        if content.key != self._key:
            self._key, self._top, self._mark, self._right = content.key, None, None, 0
        known = (content, content.key, width, height, id(self._theme()), self._top, self._mark, self._right, focused)
        if known != self._known:
            self._known = known
            self._width, self._height = width, height
            self._lay_out(content, width, height, focused)
        shown = self._lines
        return UIContent(lambda number: shown[number], len(shown), show_cursor=False)

    def _lay_out(self, content: Content, width: int, height: int, focused: bool) -> None:
        count = content.count(width)
        if count is None:
            lines, items = self._flowing(content, width, height)
            self._count = count = len(lines)
        self._count = count
        self._first = self._begin(content, count, height, focused)
        if content.count(width) is None:
            lines, items = lines[self._first : self._first + height], items[self._first : self._first + height]
        else:
            lines, items = self._rows(content, width, height)
        self._items = items
        at = None if self._mark is None else self._mark - self._first
        self._lines = [
            marked(line, width, self._colours) if focused and number == at else line
            for number, line in enumerate(lines)
        ]

    def _begin(self, content: Content, count: int, height: int, focused: bool) -> int:
        """Return the first line that is seen: where the user has moved, with the mark in view."""
        last = max(count - height, 0)
        top = min(self._top, last) if self._top is not None else min(content.home(count, height), last)
        if focused and self._mark is None:
            self._mark = content.chosen()
        if self._mark is not None:
            self._mark = max(min(self._mark, count - 1), 0)
            if focused and self._top is None:
                top = max(min(top, self._mark), self._mark - height + 1)
        return max(top, 0)

    def _flowing(self, content: Content, width: int, height: int) -> tuple[list[StyleAndTextTuples], list[Item | None]]:
        known = (content, content.key, width, height, id(self._theme()))
        if known != self._flow[0]:
            lines: list[StyleAndTextTuples] = []
            items: list[Item | None] = []
            for part in content.parts(0, width, height, 0):
                shown = render(part.shown, width, self._theme(), self._colours, MOST, height)
                lines += [fragments(line) for line in shown]
                items += [part.item] * len(shown)
            self._flow = (known, lines[-MOST:], items[-MOST:])
        return self._flow[1], self._flow[2]

    def _rows(self, content: Content, width: int, height: int) -> tuple[list[StyleAndTextTuples], list[Item | None]]:
        parts = content.parts(self._first, width, height, self._right)[:height]
        lines = [render(part.shown, width, self._theme(), self._colours, 1, height) for part in parts]
        return [fragments(line[0]) if line else [] for line in lines], [part.item for part in parts]

    # -- hands ---------------------------------------------------------------------------------------------

    def is_focusable(self) -> bool:
        """Keys may go here."""
        return True

    def get_key_bindings(self) -> KeyBindings:
        """Those of a pane that has the focus."""
        return self._bindings

    def mouse_handler(self, mouse_event: MouseEvent) -> NotImplementedOrNone:
        """Return the wheel moves what is under it; a click does what the line stands for."""
        if mouse_event.event_type == MouseEventType.SCROLL_DOWN:
            self.scroll(WHEEL)
        elif mouse_event.event_type == MouseEventType.SCROLL_UP:
            self.scroll(-WHEEL)
        elif mouse_event.event_type == MouseEventType.MOUSE_UP and mouse_event.button != MouseButton.RIGHT:
            self._clicked(mouse_event.position)
        else:
            return NotImplemented
        return None

    def _clicked(self, at: Point) -> None:
        if not 0 <= at.y < len(self._items):
            return
        self._mark = self._first + at.y
        text = "".join(piece[1] for piece in self._lines[at.y])
        item = self._items[at.y]
        command = item.click if item is not None else command_at(text, at.x) or _help_at(text, at.x)
        if command:
            self._run(command)

    def scroll(self, lines: int) -> None:
        """See lines further down, or up."""
        self._top = max(min(self._first + lines, self._count - self._height), 0)

    def move(self, lines: int) -> None:
        """Move the mark, and what is seen with it where it comes to the end."""
        mark = self._mark = max(min(self._marked() + lines, self._count - 1), 0)
        self._top = max(min(self._first, mark), mark - self._height + 1)

    def _marked(self) -> int:
        """Return the line on which the mark stands, drawn already or not."""
        content = self._content()
        if self._mark is None and content is not None:
            self._mark = max(min(content.chosen(), self._count - 1), 0)
        return self._mark or 0

    def sideways(self, columns: int) -> None:
        """See columns further to the right, or left."""
        self._right += columns

    def act(self, what: str) -> None:
        """Do what a key stands for on the marked line."""
        content, at = self._content(), self._marked() - self._first
        if content is not None and not 0 <= at < len(self._items):  # moved since it was drawn
            self._lay_out(content, self._width, self._height, True)
            at = self._marked() - self._first
        if not 0 <= at < len(self._items):
            return
        item = self._items[at]
        text = "".join(piece[1] for piece in self._lines[at])
        if item is not None:
            command = getattr(item, what)
        else:
            command = command_at(text) or _help_at(text) if what in ("click", "enter") else ""
        if command:
            self._run(command)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        moves = {"up": -1, "down": 1, "home": -(1 << 40), "end": 1 << 40}
        for key, lines in moves.items():
            keys.add(key)(lambda event, lines=lines: self.move(lines))
        keys.add("pageup")(lambda event: self.move(1 - self._height))
        keys.add("pagedown")(lambda event: self.move(self._height - 1))
        keys.add("left")(lambda event: self.sideways(-8))
        keys.add("right")(lambda event: self.sideways(8))
        for key, what in {"enter": "enter", " ": "click", "b": "stop", "t": "until"}.items():
            keys.add(key)(lambda event, what=what: self.act(what))

        @keys.add(Keys.Any, filter=Condition(lambda: get_app().key_processor.arg is None))
        def _(event: KeyPressEvent) -> None:
            """Anything else is typed at the prompt."""
            if len(event.data) == 1 and event.data.isprintable():
                event.app.layout.focus("DEFAULT_BUFFER")
                event.app.current_buffer.insert_text(event.data)

        return keys


def _help_at(text: str, column: int | None = None) -> str:
    """Return the command for the ? beside a word of the trade."""
    word = word_at(text, column)
    return "" if word is None else f"help {word.name}"


def marked(line: StyleAndTextTuples, width: int, colours: bool) -> StyleAndTextTuples:
    """Return the line on which the user stands, from edge to edge."""
    length = sum(get_cwidth(piece[1]) for piece in line)
    mark = "class:marked" if colours else "reverse"
    shown: StyleAndTextTuples = [(f"{piece[0]} {mark}", piece[1]) for piece in line]
    return [*shown, (mark, " " * max(width - length, 0))]
