"""Passing: lines of the program's that make no op. Only Python itself tells when one of them has run, so the program is
traced where a stop at such a line is wanted, and only there; the stop is at the op that comes next.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

from nnrepl.session.entered import SourceLine
from nnrepl.session.goals import Goal, Until
from nnrepl.session.place import Place
from nnrepl.session.points import Condition, Within
from nnrepl.tape import Tape


class Passing:
    """Notes on a tape where the program has come to some lines."""

    def __init__(self) -> None:
        self._tape: Tape | None = None
        self._files: dict[str, frozenset[int]] = {}
        self._codes: dict[CodeType, frozenset[int]] = {}
        self._before: Any = None
        self._frames: list[FrameType] = []

    def arm(self, tape: Tape, lines: Iterable[SourceLine]) -> None:
        """From now on, note on a tape where the program comes to some lines."""
        wanted: dict[str, frozenset[int]] = {}
        for line in lines:
            wanted[line.file] = wanted.get(line.file, frozenset()) | {line.line}
        if not wanted:
            return
        self._tape, self._files, self._before = tape, wanted, sys.gettrace()
        self._codes.clear()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename in wanted and frame.f_trace is None:
                frame.f_trace = self._came
                self._frames.append(frame)
            frame = frame.f_back
        sys.settrace(self._entered)

    def disarm(self) -> None:
        """Note no more."""
        if self._tape is None:
            return
        self._tape = None
        sys.settrace(self._before)
        for frame in self._frames:
            frame.f_trace = None
        self._frames.clear()

    def _entered(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        lines = self._codes.get(code)
        if lines is None:
            there = {line for _, _, line in code.co_lines() if line is not None}
            lines = self._codes[code] = self._files.get(code.co_filename, frozenset()) & there
        return self._came if lines else None

    def _came(self, frame: FrameType, event: str, _: Any) -> Any:
        if self._tape is None:
            return None
        file, line = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and line in self._files.get(file, ()):
            found = self._tape.passed.setdefault((file, line), [])
            if len(self._tape) not in found[-1:]:
                found.append(len(self._tape))
        return self._came


def without_ops(tape: Tape, places: Iterable[Place]) -> Iterator[SourceLine]:
    """Yield the lines among some places of which no op has come so far."""
    for place in places:
        for line in lines_in(place):
            if not line.cell and not line.makes_ops(tape):
                yield line


def lines_in(place: Place) -> Iterator[SourceLine]:
    """Yield the lines of which a place speaks."""
    if isinstance(place, SourceLine):
        yield place
    elif isinstance(place, Within):
        yield from lines_in(place.outer)
        yield from lines_in(place.inner)
    elif isinstance(place, Condition) and place.place is not None:
        yield from lines_in(place.place)


def place_of(goal: Goal | None) -> list[Place]:
    """Return the place that a goal looks for."""
    return [goal.place] if isinstance(goal, Until) else []


def passed_by(place: Place, tape: Tape, at: int) -> str:
    """Return what to say of a stop at a place whose line has made no op; "" where it has made the one that comes
    next."""
    for line in lines_in(place):
        if at in tape.passed.get((line.file, line.line), ()) and (at >= len(tape) or line.begins(tape, at) is None):
            asked = f", where {place.condition} is asked" if place.condition else ""
            return (
                f"{line.title} makes no op; {'this is the next one' if at < len(tape) else 'none came after it'}{asked}"
            )
    return ""
