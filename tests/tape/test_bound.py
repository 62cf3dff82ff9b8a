"""What the variables of a call held is known at once, on a tape of any length, and on each timeline for itself."""

from __future__ import annotations

import mlx.core as mx

import nnrepl
from nnrepl.tape import Bindings, Value


def test_the_names_of_a_value_are_those_of_the_call() -> None:
    def inner(x: mx.array) -> mx.array:
        z = x + 1
        again = z
        return again * 2

    def outer(x: mx.array) -> mx.array:
        first = inner(x)
        return first * 1

    trace = nnrepl.trace(outer, mx.ones((2,)))
    bindings = trace.ops[0].tape.bindings
    added, doubled = trace.ops[0].outputs[0], trace.ops[1].outputs[0]
    scope, caller = trace.ops[0].scope, trace.ops[2].scope
    assert scope is not None
    assert caller is not None
    assert bindings.names_in(scope, added) == ["z", "again"]
    assert bindings.names_in(caller, added) == []
    assert bindings.names_in(caller, doubled) == ["first"]


def test_each_timeline_knows_its_own() -> None:
    def three(x: mx.array) -> mx.array:
        shared = old = new = x + 1
        return shared + old + new

    trace = nnrepl.trace(three, mx.ones((2,)))
    scope = trace.ops[0].scope
    assert scope is not None
    value = Value(trace.ops[0], 0, mx.ones((2,)))
    before = Bindings()
    before.note(3, scope, "shared", value)
    before.note(9, scope, "old", value)
    after = before.fork(5)
    after.note(9, scope, "new", value)
    assert before.names_in(scope, value) == ["shared", "old"]
    assert after.names_in(scope, value) == ["shared", "new"]
    assert [at for at, _, _ in after.called("new")] == [9]
    assert after.called("old") == []
    assert after.held(scope, "shared", 4) is value
    assert [at for at, _, _ in after.noted("new", lambda code: code is scope.code)] == [9]
    assert after.noted("new", lambda code: False) == []
