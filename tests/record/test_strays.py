"""MLX's functions that were taken hold of before the recording began, and what must be as before when it ends."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record import strays
from nnrepl.record.account import account
from nnrepl.record.patches import _vectorcall_slot
from tests.support import plain_and_traced

local = mx.tanh
doubled = functools.partial(mx.multiply, 2.0)
table = (("sine", mx.sin), {mx.cos: 1})
instance = SimpleNamespace(f=mx.exp)
HOLDERS: dict[str, Callable[[], Callable[[mx.array], mx.array]]] = {
    "global": lambda: local,
    "partial": lambda: doubled,
    "tuple": lambda: table[0][1],
    "key": lambda: next(iter(table[1])),
    "instance": lambda: instance.f,
    "default": lambda f=mx.sin: f,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_function_that_was_kept_is_recorded(holder: str) -> None:
    def loss(x: mx.array) -> mx.array:
        return (HOLDERS[holder]()(x) * x).sum()

    _, trace = plain_and_traced(loss, [mx.arange(3.0)], 0)
    assert [op.name for op in trace.ops if op.phase == "forward"][1:] == ["multiply", "sum"]
    assert all(op.source.line for op in trace.ops)
    assert trace.tape.holes == []
    assert trace.verify().complete


def test_what_goes_past_the_recording_is_a_hole() -> None:
    """A method that was taken from the type is not caught; that is said, never passed over."""

    def loss(x: mx.array) -> mx.array:
        return (kept(x) * x).sum()

    kept = mx.array.sin
    trace = nnrepl.trace(loss, mx.arange(3.0), wrt=0)
    assert [hole.reason for hole in trace.tape.holes] == ["computed from x by something that was not recorded"]
    assert "hole was computed from x by something that was not recorded" in trace.verify().unaccounted


def test_each_node_of_what_was_not_recorded_is_followed_once() -> None:
    """There are 2^60 ways through it."""
    y, kept = mx.ones(3), mx.array.__add__
    for _ in range(60):
        y = kept(y, y)
    trace = nnrepl.trace(lambda x: (y * x).sum(), mx.arange(3.0), wrt=0)
    assert trace.verify().unaccounted == ()


@pytest.mark.parametrize("fn", [mx.sum, functools.partial(mx.sum, axis=0), functools.partial(mx.logsumexp)])
def test_a_function_of_mlx_itself_is_traced(fn: functools.partial[mx.array]) -> None:
    _, trace = plain_and_traced(fn, [mx.arange(3.0)], 0)
    assert len([op for op in trace.ops if op.phase == "forward"]) == 1


def test_calls_from_c_have_a_place() -> None:
    kept = mx.exp

    def fn(x: mx.array) -> mx.array:
        return functools.reduce(mx.add, map(kept, [x, x]))

    trace = nnrepl.trace(fn, mx.ones((2,)))
    assert [(op.name, op.source.text) for op in trace.ops] == [
        ("exp", "functools.reduce(mx.add, map(kept, [x, x]))"),
        ("exp", "functools.reduce(mx.add, map(kept, [x, x]))"),
        ("add", "functools.reduce(mx.add, map(kept, [x, x]))"),
    ]


def test_the_type_of_functions_is_put_back() -> None:
    mutable = 1 << 8 | 1 << 11
    before, flags = vars(strays.FUNCTION)["__call__"], strays.FUNCTION.__flags__ & mutable
    nnrepl.trace(mx.sum, mx.ones((2,)))
    assert vars(strays.FUNCTION)["__call__"] is before
    assert strays.FUNCTION.__flags__ & mutable == flags == mutable
    with pytest.raises(TypeError):
        strays.FUNCTION.__call__ = before


def test_the_slot_of_the_array_type_is_put_back() -> None:
    before = _vectorcall_slot(mx.array).value
    assert before
    with pytest.raises(ZeroDivisionError):
        nnrepl.trace(lambda x: x * (1 / 0), mx.ones(2))
    assert _vectorcall_slot(mx.array).value == before


def test_what_was_made_of_a_dropped_value_is_accounted_for() -> None:
    """MLX's graph still leads through it: to what it was made of, and no further."""

    def fn(x: mx.array) -> mx.array:
        doubled = x * 2
        return mx.sin(doubled + 1).sum()

    trace = nnrepl.trace(fn, mx.arange(3.0))
    whole = account(trace.ops)
    assert (whole.unaccounted, whole.evaluated) == ((), 0)
    trace["doubled"].forget()
    assert account(trace.ops).unaccounted == ()
    mx.eval(trace.ops[-2].outputs[0].array)
    assert account(trace.ops).evaluated == 2
