"""Face: what shows itself: by `str()`, to rich on any console, and in a notebook.

How it looks is drawn on a higher floor (`nnrepl.view.faces`), which enters its artist here. `repr()` stays short and
computes nothing: the panes of editors call it on everything there is.
"""

from __future__ import annotations

from typing import Any, Protocol


class Artist(Protocol):
    """Draws what has a face."""

    def text(self, thing: Any) -> str:
        """As plain text."""

    def html(self, thing: Any) -> str:
        """As HTML for a notebook."""

    def segments(self, thing: Any, console: Any, options: Any) -> Any:
        """As the pieces that rich prints on a console."""


_artists: list[Artist] = []


def draw_with(artist: Artist) -> None:
    """From now on, this is who draws."""
    _artists[:] = [artist]


class Face:
    """Something that shows itself."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        cls._repr_pretty_ = Face._repr_pretty_  # type: ignore[method-assign]  # IPython takes a class's own __repr__ first

    def __str__(self) -> str:
        return _artists[0].text(self) if _artists else repr(self)

    def __rich_console__(self, console: Any, options: Any) -> Any:
        yield from _artists[0].segments(self, console, options) if _artists else (repr(self),)

    def _repr_html_(self) -> str:
        return _artists[0].html(self) if _artists else ""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show it at IPython's prompt."""
        printer.text(repr(self) if cycle else str(self))
