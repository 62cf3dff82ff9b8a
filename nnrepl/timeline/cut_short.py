"""Cut short: a part of a program that Ctrl-C has ended between two ops ends there again where it runs again, or it
would never come to its end (`while True: pass`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from nnrepl.classes import dataclass


@dataclass(slots=True)
class CutShort:
    """Where a part of a program was when Ctrl-C ended it.

    Attributes:
        place: The code, as it is known in another run of the same source, and the line.
        again: What has ended it there once more; None if nothing has.
    """

    place: tuple[str, str, int, int]
    again: KeyboardInterrupt | None = None


def cut_by(error: KeyboardInterrupt) -> CutShort:
    """Return where Ctrl-C has struck: in what is not nnrepl's own."""
    trace, place = error.__traceback__, ("", "", 0, 0)
    while trace is not None:
        if not str(trace.tb_frame.f_globals.get("__name__")).startswith("nnrepl."):
            place = _place(trace.tb_frame.f_code, trace.tb_lineno)
        trace = trace.tb_next
    return CutShort(place)


def _place(code: CodeType, line: int) -> tuple[str, str, int, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno, line


@contextmanager
def cut_again(cut: CutShort, done: Callable[[], bool]) -> Iterator[None]:
    """Inside, the program is ended at the line where it was ended before, once it has done all that it had done.

    Args:
        done: Whether it has.
    """
    cut.again = None

    def called(frame: FrameType, event: str, _: Any) -> Any:
        return at_line if _place(frame.f_code, cut.place[-1]) == cut.place else None

    def at_line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and frame.f_lineno == cut.place[-1] and done():
            cut.again = KeyboardInterrupt()
            raise cut.again
        return at_line

    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield
    finally:
        sys.settrace(before)
