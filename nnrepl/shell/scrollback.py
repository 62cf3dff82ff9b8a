"""Output: what commands have shown, on the full screen; wrapped anew when the terminal is resized."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

from rich.console import RenderableType
from rich.segment import Segments

from nnrepl.shell.panes import Line
from nnrepl.view.content import Part

KEPT = 5000
"""So many lines can be looked at again."""
_ENTRIES = 2000


class Output:
    """What commands have shown, oldest first; its end is seen, or as far back as one has moved.

    Args:
        lines: Renders something at a width.
    """

    def __init__(self, lines: Callable[[RenderableType, int], list[Line]]) -> None:
        self._render = lines
        self._entries: deque[RenderableType] = deque(maxlen=_ENTRIES)
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self._width = 0
        self._version = 0

    @property
    def key(self) -> Hashable:
        """Another one each time something was added."""
        return self._version

    def add(self, renderable: RenderableType, width: int) -> list[Line]:
        """Something more, at the width of the screen. Returns its lines."""
        lines = self._render(renderable, width)
        self._entries.append(renderable)
        if width == self._width:
            self._lines.extend(lines)
        else:
            self._wrap(width)
        self._version += 1
        return lines

    def _wrap(self, width: int) -> None:
        self._width = width
        self._lines = deque(maxlen=KEPT)
        for entry in self._entries:
            self._lines.extend(self._render(entry, width))

    def count(self, width: int) -> int | None:
        """All lines, as they are at this width."""
        if width != self._width:
            self._wrap(width)
        return len(self._lines)

    def home(self, count: int, height: int) -> int:
        """Return the end."""
        return max(count - height, 0)

    def chosen(self) -> int:
        """Return the last line."""
        return max(len(self._lines) - 1, 0)

    def parts(self, first: int, width: int, height: int, right: int) -> Sequence[Part]:
        """As many lines as there is room for."""
        lines = list(self._lines)[first : first + height]
        return [Part(Segments(line)) for line in lines]
