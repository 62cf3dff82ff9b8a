"""A change is the program with that line in it: once, at that place, in that call, in every kind of program."""

from __future__ import annotations

import random
from collections.abc import Callable

import mlx.core as mx
import pytest

from tests.support import assert_same_bits
from tests.thorough import by_turns, share
from tests.timeline.programs import INNER, STEPS, training, with_optimizer
from tests.timeline.written import Change, Program, as_written, check, check_gradient, check_two, traced

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
one_way = pytest.mark.parametrize(("name", "compiled"), by_turns(PROGRAMS, (False, True)))
other_way = pytest.mark.parametrize(("name", "compiled"), by_turns(PROGRAMS, (True, False)))
"""Each program is changed compiled and not, between the tests."""


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_without_a_change_it_is_plain_mlx(name: str, compiled: bool) -> None:
    program = PROGRAMS[name](compiled)
    trace, _ = traced(program)
    assert_same_bits(as_written(program), trace.value)
    assert trace.verify().complete


@other_way
def test_a_change_is_that_line_in_the_program(name: str, compiled: bool) -> None:
    program = PROGRAMS[name](compiled)
    chance = random.Random(f"{name} {compiled}")
    for where in chance.sample(_names(program), share(2, 1)):
        last, evaluated = chance.random() < 0.5, chance.random() < 0.5
        check(program, where, chance.randrange(STEPS), _change(where, chance), evaluated, last)


@one_way
def test_one_change_after_another(name: str, compiled: bool) -> None:
    program = PROGRAMS[name](compiled)
    chance = random.Random(f"{name} {compiled} two")
    names = [where for where in _names(program) if not where.startswith("m.")]
    places = [(where, chance.randrange(STEPS)) for where in chance.sample(names, 2)]
    check_two(program, places, [_change("l", chance) for _ in places], evaluated=chance.random() < 0.5)


@one_way
def test_a_gradient_is_changed_on_its_way(name: str, compiled: bool) -> None:
    program = PROGRAMS[name](compiled)
    chance = random.Random(f"{name} {compiled} back")
    names = [where for where in _names(program) if where != "c" and not where.startswith("m.")]
    if "custom" in name or name == "checkpointed_gradient":
        names = ["h", "r"]  # what is inside has no gradient of its own
    where = chance.choice(names)
    change = element if where != "l" else CHANGES[0]
    check_gradient(program, where, chance.randrange(STEPS), change, evaluated=chance.random() < 0.5)


def _names(program: Program) -> list[str]:
    """Where the program has a hook."""
    return sorted({where for where, _ in traced(program)[1].seen})


def _change(where: str, chance: random.Random) -> Change:
    return CHANGES[chance.randrange(1 if where == "l" else len(CHANGES))]
