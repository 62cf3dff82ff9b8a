"""Waiting for a line of the program: it is told before it runs, once it is meant, and nothing is left behind."""

from __future__ import annotations

import sys

from nnrepl.replay.awaited import Awaited


def program(count: int) -> int:
    total = 0
    for n in range(count):
        total += n
    return total


def test_the_line_of_the_turn_that_is_meant_is_waited_for() -> None:
    seen: list[int] = []
    line = program.__code__.co_firstlineno + 3
    before = sys.gettrace()
    waits = Awaited(program.__code__, line, {"n": 2})

    def come() -> None:
        seen.append(sys._getframe(1).f_back is not None)
        waits.disarm()

    waits.arm(come)
    assert sys.gettrace() is not before
    assert program(5) == 10
    assert len(seen) == 1
    assert sys.gettrace() is before


def test_nothing_traces_any_more_once_nobody_waits() -> None:
    before, frame = sys.gettrace(), sys._getframe()
    traced = frame.f_trace
    waits = Awaited(frame.f_code, 10**6, {})
    waits.disarm()
    assert sys.gettrace() is before
    waits.arm(lambda: None)
    assert frame.f_trace is not None
    waits.disarm()
    assert sys.gettrace() is before
    assert frame.f_trace is traced or frame.f_trace is None
