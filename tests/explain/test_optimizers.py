"""Updates explained: each recipe against mlx.optimizers, and the numbers of one element; why loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.explain.explained import explain
from nnrepl.explain.why import why
from nnrepl.ops.optimizers import RECIPES
from tests.explain.school import mistakes
from tests.support import OpenSession

OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "SGD": lambda: optim.SGD(0.1),
    "SGD momentum": lambda: optim.SGD(0.1, momentum=0.9, dampening=0.2, weight_decay=0.01),
    "SGD nesterov": lambda: optim.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: optim.Adam(0.01),
    "Adam corrected": lambda: optim.Adam(0.01, betas=[0.8, 0.95], bias_correction=True),
    "AdamW": lambda: optim.AdamW(0.01, weight_decay=0.1),
    "AdamW corrected": lambda: optim.AdamW(0.01, bias_correction=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recipes_are_mlx_s_own(name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    recipe = RECIPES[type(optimizer).__name__]
    options = dict(vars(optimizer))
    w, state = mx.random.normal((4, 3)), {key: mx.zeros((4, 3)) for key in recipe.state}
    own: dict[str, Any] = {"w": w}
    for step in range(1, 5):
        gradient = mx.random.normal((4, 3))
        w, state = recipe.run(w, gradient, state, optimizer.learning_rate, step, options)
        own = optimizer.apply_gradients({"w": gradient}, own)
        assert mx.allclose(w, own["w"], rtol=1e-5, atol=1e-6).item(), step
        for key, array in state.items():
            assert mx.allclose(array, optimizer.state["w"][key], rtol=1e-5, atol=1e-6).item()


def train(optimizer: optim.Optimizer, batches: list[mx.array]) -> OpenSession:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    mx.eval(model.parameters())

    def run() -> None:
        step = nn.value_and_grad(model, lambda x: mx.mean(mx.square(model(x) - mx.sum(x, axis=1, keepdims=True))))
        for x in batches:
            _, grads = step(x)
            optimizer.update(model, grads)

    return OpenSession(nnrepl.trace(run))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_numbers_of_one_element_lead_to_its_new_value(name: str) -> None:
    session = train(OPTIMIZERS[name](), [mx.random.normal((8, 3))] * 3)
    session.cursor = len(session.tape)
    found = explain(session, "update layers.0.weight at [1, 2]")
    assert len(found.update) >= 3, found
    wrong, read = mistakes([line for line in found.update if "goes from" not in line])
    assert wrong == []
    assert read >= 3
    new = session.tape.names.versions("layers.0.weight")
    assert new
    assert "goes from" in found.update[-1]
    assert found.op is not None
    value = found.op.outputs[0].array[1, 2].item()
    assert f"{value:.4f}".replace("-", "−") in found.update[-1]


def test_why_loss_tells_weights_from_data_and_how_well_the_slope_predicts() -> None:
    x = mx.random.normal((8, 3))
    small = why(train(optim.SGD(1e-3), [x, x]), "loss")
    assert "nothing else that goes in differs" in small.headline
    assert "predicts it well" in small.reasons[0]
    other = why(train(optim.SGD(1e-3), [x, mx.random.normal((8, 3))]), "loss")
    assert "what else differs (x" in other.headline
    large = why(train(optim.SGD(5.0), [x, x]), "loss")
    assert "the other way" in large.reasons[0] or "curved" in large.reasons[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_learning_rate_is_called_as_the_program_calls_it(name: str) -> None:
    """MLX keeps it in a variable called `parameter` while it takes it in; that is nobody's name for it."""

    def run() -> None:
        model = nn.Linear(3, 1)
        opt = OPTIMIZERS[name]()
        step = nn.value_and_grad(model, lambda x: mx.mean(mx.square(model(x))))
        for _ in range(2):
            _, grads = step(mx.ones((2, 3)))
            opt.update(model, grads)

    session = OpenSession(nnrepl.trace(run))
    session.run("goto step 2")
    session.run("until update")
    ops = [op for op in session.tape.ops if op.phase == "update"]
    called = {op.called(value) for op in ops for value in op.inputs}
    assert not any(name.partition("@")[0] == "parameter" for name in called)
    rates = [name for name in called if "learning_rate" in name]
    assert rates
    assert set(rates) <= {"opt.learning_rate", "opt.learning_rate@setup#1"}, rates
    assert any(name.partition("@")[0] == "opt.step" for name in called)
    assert str(session.run("p opt.learning_rate")).startswith("opt.learning_rate = ")


def test_a_weight_of_a_dict_and_a_loss_made_of_another_loss_are_told_from_their_namesakes() -> None:
    """An update of `p.angle` is what gives `params.angle`; `loss / 3` hands on to another tensor called loss."""
    params, opt = {"angle": mx.array(0.5)}, optim.Adam(0.1)

    def total(p: dict[str, mx.array]) -> mx.array:
        loss = mx.sin(p["angle"])
        return loss / 3

    with nnrepl.recording() as recorded:
        for _ in range(2):
            loss, grads = mx.value_and_grad(total)(params)
            params = opt.apply_gradients(grads, params)
            mx.eval(params, opt.state, loss)
    session = OpenSession(recorded)
    for pass_ in session.tape.passes[-2:]:
        session.cursor = pass_.start
        assert "params.angle@" in str(session.run("explain update p.angle"))
    assert "∂L/∂loss@1 = ∂L/∂loss / 3" in str(session.run("explain 1#3"))
