"""Consoles: where things are shown, with the signs and colours that it has."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.segment import Segment

from nnrepl.shell.in_notebook import in_notebook, notebook_console
from nnrepl.view.glyphs import encodable, fitting, without_codes
from nnrepl.view.theme import THEMES

PLAIN_WIDTH = 100


def make_console(plain: bool, theme: str = "dark") -> Console:
    """Return a console on the real standard output; without colours and control codes where there is no terminal."""
    stdout: Any = sys.stdout if sys.stdout is not None else io.StringIO()
    if in_notebook():
        return notebook_console(stdout, plain, theme)
    terminal = stdout.isatty()
    columns = os.environ.get("COLUMNS", "")
    width = None if terminal else int(columns) if columns.isdigit() and int(columns) else PLAIN_WIDTH
    plain = plain or not terminal
    return Console(
        file=cast(IO[str], _Tolerant(stdout)),
        width=width,
        color_system=None if plain else "auto",
        force_terminal=False if plain else None,
        theme=THEMES[theme],
        highlight=False,
        markup=False,
        emoji=False,
        force_jupyter=False,
    )


def make_plain(width: int, height: int, theme: str) -> Console:
    """Return a console without colours that writes nowhere."""
    return Console(
        file=io.StringIO(), width=width, height=height, color_system=None, theme=THEMES[theme], highlight=False,
        markup=False, emoji=False, _environ={},
    )  # fmt: skip


def is_painted(segment: Segment) -> bool:
    """Whether a piece of a line is a dot of a picture: its background says what it is."""
    colour = None if segment.style is None else segment.style.bgcolor
    return colour is not None and colour.triplet is not None


class _Tolerant:
    """A text stream that writes `-` and `dL/dz` where it has no sign for more, and is the given stream otherwise."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(encodable(text, getattr(self._stream, "encoding", None) or "utf-8"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lines_of(console: Console, renderable: RenderableType) -> Iterable[list[Segment]]:
    """Return the lines of something, made one after another as they are asked for."""
    if not console.encoding.startswith("utf"):
        return fitting(console, renderable)
    return Segment.split_lines(without_codes(console.render(renderable, console.options.update(height=None))))
