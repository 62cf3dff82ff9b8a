"""A change before, of and after a call of anything that MLX lists is that line in the program.

Which calls there are comes from MLX's own listing (`tests.record.samples`). A sample of them runs with the suite;
`python -m tests.timeline.test_listing [CALLEE ...]` tries all, with every kind of change, and prints what disagrees.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import pytest

from nnrepl.record import trees
from nnrepl.session.errors import UserError
from tests.record.samples import SAMPLES, Sample
from tests.record.test_catalog import attempt, recorded, squares
from tests.thorough import share
from tests.timeline.written import Change, Hook, Program, check, traced, value_at


def around(key: str, sample: Sample) -> Program:
    """A loss, with its gradients, of a call of one callee: with a hook before it (of each input that is
    differentiated), on its results, and behind."""
    call, wrt = sample.function(key), sample.wrt

    def program(hook: Hook) -> Callable[[], Any]:
        inputs = sample.inputs()

        def loss(*leaves: mx.array) -> mx.array:
            given = dict(enumerate(inputs)) | dict(zip(wrt, leaves))
            taken = [hook(f"before {at}", array + 0) if at in wrt else array for at, array in given.items()]
            made: list[mx.array] = []

            def hooked(array: mx.array) -> mx.array:
                if any(array is one for one in taken):  # changed in place: two names hold it
                    return array
                made.append(array)
                return hook(f"of {len(made)}", array)

            return hook("behind", squares(trees.rebuild(call(*taken), hooked)) + squares(taken) * 1)

        def run() -> Any:
            mx.random.seed(7)
            leaves = [inputs[at] for at in wrt]
            return mx.value_and_grad(loss, argnums=list(range(len(wrt))))(*leaves) if wrt else loss()

        return run

    return program


def _element(value: mx.array) -> mx.array:
    value = value + 0
    if value.ndim == 0:
        value[...] = 0.5
    elif value.size:
        value[..., :1] = 0.5
    return value


CHANGES: list[Change] = [lambda value: value * 2, mx.sin, mx.stop_gradient, _element, lambda value: value + 0]


def changes(dtype: mx.Dtype) -> list[Change]:
    """What is done to a tensor, so that its call can go on with it: an index stays one."""
    if dtype == mx.bool_:
        return [mx.logical_not]
    return CHANGES if mx.issubdtype(dtype, mx.inexact) else CHANGES[-1:]


def runs(key: str) -> Iterator[Sample]:
    """The samples of a callee of which a loss can be taken."""
    for sample in SAMPLES.get(key, ()):
        if sample.refused is None and not isinstance(attempt(around(key, sample)(Hook())), Exception):
            yield sample


def everything() -> list[tuple[str, int]]:
    """Every sample, by its callee and its number."""
    return [(key, number) for key in recorded() for number in range(len(SAMPLES.get(key, ())))]


@pytest.mark.parametrize(("key", "number"), random.Random(6).sample(everything(), 16)[: share(16, 8)])
def test_a_change_around_a_call(key: str, number: int) -> None:
    sample, chance = SAMPLES[key][number], random.Random(f"{key} {number}")
    program = around(key, sample)
    plain = attempt(program(Hook()))
    if isinstance(plain, Exception):  # MLX takes no gradient of it, or none here: so it says where it is recorded
        with pytest.raises(type(plain), match=re.escape(str(plain))):
            traced(program)
        return
    trace, hook = traced(program)
    for name, step in chance.sample(sorted(hook.seen), min(2, len(hook.seen))):
        change = chance.choice(changes(value_at(trace, hook, name, step).dtype))
        check(program, name, step, change, evaluated=chance.random() < 0.5)


def main(*keys: str) -> None:
    """Try all."""
    for key in keys or recorded():
        for sample in runs(key):
            program = around(key, sample)
            trace, hook = traced(program)
            for name, step in hook.seen:
                for number, change in enumerate(changes(value_at(trace, hook, name, step).dtype)):
                    try:
                        check(program, name, step, change, evaluated=number % 2 == 0)
                    except (AssertionError, UserError) as error:
                        print(f"--- {key} {name} {number}: {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
