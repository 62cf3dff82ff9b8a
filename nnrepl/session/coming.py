"""Coming: Python tells where the program comes by: which lines it runs, which functions it enters.

From Python 3.12 on that costs only where something is awaited (`sys.monitoring`); before that the program is traced,
which costs some of its own time as long as it lasts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

Told = Callable[[FrameType, int], None]
"""Told a frame and the line that it comes to; 0 where the function has just been entered."""
Wanted = Callable[[CodeType], "frozenset[int]"]
"""Gives the lines of a function that are awaited, 0 for its entry; asked once of each."""


class Coming:
    """Tells where the program comes by, in the thread in which it was armed."""

    def __init__(self) -> None:
        self._wanted: Wanted | None = None
        self._told: Told = lambda frame, line: None
        self._lines: dict[CodeType, frozenset[int]] = {}
        self._undo: Callable[[], None] | None = None

    def arm(self, wanted: Wanted, told: Told) -> None:
        """From now on, tell where the program comes by. What `told` raises goes through the program."""
        self.disarm()
        self._wanted, self._told = wanted, told
        self._lines.clear()
        monitoring = getattr(sys, "monitoring", None)
        self._undo = self._monitor(monitoring) if monitoring is not None else None
        if self._undo is None:
            self._undo = self._trace()

    def disarm(self) -> None:
        """Tell no more."""
        undo, self._undo, self._wanted = self._undo, None, None
        if undo is not None:
            undo()

    def _of(self, code: CodeType) -> frozenset[int]:
        lines = self._lines.get(code)
        if lines is None:
            lines = self._lines[code] = frozenset() if self._wanted is None else self._wanted(code)
        return lines

    # -- by tracing ------------------------------------------------------------------------------------------

    def _trace(self) -> Callable[[], None]:
        before = sys.gettrace()
        frames: list[FrameType] = []
        for frame in _stack(sys._getframe(2)):
            if self._of(frame.f_code) and (frame.f_trace is None or frame.f_trace == self._came):
                frame.f_trace = self._came  # or it is still from the last time, when it was entered
                frames.append(frame)
        sys.settrace(self._entered)

        def undo() -> None:
            sys.settrace(before)
            for frame in frames:
                frame.f_trace = None

        return undo

    def _entered(self, frame: FrameType, event: str, _: Any) -> Any:
        lines = self._of(frame.f_code)
        if not lines:
            return None
        if 0 in lines:
            self._told(frame, 0)
        return self._came

    def _came(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and self._wanted is not None and frame.f_lineno in self._lines.get(frame.f_code, ()):
            self._told(frame, frame.f_lineno)
        return self._came

    # -- by monitoring ---------------------------------------------------------------------------------------

    def _monitor(self, monitoring: Any) -> Callable[[], None] | None:
        tool = next((tool for tool in range(3, 6) if monitoring.get_tool(tool) is None), None)
        if tool is None:
            return None  # others have taken all that there are
        events, thread = monitoring.events, get_ident()
        armed: list[CodeType] = []
        monitoring.use_tool_id(tool, "nnrepl")

        def look(code: CodeType) -> frozenset[int]:
            lines = self._of(code)
            if any(lines) and code not in armed:
                armed.append(code)
                monitoring.set_local_events(tool, code, events.LINE)
            return lines

        def entered(code: CodeType, offset: int) -> Any:
            if 0 not in look(code):
                return monitoring.DISABLE
            if get_ident() == thread:
                self._told(sys._getframe(1), 0)
            return None

        def came(code: CodeType, line: int) -> Any:
            if line not in self._lines.get(code, ()):
                return monitoring.DISABLE
            if get_ident() == thread:
                self._told(sys._getframe(1), line)
            return None

        monitoring.register_callback(tool, events.PY_START, entered)
        monitoring.register_callback(tool, events.LINE, came)
        monitoring.restart_events()
        monitoring.set_events(tool, events.PY_START)
        for frame in _stack(sys._getframe(2)):
            look(frame.f_code)

        def undo() -> None:
            monitoring.set_events(tool, 0)
            for code in armed:
                monitoring.set_local_events(tool, code, 0)
            monitoring.free_tool_id(tool)

        return undo


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def lines_of(code: CodeType) -> set[int]:
    """Return the lines of which a function's code is made."""
    return {line for _, _, line in code.co_lines() if line is not None}
