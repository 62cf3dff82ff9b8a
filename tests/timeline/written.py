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
        where: The name and the step at which a value is changed; None in a program that is traced.
        change: What is written there.

    Attributes:
        twin: Whether this is the program that others are compared with: it compiles nothing.
        seen: The values that passed by while a recorder looked, by name and step.
        starts: Where on the tape each step began.
        eager: Whether the program may evaluate inside of its functions.
    """

    def __init__(self, where: tuple[str, int] | None = None, change: Change | None = None) -> None:
        self.where = where
        self.change = change
        self.twin = False
        self.eager = True
        self.step = 0
        self.seen: dict[tuple[str, int], nnrepl.Value] = {}
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
            self.seen.setdefault((name, self.step), recorder.live[id(value)])
        if self.change is not None and (name, self.step) == self.where:
            return self.change(value)
        return value


Program = Callable[[Hook], Callable[[], Any]]
"""Makes a program with a hook in it; the program returns what is compared."""


def as_written(program: Program, where: tuple[str, int] | None = None, change: Change | None = None) -> Any:
    """What plain MLX computes, uncompiled, with the change in the source."""
    hook = Hook(where, change)
    hook.twin = True
    result = program(hook)()
    mx.eval(result)
    return result


def traced(program: Program) -> tuple[nnrepl.Trace, Hook]:
    """The recording of a program without any change."""
    hook = Hook()
    return nnrepl.trace(program(hook)), hook


def value_at(trace: nnrepl.Trace, hook: Hook, name: str, step: int) -> nnrepl.Value:
    """The value that has passed the hook in a step."""
    found = hook.seen.get((name, step))
    if found is None:  # a compiled function repeats its ops; its Python ran in the first step only
        first = hook.seen[name, 0]
        assert first.op is not None
        found = trace.ops[hook.starts[step] + first.op.position - hook.starts[0]].outputs[first.slot]
    return found


def check(program: Program, name: str, step: int, change: Change, evaluated: bool) -> None:
    """A change at the prompt does what it does in the source of the program."""
    trace, hook = traced(program)
    if evaluated:
        mx.eval(trace.value)
        mx.eval([value.array for op in trace.ops for value in op.outputs])
    edited = trace.set(value_at(trace, hook, name, step), change)
    assert_same_bits(as_written(program, (name, step), change), edited.value)
