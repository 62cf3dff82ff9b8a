"""Awaited: a line of the program's that is about to run, before which something is to be done.

Between two ops only Python itself tells which line comes next: it is traced for that stretch, and no longer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any

from nnrepl.record.recorder import MUTED, current


class Awaited:
    """A line of a function that is awaited.

    Args:
        code: The function's.
        line: The first line of the statement.
        held: Numbers and texts that variables of the function hold at that time: the line may come in turns of a loop
            that are not meant.
        before: How often Python comes by it before.

    Attributes:
        code, line, held: As given.
    """

    def __init__(self, code: CodeType, line: int, held: Mapping[str, Any], before: int = 0) -> None:
        self._skip = self._before_it = before
        self.code = code
        self.line = line
        self.held = held
        self._then: Callable[[], None] | None = None
        self._frames: dict[FrameType, Any] = {}
        self._before: Any = None

    def again(self, before: int) -> Awaited:
        """Return what waits for it in another run of the function, where Python comes by it so often before."""
        return Awaited(self.code, self.line, self.held, before)

    def arm(self, then: Callable[[], None]) -> None:
        """Wait for the line, and call `then` before it runs."""
        if self._then is not None:
            return
        self._then, self._before, self._skip = then, sys.gettrace(), self._before_it
        # `settrace` tells of calls that begin; one that runs already has to be told to trace itself.
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code == self.code:  # others may trace it, who are told as before
                self._frames[frame] = frame.f_trace
                frame.f_trace = self._came
            frame = frame.f_back
        sys.settrace(self._entered)

    def disarm(self) -> None:
        """Wait no longer."""
        if self._then is not None:
            sys.settrace(self._before)
            for frame, others in self._frames.items():
                frame.f_trace = others
        self._then = None
        self._frames.clear()

    def _is_meant(self, variables: Mapping[str, Any]) -> bool:
        return all(variables.get(name) == thing for name, thing in self.held.items())

    def _entered(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._came if frame.f_code == self.code else None

    def _came(self, frame: FrameType, event: str, _: Any) -> Any:
        then, others = self._then, self._frames.get(frame)
        if others is not None:
            others(frame, event, _)
        if then is None:
            return others
        recorder = current()
        if recorder is not None and recorder.mode == MUTED:
            return self._came  # MLX traces a compiled function once more, after its call has been recorded
        variables = frame.f_locals  # held on to: before 3.13 the frame gets back what is in it, so nobody may clear it
        if event == "line" and frame.f_lineno == self.line and self._is_meant(variables):
            if self._skip:
                self._skip -= 1
                return self._came
            then()
            del variables
            return others
        return self._came
