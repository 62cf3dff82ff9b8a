"""Random programs of two or three features, an edit at each place, against the same program with the edit written in.

Loss and every gradient, and the state that the program keeps: fresh, and after everything was evaluated; and a change
that changes nothing."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import nnrepl
from nnrepl.tape import Value
from tests.support import assert_same_bits
from tests.thorough import share

Step = Callable[[mx.array], mx.array]
FEATURES: dict[str, Callable[[random.Random], Step]] = {}


def feature(make: Callable[[random.Random], Step]) -> Callable[[random.Random], Step]:
    FEATURES[make.__name__] = make
    return make


@dataclass
class Kept:
    """What a step keeps."""

    calls: int = 0
    scale: mx.array = field(default_factory=lambda: mx.array([0.5, 1.0, 1.5]))
    seen: list[Any] = field(default_factory=list)


@feature
def in_place(chance: random.Random) -> Step:
    def step(h: mx.array) -> mx.array:
        h = h * 1.5
        h[0, 1] = 0.25
        h += h
        h[:, 2:] *= 0.5
        return h

    return step


@feature
def slices(chance: random.Random) -> Step:
    at = chance.randrange(2)
    return lambda h: mx.concatenate([h[:, at:], h[:, :at]], axis=1) * h[0]


@feature
def closure(chance: random.Random) -> Step:
    scale = mx.array(chance.random() + 0.5)
    count = 0

    def step(h: mx.array) -> mx.array:
        nonlocal count
        count += 1
        return h * scale + count

    return step


@feature
def generator(chance: random.Random) -> Step:
    def pieces(h: mx.array) -> Iterator[mx.array]:
        for k in range(3):
            yield h * (k + 1)

    return lambda h: sum(pieces(h))  # type: ignore[return-value]


@feature
def iterator(chance: random.Random) -> Step:
    turns = iter([chance.random() + k for k in range(9)])
    return lambda h: h * next(turns)


@feature
def numbers(chance: random.Random) -> Step:
    rng, python = np.random.default_rng(3), random.Random(4)
    return lambda h: h * python.random() + mx.array(rng.normal(size=(4, 3)).astype(np.float32))


@feature
def cache(chance: random.Random) -> Step:
    kept: dict[str, mx.array] = {}

    @functools.lru_cache
    def factor(n: int) -> float:
        return 1.0 / n

    def step(h: mx.array) -> mx.array:
        if "table" not in kept:
            kept["table"] = mx.tanh(mx.arange(3.0))
        return h * kept["table"] * factor(3)

    return step


@feature
def dataclass_state(chance: random.Random) -> Step:
    kept = Kept()

    def step(h: mx.array) -> mx.array:
        kept.calls += 1
        kept.seen.append(h)
        kept.scale = kept.scale * 1.1
        return h * kept.scale * kept.calls + sum(kept.seen)

    return step


@feature
def batch_norm(chance: random.Random) -> Step:
    return nn.BatchNorm(3)


@feature
def dropout(chance: random.Random) -> Step:
    return nn.Dropout(0.4)


@feature
def keys(chance: random.Random) -> Step:
    key = mx.random.key(5)
    return lambda h: h + mx.random.normal((4, 3), key=key) * mx.random.uniform()


@feature
def branch(chance: random.Random) -> Step:
    return lambda h: mx.exp(h * 0.1) if h.sum().item() > 1 else h * h


@feature
def try_finally(chance: random.Random) -> Step:
    kept = Kept()

    def step(h: mx.array) -> mx.array:
        try:
            with contextlib.suppress(KeyError):
                kept.by_name  # type: ignore[attr-defined]  # noqa: B018
        except AttributeError:
            h = h * 2
        finally:
            kept.calls += 1
        return h * kept.calls

    return step


@feature
def compiled(chance: random.Random) -> Step:
    return mx.compile(lambda h: mx.sin(h) * 2 + h)


@feature
def checkpoint(chance: random.Random) -> Step:
    layer = nn.Linear(3, 3)
    return mx.checkpoint(lambda h: mx.tanh(layer(h)))


@feature
def nested(chance: random.Random) -> Step:
    return lambda h: mx.vmap(lambda row: mx.softmax(row) * row)(h)


@dataclass
class Program:
    """Steps one after another, each with a mark after it at which it can be changed."""

    seed: int

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        mx.random.seed(self.seed)
        self.names = chance.sample(sorted(FEATURES), chance.choice([2, 3]))
        self.steps = [FEATURES[name](chance) for name in self.names]
        self.w = mx.random.normal((3, 3))
        self.x = mx.random.normal((4, 3))
        mx.eval(self.w, self.x)

    def run(self, w: mx.array, x: mx.array, place: int = -1, change: Step | None = None) -> mx.array:
        h = x @ w
        for number, step in enumerate(self.steps):
            h = mx.maximum(step(h), -1e30)
            if number + 1 == place and change is not None:
                h = change(h)
        return h.square().mean()


CHANGES: dict[str, Step] = {"nothing": lambda a: a * 1, "twice": lambda a: a * 2, "element": lambda a: _element(a)}


def _element(a: mx.array) -> mx.array:
    a = a + 0
    a[0, 1] = 0.5
    return a


@pytest.mark.parametrize("seed", range(share(6, 3)))
def test_edits_and_their_twins(seed: int) -> None:
    places = len(Program(seed).names) + 1
    program = Program(seed)
    trace = nnrepl.trace(lambda w, x: program.run(w, x), program.w, program.x, wrt=[0, 1])
    for evaluated in (False, True):
        for place in range(places):
            for name, change in CHANGES.items():
                twin = Program(seed)
                w = change(twin.w) if place == 0 else twin.w  # a parameter is changed where it enters
                expected = mx.value_and_grad(functools.partial(_twin, twin, place, change), argnums=[0, 1])(w, twin.x)
                edited = trace.set(_target(trace, place), change)
                assert_same_bits(
                    {f"{program.names} {place} {name}": expected},
                    {f"{program.names} {place} {name}": (edited.value, edited.grads)},
                )
        if not evaluated:
            mx.eval([value.array for op in trace.ops for value in op.outputs])


def _twin(program: Program, place: int, change: Step, w: mx.array, x: mx.array) -> mx.array:
    return program.run(w, x, place, change)


def _target(trace: nnrepl.Trace, place: int) -> Value:
    if place == 0:
        return trace["w"]
    marks = [op for op in trace.ops if op.name == "maximum"]
    return marks[place - 1].outputs[0]
