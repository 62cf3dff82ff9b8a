"""Waiting for a line of the program: it is told before it runs, once it is meant, and nothing is left behind."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record.recorder import current
from nnrepl.replay.awaited import Awaited
from nnrepl.session.made_again import awaited_results


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


def _failed(x: mx.array) -> None:
    with contextlib.suppress(ValueError):
        x @ mx.ones((3, 3))


@pytest.mark.parametrize(
    ("last", "count"),
    [
        (lambda x: x * 2, 1),
        (lambda x: mx.split(x, 2), 2),
        (lambda x: x.__setitem__(0, 1), 0),
        (lambda x: x.__iadd__(1), 0),
        (mx.value_and_grad(lambda x: (x * x).sum()), 0),
        (mx.vmap(lambda row: row * 2), 0),
        (mx.checkpoint(lambda x: x * 3), 0),
        (lambda x: mx.array([1.0, 2.0]), 0),
        (_failed, 0),
    ],
)
def test_what_the_program_is_about_to_get_can_be_made_again(last: Callable[[mx.array], Any], count: int) -> None:
    """Where one op makes it, of tensors alone, and without changing one."""
    with nnrepl.recording():
        recorder, x = current(), mx.ones((2, 2))
        assert recorder is not None
        kept = last(x)
        found = awaited_results(recorder, recorder.tape.ops[-1])
        assert len(found) == count
        assert all(any(one is part for part in (kept if isinstance(kept, list) else [kept])) for one in found)
        assert awaited_results(recorder, None) == []
