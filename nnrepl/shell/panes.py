"""Panes: rich renderables in the windows of prompt-toolkit."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import UIContent, UIControl
from rich.color import Color, ColorType
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.theme import Theme

from nnrepl.view.scene import Content

Line = list[Segment]

_NAMES = (
    "ansiblack", "ansired", "ansigreen", "ansiyellow", "ansiblue", "ansimagenta", "ansicyan", "ansigray",
    "ansibrightblack", "ansibrightred", "ansibrightgreen", "ansibrightyellow", "ansibrightblue", "ansibrightmagenta",
    "ansibrightcyan", "ansiwhite",
)  # fmt: skip


@lru_cache(maxsize=4096)
def style_text(style: Style | None) -> str:
    """A rich style as prompt-toolkit writes it."""
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
    """A line of rich as prompt-toolkit writes it."""
    return [(style_text(segment.style), segment.text) for segment in line if not segment.control]


def render(renderable: RenderableType, width: int, theme: Theme, colours: bool, most: int) -> list[Line]:
    """At most so many lines of something, at a width."""
    console = Console(
        file=io.StringIO(), width=max(width, 1), theme=theme, highlight=False, markup=False, emoji=False,
        force_terminal=True, color_system="truecolor" if colours else None, no_color=not colours,
    )  # fmt: skip
    shown: list[Line] = []
    for line in Segment.split_lines(console.render(renderable, console.options)):
        if len(shown) >= most:
            break
        shown.append(line)
    return shown


class Pane(UIControl):
    """A window's content, laid out again only when the content or the room has changed.

    Args:
        content: Gives what is to be shown now; the same object as long as nothing has changed.
        theme: Gives the colours.
        colours: Whether there are any.
    """

    def __init__(self, content: Callable[[], Content | None], theme: Callable[[], Theme], colours: bool) -> None:
        self._content = content
        self._theme = theme
        self._colours = colours
        self._known: tuple[object, ...] = ()
        self._shown: list[StyleAndTextTuples] = []

    def create_content(self, width: int, height: int) -> UIContent:
        """The lines for a window of some size."""
        content = self._content()
        known = (content, width, height, id(self._theme()))
        if known != self._known:
            lines: list[Line] = []
            if content is not None:
                lines = render(content.lines(width, height), width, self._theme(), self._colours, height)
            self._known, self._shown = known, [fragments(line) for line in lines]
        shown = self._shown
        return UIContent(lambda number: shown[number], len(shown), show_cursor=False)

    def is_focusable(self) -> bool:
        """Nothing is typed here."""
        return False
