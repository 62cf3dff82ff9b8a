"""Edits around checkpoints in nested gradients, of which the sweep of the gradient around runs the function once more:
what that changes of the program's is changed again, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import nnrepl
from nnrepl.tape import Tape
from nnrepl.timeline.successor import succeed
from tests.support import assert_same_bits
from tests.timeline.written import Hook, check, value_at


def _program(hook: Hook, captured: bool) -> Callable[[], Any]:
    def run() -> Any:
        mx.random.seed(3)
        h, w = mx.random.normal((4, 3)), mx.random.normal((4, 3))
        calls, found = [0], []

        def loss(h: mx.array, w: mx.array) -> mx.array:
            kept = [mx.sin(h)]
            a = hook("a", w * 1)

            def block(q: mx.array) -> mx.array:
                calls[0] += 1
                kept[0] = kept[0] * q if captured else kept[0]
                return kept[0] + q * calls[0]

            b = hook("b", mx.grad(lambda p: mx.checkpoint(block)(p).square().sum())(a) * 1.5)
            return b.square().mean() * (1 + calls[0]) + kept[0].sum()

        for step in range(2):
            hook.begin(step)
            value, grads = mx.value_and_grad(loss, argnums=(0, 1))(h, w)
            mx.eval(value, grads)
            found.append((value, grads, calls[0]))
            w = w - 0.01 * mx.clip(grads[1], -1, 1)
        return found

    return run


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize(("name", "step"), [("a", 0), ("b", 0), ("a", 1)])
def test_a_change_around_a_later_run(captured: bool, name: str, step: int) -> None:
    hook = Hook()
    trace = nnrepl.trace(_program(hook, captured))
    assert_same_bits(_program(Hook(), captured)(), trace.value)
    twin = Hook({(name, step): lambda value: value * 2})
    twin.twin = True
    wanted = _program(twin, captured)()
    edited = trace.set(value_at(trace, hook, name, step), lambda value: value * 2)
    assert_same_bits(wanted, edited.value)


def test_they_are_known_on_the_tape_that_takes_the_place_of_another() -> None:
    tape = nnrepl.trace(_program(Hook(), True)).tape
    succeed(Tape(tape.names, tape.notes), tape, [], [], int)
    ops = [op for inside in tape.notes.calls.values() for sheet in inside.sheets for op in sheet.ops]
    assert ops
    assert all(tuple(value.shape) in ((4, 3), ()) for op in ops for value in (*op.inputs, *op.outputs))


READS: dict[str, Callable[[mx.array], float]] = {
    "numpy": lambda a: float(np.array(a).sum()),
    "memoryview": lambda a: memoryview(mx.sum(a)).tolist(),  # type: ignore[dict-item]
    "item": lambda a: mx.sum(a).item(),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", READS)
def test_what_is_read_after_a_nested_call_because_of_a_change(name: str) -> None:
    """MLX lets go of its graph there, and the run before had no such read."""

    def program(hook: Hook) -> Callable[[], Any]:
        def loss(x: mx.array, w: mx.array) -> mx.array:
            h = hook("h", x * 1.5)
            reads = mx.sum(h).item() > 1
            pulled = mx.grad(lambda p: (p * p * h).sum())(w)
            a = mx.sin(h)
            return (a * pulled * (READS[name](a * 2) if reads else 1.0)).sum()

        def run() -> Any:
            x = mx.array([0.3, -0.4, 0.5])
            hook.begin(0)
            return mx.value_and_grad(loss, argnums=(0, 1))(x, x * 2)

        return run

    check(program, "h", 0, lambda value: value * 2, evaluated=False)
