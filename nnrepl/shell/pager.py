"""Pager: long output a screen at a time. Lines are made when they are shown, not before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from prompt_toolkit.application import Application
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.styles import DynamicStyle

from nnrepl.shell.colours import STYLES
from nnrepl.shell.terminal import in_event_loop

T = TypeVar("T")
PAGE, LINE, ALL, STOP = "page", "line", "all", "stop"
_TEXT = " more: Space a page, Enter a line, a all, q no more "
_KEYS = {
    PAGE: (" ", "pagedown", "f", "c-f"),
    LINE: ("enter", "down", "j"),
    ALL: ("a", "G", "end"),
    STOP: ("q", "c-c", "c-d", "escape", "Q"),
}


def ask(theme: str) -> str:
    """Ask how to go on: one key."""
    keys = KeyBindings()
    for answer, pressed in _KEYS.items():
        for key in pressed:

            @keys.add(key, eager=True)
            def _(event: KeyPressEvent, answer: str = answer) -> None:
                event.app.exit(result=answer)

    line = Window(FormattedTextControl([("class:bottom-toolbar", _TEXT)], focusable=True), height=1)
    app: Application[str] = Application(
        layout=Layout(line), key_bindings=keys, erase_when_done=True, style=DynamicStyle(lambda: STYLES[theme])
    )
    return app.run(in_thread=in_event_loop())


def paged(lines: Iterable[T], height: int, theme: str) -> Iterator[T]:
    """Yield the lines that the user wants to see."""
    room = page = max(height - 2, 1)
    for line in lines:
        if not room:
            answer = ask(theme)
            if answer == STOP:
                return
            room = {PAGE: page, LINE: 1, ALL: -1}[answer]
        room -= 1
        yield line
