"""Exceptions: tracebacks as plain Python would print them, without nnrepl's own frames."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any


def is_own(frame: FrameType) -> bool:
    """Whether a frame belongs to nnrepl itself."""
    name = str(frame.f_globals.get("__name__", ""))
    return name == "nnrepl" or name.startswith("nnrepl.")


def print_exception(error: BaseException) -> None:
    """Hand an uncaught exception to `sys.excepthook`, as Python does at the end of a program."""
    sys.stdout.flush()
    clean(error)
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(error)  # unlike the built-in hook, this finds the lines of notebook cells
        return
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except Exception as second:
        print("Error in sys.excepthook:", file=sys.stderr)
        second.__context__ = None
        clean(second)
        traceback.print_exception(second)
        print("\nOriginal exception was:", file=sys.stderr)
        traceback.print_exception(error)


def clean(error: BaseException | None, seen: set[int] | None = None) -> None:
    """Take nnrepl's frames out of an exception's traceback, and out of those it came from."""
    seen = set() if seen is None else seen
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = _without_own(error.__traceback__)
        for member in getattr(error, "exceptions", ()):
            clean(member, seen)
        clean(error.__context__, seen)
        error = error.__cause__


def _without_own(trace: TracebackType | None) -> TracebackType | None:
    kept = []
    while trace is not None:
        if not is_own(trace.tb_frame):
            kept.append(trace)
        trace = trace.tb_next
    for outer, inner in zip(kept, [*kept[1:], None]):
        outer.tb_next = inner
    return kept[0] if kept else None


@contextlib.contextmanager
def clean_walks() -> Iterator[None]:
    """While the program runs, the tracebacks and stacks that it prints by itself are clean as well: here is
    where Python's own `traceback` module takes them from."""
    below: set[FrameType] = set()
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        below.add(frame)
        frame = frame.f_back
    summary: Any = traceback.StackSummary
    extract = summary.__dict__["_extract_from_extended_frame_gen"]

    def clean_extract(cls: Any, /, frames: Any, **options: Any) -> Any:
        kept = (item for item in frames if item[0] not in below and not is_own(item[0]))
        return extract.__func__(cls, kept, **options)

    hook = threading.excepthook

    def clean_hook(details: Any) -> Any:
        clean(details.exc_value)
        return hook(details)

    summary._extract_from_extended_frame_gen = classmethod(clean_extract)
    threading.excepthook = clean_hook
    try:
        yield
    finally:
        summary._extract_from_extended_frame_gen = extract
        if threading.excepthook is clean_hook:
            threading.excepthook = hook


def exit_status(error: BaseException | None) -> int:
    """Return the exit status that plain Python would give. An interrupt ends the process as it would end Python."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        code = error.code
        if code is None:
            return 0
        if isinstance(code, int):
            return code
        print(code, file=sys.stderr)
        return 1
    if isinstance(error, KeyboardInterrupt):
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 1
