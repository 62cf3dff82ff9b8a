"""Equations: lines of arithmetic; one that is too long goes on under its right-hand side."""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

_DEEPEST = 0.4
_EARLIEST = 0.6


class LongLine:
    """One line of arithmetic.

    Args:
        line: `y[0] = a[0] · b[0] + a[1] · b[1]`, or one that continues it, `= 3 + 4`, with its indent.
    """

    def __init__(self, line: str) -> None:
        self.line = line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(20, options.max_width), min(cell_len(self.line), options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in broken(self.line, options.max_width):
            yield Text(part)


def broken(line: str, width: int) -> list[str]:
    """Return a line in pieces that fit; what goes on stands under the right-hand side, unless that lies far to the
    right."""
    if cell_len(line) <= width:
        return [line]
    start = min((at for sign in ("← ", "= ") if (at := line.find(sign)) >= 0), default=-1)
    indent = start + 2 if 0 <= start <= width * _DEEPEST else 4
    pieces = []
    rest, room = line, width
    while cell_len(rest) > room:
        at = _break(rest, room)
        pieces.append(rest[:at].rstrip())
        rest, room = rest[at:].lstrip(), width - indent
    pieces.append(rest)
    return [pieces[0], *(" " * indent + piece for piece in pieces[1:])]


def _may_end(rest: str) -> bool:
    """Whether a line may well end before this: before another term, and before what it all comes to."""
    return rest.startswith(("+ ", "− ", "- ")) or _is_result(rest)


def _is_result(rest: str) -> bool:
    """Whether what follows is what a formula comes to, in numbers."""
    return rest.startswith("= ") and not re.search(r"[a-z]{2}|(?<!\d)[a-z]", rest)


def _first(rest: str, room: int) -> float:
    """Return how far a line goes at least before something."""
    return room * (_DEEPEST if _is_result(rest) else _EARLIEST)


def _break(text: str, room: int) -> int:
    """Return where a line is best broken: before a definition, before a + or − in few brackets, else at a blank."""
    best: tuple[int, int] | None = None
    blank, depth, cells, fits = 0, 0, 0, 1
    for at, sign in enumerate(text):
        cells += cell_len(sign)
        if cells > room:
            break
        fits = at + 1
        depth += (sign in "([") - (sign in ")]")
        if sign != " " or not text[:at].strip():
            continue
        blank = at
        if text[:at].endswith(",") and text[at : at + 2] == "  ":
            best = (-1, at)  # before a definition
        elif _may_end(text[at + 1 :]) and at > _first(text[at + 1 :], room) and (best is None or depth <= best[0]):
            best = (depth, at)
    if best is not None:
        return best[1]
    return blank or fits
