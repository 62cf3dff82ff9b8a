"""Interrupts: Ctrl-C waits while something must not be left half done."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from nnrepl.installed import is_standard

FREE, HELD, CAREFUL = "free", "held", "careful"


class _Interrupts:
    """What happens on Ctrl-C: at once what its handler does; or, while it is held back, nothing yet; or, while the
    program runs again, what its handler does if it strikes in the program's own lines, and else nothing yet.

    Attributes:
        mode: Which of these.
        on: Whether it is held back beyond the call that did so.
    """

    def __init__(self) -> None:
        self.mode = FREE
        self.on = False
        self._pending = False
        self._handler: Any = None

    def switch(self, mode: str) -> None:
        """Go over to another mode. Raises what the handler raises for what was held back, if that may strike now."""
        if self.mode == FREE:
            self._handler = signal.getsignal(signal.SIGINT)
        self.mode = mode
        signal.signal(signal.SIGINT, self._handler if mode == FREE else self._caught)
        if mode == FREE:
            self.on = False
            self.check()

    def check(self) -> None:
        """Let strike what was held back, if it may. Raises what the handler raises."""
        if self._pending and self.mode != HELD:
            self._pending = False
            if callable(self._handler):
                self._handler(signal.SIGINT, None)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.mode == HELD or at_work(frame):
            self._pending = True
        else:
            self._handler(number, frame)


_interrupts = _Interrupts()
check = _interrupts.check


@contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C back inside; it takes effect at the end of the outermost. Only the main thread gets signals:
    elsewhere this does nothing."""
    before = _interrupts.mode
    if before == HELD or not _is_ours():
        yield
        return
    _interrupts.switch(HELD)
    try:
        yield
    finally:
        # Where `hold_on` was called inside, it is held back until `resume`.
        if not _interrupts.on:
            _interrupts.switch(before)


@contextmanager
def allowed() -> Iterator[None]:
    """Let Ctrl-C take effect inside, also where it is held back around: at once in the program's own lines; where
    nnrepl itself is at work, when `check` is called next or at the end."""
    if _interrupts.mode != HELD or not _is_ours():
        yield
        return
    try:
        _interrupts.switch(CAREFUL)
        _interrupts.check()
        yield
        _interrupts.check()
    finally:
        _interrupts.switch(HELD)


def hold_on() -> None:
    """Hold Ctrl-C back from now on until `resume`: the program is taken apart, to run again."""
    if _is_ours():
        _interrupts.switch(HELD)
        _interrupts.on = True


def resume() -> None:
    """Note that the program is about to run: Ctrl-C takes effect again."""
    if _interrupts.on:
        _interrupts.switch(FREE)


def _is_ours() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is not None


def put_off(frame: FrameType | None) -> bool:
    """Whether Ctrl-C struck where nothing can be raised from: then it strikes again a moment later."""
    if not is_swallowed(frame) and not is_importing(frame):
        return False
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    return True


def is_swallowed(frame: FrameType | None) -> bool:
    """Whether Python swallows what is raised in a frame: something dies there, or the collector tells of its work."""
    telling = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame is not None:
        code = frame.f_code
        if code.co_qualname in _CALLBACKS or code.co_name == "__del__" or code in telling:
            return True
        frame = frame.f_back
    return False


def is_importing(frame: FrameType | None) -> bool:
    """Whether a module is imported in a frame that nnrepl wants: Python makes a RuntimeError of what is raised where a
    class is made, and of a module that is left half done the next command would import the rest once more."""
    body = imported = False
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>":
            body, imported = True, False
        elif code.co_filename.startswith("<frozen importlib"):
            imported = body
        elif imported and str(frame.f_globals.get("__name__")).startswith("nnrepl."):
            return True
        else:
            body = imported = False
        frame = frame.f_back
    return False


_CALLBACKS = frozenset(
    f"{where}.<locals>.<lambda>" for where in ("Recorder.link", "BindingWatch._watch", "keep_ndarray")
)  # fmt: skip
"""What Python calls when an array or a container dies."""


def at_work(frame: FrameType | None) -> bool:
    """Whether nnrepl is at work in a frame, or what it has called of Python's own library."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("nnrepl."):
            return True
        if not is_standard(frame.f_code.co_filename):
            return False
        frame = frame.f_back
    return False
