"""Readings: what a program reads that no run finds again, its clocks and the system's random numbers.

They are kept, so that a run again reads the same, one after another, whichever timeline it runs along. One that puts
its throughput into an array, takes its seed from the clock, or calls `np.random.default_rng()` would go another way
in each run: nothing in it could be edited, or looked into after it ran natively.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import random
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import get_ident
from types import FrameType
from typing import Any

from nnrepl.installed import is_library

_getframe = sys._getframe
_CLOCKS = ("time", "perf_counter", "monotonic", "process_time", "thread_time")
_NOW = {"localtime": 0, "gmtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}
"""What tells the time now, if it is given no more arguments than these."""
_KEPT = 200_000
"""Of one clock: a program that waits for a moment reads it without end."""


class Readings:
    """What one program has read, in order, by what it read it from."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}
        self._next: dict[str, int] = {}
        self._behind: dict[str, Any] = {}
        self._program = get_ident()
        self._runs: Callable[[], bool] = bool

    def begin(self, anew: bool) -> None:
        """Note that the program begins at its start: it reads what it read there, unless it begins `anew`."""
        self._next.clear()
        if anew:
            self._kept.clear()
            self._behind.clear()

    def mark(self) -> dict[str, int]:
        """Return how far the program has read."""
        return dict(self._next)

    def rewind(self, mark: dict[str, int]) -> None:
        """Let it read again what came after a mark."""
        self._next.clear()
        self._next.update(mark)

    @contextmanager
    def watching(self, runs: Callable[[], bool]) -> Iterator[None]:
        """Keep what the program reads, inside.

        Args:
            runs: Tells whether the program runs; else it is nnrepl that reads.
        """
        global _current
        outer, _current, self._runs = _current, self, runs
        self._program = get_ident()
        clocks = [name for clock in _CLOCKS for name in (clock, f"{clock}_ns") if hasattr(time, name)]
        entropy = self._entropy(os.urandom)
        instead: list[tuple[Any, str, Any]] = [(time, name, self._clock(name, getattr(time, name))) for name in clocks]
        instead += [(time, name, self._now(name, getattr(time, name), most)) for name, most in _NOW.items()]
        instead += [(os, "urandom", entropy), (random, "_urandom", entropy)]
        instead += [(holder, "seed", self._seeding(holder.seed)) for holder in (random.Random, random)]
        before = [(holder, name, getattr(holder, name)) for holder, name, _ in instead]
        try:
            for holder, name, made in instead:
                setattr(holder, name, made)
            with _instead_of_dates(self._date):
                yield
        finally:
            for holder, name, original in before:
                setattr(holder, name, original)
            _current, self._runs = outer, bool  # what has been imported meanwhile may have kept a clock of ours

    # -- what stands in ---------------------------------------------------------------------------------

    def _clock(self, name: str, original: Callable[[], Any]) -> Callable[[], Any]:
        """Return a clock that reads again what it has read, and then goes on from there."""
        kept_by_name, next_of, behind = self._kept, self._next, self._behind

        def clock(*given: Any, **named: Any) -> Any:
            really = original(*given, **named)
            # Whoever calls stands two frames further out: past `_StandIn`, which calls this.
            if not (self._runs() and get_ident() == self._program and is_programs(_getframe(2).f_code.co_filename)):
                return really
            kept, at = kept_by_name.get(name), next_of.get(name, 0)
            if kept is None:
                kept = kept_by_name[name] = array({int: "q", float: "d"}[type(really)])
            next_of[name] = at + 1
            known = len(kept)
            if at < known:
                # How far the clock is ahead by now: what was not read before goes on from here without a leap.
                behind[name] = really - kept[at]
                return kept[at]
            if behind:
                really -= behind.get(name, 0)
            if at == known < _KEPT:
                kept.append(really)
            return really

        return _StandIn(clock, original)

    def _now(self, name: str, original: Callable[..., Any], most: int) -> Callable[..., Any]:
        """Return what tells the time now as it has told it."""

        def told(*given: Any) -> Any:
            if len(given) > most or not self._is_program():
                return original(*given)
            return self._read(f"{name}{given}", lambda: original(*given))

        return _StandIn(told, original)

    def _date(self, name: str, original: Any) -> Any:
        """Return what tells the date now as it has told it (`date.today` asks `time.time`)."""

        def told(kind: type, *given: Any, **named: Any) -> Any:
            really = functools.partial(original.__get__(None, kind), *given, **named)
            return self._read(f"{kind.__name__}.{name}{given}{named}", really) if self._is_program() else really()

        return _OfClass(_StandIn(told, original.__get__(None, datetime)))

    def _entropy(self, original: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """Return random numbers of the system that are drawn again, by each line of the program its own. Libraries draw
        for it; what one draws while it is imported is not drawn in a run again, and is left alone."""

        def urandom(size: int, /) -> bytes:
            line = _line() if self.is_running() else ""
            drawn: bytes = self._read(f"{size} {line}", lambda: original(size)) if line else original(size)
            return drawn

        return _StandIn(urandom, original)

    def _seeding(self, original: Callable[..., None]) -> Callable[..., None]:
        """Return the seeding of Python's generators, which draws the seed in C where none is given."""

        @functools.wraps(original)
        def seed(*given: Any, **named: Any) -> None:
            owner = given[:1] if given and isinstance(given[0], random.Random) else ()
            unseeded = given[len(owner) :] in ((), (None,)) and named in ({}, {"a": None})
            if unseeded and self.is_running():
                original(*owner, int.from_bytes(os.urandom(32), "big"))  # which is kept
            else:
                original(*given, **named)

        return seed

    def _read(self, name: str, really: Callable[[], Any]) -> Any:
        kept, at = self._kept.setdefault(name, []), self._next.get(name, 0)
        self._next[name] = at + 1
        if at < len(kept):
            return kept[at]
        read = really()
        if at == len(kept) < _KEPT:
            kept.append(read)
        return read

    def is_running(self) -> bool:
        """Whether the program runs, in this thread."""
        return self._runs() and get_ident() == self._program

    def _is_program(self) -> bool:
        """Whether it is the program that reads: a progress bar of a library may look at the clock when it likes."""
        return self.is_running() and is_programs(_getframe(3).f_code.co_filename)


_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep


@functools.lru_cache(4096)
def is_programs(filename: str) -> bool:
    """Whether a file is the program's: no library's, and none of nnrepl's, which looks at the clock as it works."""
    return not is_library(filename) and not filename.startswith(_OURS)


class _OfClass:
    """A method of a class, as `classmethod` makes one of a function."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def __get__(self, instance: Any, kind: type) -> Callable[..., Any]:
        return functools.partial(self._method, kind)


@contextmanager
def _instead_of_dates(stand_in: Callable[[str, Any], Any]) -> Iterator[None]:
    """While this lasts, `datetime.now` and `datetime.utcnow` are what `stand_in` gives for them. They read the clock in
    C, and Python sets no attribute of a type that is written in C: it is put into the type's own table."""
    (table,) = gc.get_referents(datetime.__dict__)
    before = {name: table[name] for name in ("now", "utcnow")}
    try:
        # Python keeps what it found in types for a while: that a table was written to past it, it has to be told.
        table.update((name, stand_in(name, original)) for name, original in before.items())
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime))
        yield
    finally:
        table.update(before)
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime))


class _StandIn:
    """What stands in for a function of C, which does not become a method where it is an attribute of a class: logging
    has `converter = time.localtime`."""

    def __init__(self, read: Callable[..., Any], original: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self._read = read

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._read(*given, **named)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)  # type: ignore[attr-defined]


def _line() -> str:
    """Return the innermost line of the program that runs; "" where a library is being imported there."""
    frame: FrameType | None = _getframe(3)
    while frame is not None and not is_programs(frame.f_code.co_filename):
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return ""
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


_current: Readings | None = None


def mark() -> dict[str, int]:
    """Return how far the program that runs has read."""
    return {} if _current is None else _current.mark()


def rewind(to: dict[str, int]) -> None:
    """Let the program that runs read again what came after a mark."""
    if _current is not None:
        _current.rewind(to)
