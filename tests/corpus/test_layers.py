"""Every layer, activation, loss, initializer and optimizer of MLX."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import nnrepl
from tests.corpus import layers
from tests.corpus.checks import (
    Call,
    check_entries,
    check_receipt,
    check_receipt_at_once,
    check_tape,
    check_walk,
    compare,
    compare_as_script,
    some,
)

PROGRAMS: list[tuple[Callable[[str], Call], str]] = [
    *[(layers.layer_call, name) for name in layers.LAYERS],
    *[(layers.input_call, name) for name in layers.LAYERS if layers.has_parameters(name)],
    *[(layers.activation_call, name) for name in layers.ACTIVATIONS],
    *[(layers.loss_call, name) for name in layers.LOSSES],
    *[(layers.initializer_call, name) for name in layers.INITIALIZERS],
    *[(layers.optimizer_call, name) for name in layers.OPTIMIZERS],
    *[(layers.functional_optimizer_call, name) for name in layers.OPTIMIZERS],
]


def programs(chosen: list[tuple[Callable[[str], Call], str]]) -> pytest.MarkDecorator:
    ids = [f"{make.__name__.removesuffix('_call')} {name}" for make, name in chosen]
    return pytest.mark.parametrize(("make", "name"), chosen, ids=ids)


def test_no_layer_is_forgotten() -> None:
    assert layers.missing() == []


@programs(PROGRAMS)
def test_agrees_with_mlx(make: Callable[[str], Call], name: str) -> None:
    trace = compare(lambda: make(name))
    assert trace is not None, "it raises in plain MLX"
    check_tape(trace)
    check_entries(trace)
    check_walk(trace)
    check_receipt(trace)


@programs(some(PROGRAMS, 3, 1))
def test_agrees_as_a_script(make: Callable[[str], Call], name: str) -> None:
    compare_as_script(lambda: make(name))


@programs(some(PROGRAMS, 3))
def test_receipt_before_anything_is_evaluated(make: Callable[[str], Call], name: str) -> None:
    check_receipt_at_once(lambda: make(name))


MANY = ("MultiOptimizer", *layers.SCHEDULES)  # its states have numbers; these change no more than the learning rate


@pytest.mark.parametrize("name", [name for name in layers.OPTIMIZERS if name not in MANY])
def test_what_an_optimizer_keeps_of_a_weight_is_known_by_the_weight_s_name(name: str) -> None:
    """`weight.v` is what lies in `state["v"]` now, also where the update changes it in place."""
    model, optimizer = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), layers.OPTIMIZERS[name]()
    with nnrepl.recording() as recorded:
        step = nn.value_and_grad(model, lambda x: (model(x) ** 2).mean())
        for _ in range(2):
            optimizer.update(model, step(mx.ones((2, 4)))[1])
    for path, array in tree_flatten(optimizer.state["layers"]):
        known = recorded.names.newest(f"layers.{path}", len(recorded.tape))
        assert known is not None
        assert mx.array_equal(known.array, array), path
