"""Face: what shows itself: by `str()`, to rich on any console, and in a notebook.

How it looks is drawn on a higher floor (`nnrepl.shell.faces`), which enters its artist here. `repr()` stays short and
computes nothing: the panes of editors call it on everything there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Artist(Protocol):
    """Draws what has a face."""

    def text(self, thing: Any) -> str:
        """As plain text."""

    def html(self, thing: Any) -> str:
        """As HTML for a notebook."""

    def segments(self, thing: Any, console: Any, options: Any) -> Any:
        """As the pieces that rich prints on a console."""


_makers: list[Callable[[], Artist]] = []
_artists: list[Artist] = []


def draw_with(make: Callable[[], Artist]) -> None:
    """From now on, this gives the one who draws; it is asked when something is to be drawn for the first time."""
    _makers[:] = [make]
    _artists.clear()


def _artist() -> Artist | None:
    if not _artists and _makers:
        _artists.append(_makers[0]())
    return _artists[0] if _artists else None


class Face:
    """Something that shows itself."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        cls._repr_pretty_ = Face._repr_pretty_  # type: ignore[method-assign]  # IPython takes a class's own __repr__ first

    def _shown(self) -> Any:
        """Return what is drawn for it."""
        return self

    def __str__(self) -> str:
        artist = _artist()
        return repr(self) if artist is None else artist.text(self._shown())

    def __rich_console__(self, console: Any, options: Any) -> Any:
        artist = _artist()
        yield from (repr(self),) if artist is None else artist.segments(self._shown(), console, options)

    def _repr_html_(self) -> str:
        artist = _artist()
        return "" if artist is None else artist.html(self._shown())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show it at IPython's prompt."""
        printer.text(repr(self) if cycle else str(self))
