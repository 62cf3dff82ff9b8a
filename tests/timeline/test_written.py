"""A change is the program with that line in it: once, at that place, in that call, in every kind of program."""

from __future__ import annotations

import random
from collections.abc import Callable

import mlx.core as mx
import pytest

from tests.support import assert_same_bits
from tests.timeline.programs import INNER, STEPS, training, with_optimizer
from tests.timeline.written import Change, Program, as_written, check, traced

PROGRAMS: dict[str, Callable[[bool], Program]] = {
    name: lambda compiled, inner=inner: training(inner, compiled) for name, inner in INNER.items()
}
PROGRAMS["a model"] = lambda compiled: with_optimizer(False, compiled)
PROGRAMS["a checkpointed model"] = lambda compiled: with_optimizer(True, compiled)


def element(value: mx.array) -> mx.array:
    """One element cut off and set."""
    value = value + 0
    value[..., 0] = 0.5
    return value


CHANGES: list[Change] = [lambda value: value * 2, element, mx.stop_gradient]
everywhere = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
everything = pytest.mark.parametrize("name", PROGRAMS)


@everywhere
@everything
def test_without_a_change_it_is_plain_mlx(name: str, compiled: bool) -> None:
    program = PROGRAMS[name](compiled)
    trace, _ = traced(program)
    assert_same_bits(as_written(program), trace.value)
    assert trace.verify().complete


@everywhere
@everything
def test_a_change_is_that_line_in_the_program(name: str, compiled: bool) -> None:
    program = PROGRAMS[name](compiled)
    chance = random.Random(f"{name} {compiled}")
    _, hook = traced(program)
    for where in chance.sample(sorted({where for where, _ in hook.seen}), 3):
        change = CHANGES[chance.randrange(1 if where == "l" else len(CHANGES))]
        check(program, where, chance.randrange(STEPS), change, evaluated=chance.random() < 0.5)
