"""Content: what a pane of the full screen shows, and what a key or a click on each line of it stands for."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

from rich.console import RenderableType


class Item(NamedTuple):
    """What lies on a line, as the commands that are run for it; "" for none.

    Attributes:
        click: For a click.
        enter: For Enter: a look inside.
        stop: For `b`: a breakpoint there, or its end.
        until: For `t`: run to there.
    """

    click: str = ""
    enter: str = ""
    stop: str = ""
    until: str = ""


class Part(NamedTuple):
    """Something to be shown, of one line or more, and what lies there."""

    shown: RenderableType
    item: Item | None = None


class Content(Protocol):
    """What a pane shows."""

    @property
    def key(self) -> Hashable:
        """As long as this is the same, the pane stays where the user has moved it."""

    def count(self, width: int) -> int | None:
        """How many lines there are, each a part of its own; None for parts that take as many as they need."""

    def home(self, count: int, height: int) -> int:
        """Return the first line that is seen of itself, of so many, where there is room for `height`."""

    def parts(self, first: int, width: int, height: int, right: int) -> Sequence[Part]:
        """Return what is seen: the lines from `first` on, or (where parts take what they need) all there is.

        Args:
            right: How many columns one has moved to the right.
        """

    def chosen(self) -> int:
        """Return the line on which the mark stands at first."""


class Flow:
    """Parts one below the other, each with as many lines as it needs.

    Args:
        parts: All of them.
        key: See Content.
        tail: Whether the end is seen of itself, and not the beginning.
    """

    def __init__(self, parts: Sequence[Part], key: Hashable = None, tail: bool = False) -> None:
        self._parts = parts
        self._tail = tail
        self.key = key

    def count(self, width: int) -> int | None:
        """As many as the parts need."""
        return None

    def home(self, count: int, height: int) -> int:
        """Return the beginning, or the end."""
        return max(count - height, 0) if self._tail else 0

    def parts(self, first: int, width: int, height: int, right: int) -> Sequence[Part]:
        """All of them."""
        return self._parts

    def chosen(self) -> int:
        """Return the first line, or the last."""
        return 1 << 30 if self._tail else 0


_OP = re.compile(r"(?:\b(?:\d+|setup))?#\d+(?:\.\d+)?")
_LINE = re.compile(r"[\w./-]+\.py:\d+")


def command_at(text: str, column: int | None = None) -> str:
    """Return the command for what stands at a column of some text (for the first such thing, without one): an op's
    number leads to the op, a place in a file to its source."""
    for pattern, command in ((_OP, "goto"), (_LINE, "list")):
        for found in pattern.finditer(text):
            if column is None or found.start() <= column < found.end():
                return f"{command} {found[0].partition('.')[0] if pattern is _OP else found[0]}"
    return ""
