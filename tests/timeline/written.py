"""Programs in which a change can be written: each runs plainly with the change in its source, and traced without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

import nnrepl
from nnrepl.record import recorder as recorders
from tests.support import assert_same_bits

Change = Callable[[mx.array], mx.array]


class Hook:
    """Stands in a program where its values may be changed: `h = hook("h", h)`.

    Args:
        changes: What is written there, by the name and the step at which it is; nothing in a program that is traced.

    Attributes:
        twin: Whether this is the program that others are compared with: it compiles nothing.
        eager: Whether the program may evaluate inside of its functions.
        seen: The values that passed by while a recorder looked, by name and step: two where a block runs twice.
        starts: Where on the tape each step began.
    """

    def __init__(self, changes: dict[tuple[str, int], Change] | None = None) -> None:
        self.changes = changes or {}
        self.twin = False
        self.eager = True
        self.step = 0
        self.seen: dict[tuple[str, int], list[nnrepl.Value]] = {}
        self.starts: list[int] = []

    def begin(self, step: int) -> None:
        """A step of the program begins."""
        self.step = step
        recorder = recorders.current()
        if recorder is not None:
            self.starts.append(len(recorder.tape))

    def __call__(self, name: str, value: mx.array) -> mx.array:
        recorder = recorders.current()
        if recorder is not None and recorder.mode == recorders.RECORD:
            self.seen.setdefault((name, self.step), []).append(recorder.live[id(value)])
        change = self.changes.get((name, self.step))
        return value if change is None else change(value)


def on_the_way_back(change: Change) -> Change:
    """What hands a value on, and its gradient changed."""
    handed_on = mx.custom_function(lambda value: value * 1)
    handed_on.vjp(lambda primals, cotangent, output: change(cotangent))
    return handed_on  # type: ignore[no-any-return]


Program = Callable[[Hook], Callable[[], Any]]
"""Makes a program with a hook in it; the program returns what is compared."""


def as_written(program: Program, changes: dict[tuple[str, int], Change] | None = None) -> Any:
    """What plain MLX computes, uncompiled, with the changes in the source."""
    hook = Hook(changes)
    hook.twin = True
    result = program(hook)()
    mx.eval(result)
    return result


def traced(program: Program) -> tuple[nnrepl.Trace, Hook]:
    """The recording of a program without any change."""
    hook = Hook()
    return nnrepl.trace(program(hook)), hook


def value_at(trace: nnrepl.Trace, hook: Hook, name: str, step: int, last: bool = False) -> nnrepl.Value:
    """The value that has passed the hook in a step, the first time or the last."""
    found = hook.seen.get((name, step))
    if found is not None:
        return found[-last]
    first = hook.seen[name, 0][-last]  # a compiled function repeats its ops; its Python ran in the first step only
    assert first.op is not None
    return trace.ops[hook.starts[step] + first.op.position - hook.starts[0]].outputs[first.slot]


def evaluate(trace: nnrepl.Trace) -> None:
    """Look at everything that there is."""
    mx.eval(trace.value, [value.array for op in trace.ops for value in op.outputs])


def check(program: Program, name: str, step: int, change: Change, evaluated: bool, last: bool = False) -> None:
    """A change at the prompt does what it does in the source of the program, also where it is made to the value of a
    `last` run of a block that runs twice."""
    trace, hook = traced(program)
    if evaluated:
        evaluate(trace)
    edited = trace.set(value_at(trace, hook, name, step, last), change)
    assert_same_bits(as_written(program, {(name, step): change}), edited.value)


def check_two(program: Program, places: list[tuple[str, int]], changes: list[Change], evaluated: bool) -> None:
    """One change after another, the second one further on."""
    first, hook = traced(program)
    places = sorted(places, key=lambda place: _position(value_at(first, hook, *place)))
    values = [value_at(first, hook, *place) for place in places]
    trace = first
    for value, change in zip(values, changes):
        if evaluated:
            evaluate(trace)
        trace = trace.set(_again(first, value, trace), change)
    assert_same_bits(as_written(program, dict(zip(places, changes))), trace.value)


def _again(old: nnrepl.Trace, value: nnrepl.Value, new: nnrepl.Trace) -> nnrepl.Value:
    """What a value of a forward pass is in another recording of the same program: the same op of the same gradient
    call. What lies between two of them may be told apart otherwise: state that was changed is no update's."""
    assert value.op is not None
    kind = value.op.pass_.kind
    first, second = ([pass_ for pass_ in tape.passes if pass_.kind == kind] for tape in (old.tape, new.tape))
    number = first.index(value.op.pass_)
    before, after = (
        [op for op in passes[number].ops if op not in passes[number].tape.notes.inserted] for passes in (first, second)
    )
    return after[before.index(value.op)].outputs[value.slot]


def _position(value: nnrepl.Value) -> int:
    assert value.op is not None
    return value.op.position


def check_gradient(program: Program, name: str, step: int, change: Change, evaluated: bool) -> None:
    """A change of a gradient (a sum, where the value is used more than once) goes on to all that it is handed on to."""
    trace, hook = traced(program)
    if evaluated:
        evaluate(trace)
    value = value_at(trace, hook, name, step, last=True)  # a checkpoint is differentiated where it runs again
    assert value.op is not None
    gradients = value.op.pass_.grads[value.canonical]
    edited = trace.set(gradients[-1], change)
    assert_same_bits(as_written(program, {(name, step): on_the_way_back(change)}), edited.value)
