"""Key bar: the last line of the full screen: the keys that do something now, each to be clicked as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.utils import get_cwidth


class Key(NamedTuple):
    """A key, and what it does; the higher its rank, the sooner it goes when there is no room.

    Attributes:
        command: What a click runs; "" for what only the key can do.
    """

    key: str
    does: str
    rank: int
    command: str = ""


AT_PROMPT = (
    Key("F8", "step", 0, "step"),
    Key("F7", "back", 0, "reverse-step"),
    Key("F9", "line", 2, "next"),
    Key("F6", "line back", 5, "reverse-next"),
    Key("F5", "run", 1, "continue"),
    Key("F3", "picture", 4, "picture"),
    Key("F2", "pane", 3, "pane"),
    Key("?", "keys", 1, "help keys"),
)
IN_PANE = (
    Key("↑↓", "move", 0),
    Key("Enter", "look", 0, "enter"),
    Key("Space", "go", 1, "click"),
    Key("b", "break", 1, "stop"),
    Key("t", "until", 3, "until"),
    Key("F2", "pane", 2, "pane"),
    Key("Esc", "prompt", 1, "prompt"),
    Key("F8", "step", 3, "step"),
    Key("F7", "back", 4, "reverse-step"),
)


def fragments(keys: Sequence[Key], width: int, run: Callable[[str], None]) -> StyleAndTextTuples:
    """As many keys as fit into a width, the most wanted ones."""
    shown = list(keys)
    while shown and sum(_width(key) for key in shown) > width:
        last = max(shown, key=lambda key: key.rank)
        shown = [key for key in shown if key is not last]
    pieces: StyleAndTextTuples = []
    for key in shown:
        clicked = _handler(key.command, run)
        pieces += [("class:key", f" {key.key}", clicked), ("class:key.does", f" {key.does} ", clicked)]
    return pieces


def _width(key: Key) -> int:
    return get_cwidth(key.key) + get_cwidth(key.does) + 3


def _handler(command: str, run: Callable[[str], None]) -> Callable[[MouseEvent], object]:
    def clicked(event: MouseEvent) -> object:
        if event.event_type != MouseEventType.MOUSE_UP or not command:
            return NotImplemented
        run(command)
        return None

    return clicked
