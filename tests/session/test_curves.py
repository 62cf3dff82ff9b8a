"""`plot loss` has one number a training step: the one that the program itself has at the end of that turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_map

import nnrepl
from nnrepl.session.curves import over_steps
from nnrepl.session.parsed import parse
from tests.support import OpenSession, nnrepl_cli

Said = Callable[[mx.array], None]
X = mx.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]])
Y = mx.array([[1.0], [-2.0], [0.5]])


def _data() -> nn.Module:
    mx.random.seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


def _mse(model: nn.Module, x: mx.array = X, y: mx.array = Y) -> mx.array:
    return nn.losses.mse_loss(model(x), y)


def accumulating(say: Said) -> None:
    model, opt = _data(), optim.Adam(0.05)
    vg = nn.value_and_grad(model, _mse)
    for _ in range(4):
        total: Any = None
        for at in range(3):
            loss, grads = vg(model, X[at : at + 1], Y[at : at + 1])
            total = grads if total is None else tree_map(mx.add, total, grads)
        opt.update(model, tree_map(lambda one: one / 3, total))
        mx.eval(model.parameters())
        say(loss)


def behind_the_update(say: Said) -> None:
    w = mx.zeros((2, 1))
    gradient = mx.grad(lambda w: mx.mean(mx.square(X @ w - Y)))
    for _ in range(4):
        w = w - 0.1 * gradient(w)
        mx.eval(w)
        loss = mx.mean(mx.square(X @ w - Y))
        say(loss)


def scaled(say: Said) -> None:
    model, opt = _data(), optim.SGD(0.05)
    vg = nn.value_and_grad(model, lambda model: 64 * _mse(model))
    for _ in range(4):
        large, grads = vg(model)
        loss = large / 64
        opt.update(model, tree_map(lambda one: one / 64, grads))
        say(loss)


def in_a_function_of_its_own(say: Said) -> None:
    model, opt = _data(), optim.Adam(0.05)

    def one() -> mx.array:
        found, grads = nn.value_and_grad(model, _mse)(model)
        opt.update(model, grads)
        return found

    for _ in range(4):
        loss = one()
        mx.eval(model.parameters(), opt.state)
        say(loss)


def by_turns(say: Said) -> None:
    one, two = _data(), _data()
    first, second = optim.SGD(0.1), optim.SGD(0.05)
    for _ in range(3):
        _, grads = nn.value_and_grad(one, _mse)(one)
        first.update(one, grads)
        loss, grads = nn.value_and_grad(two, lambda two: _mse(two) + _mse(one))(two)
        second.update(two, grads)
        say(loss)


@pytest.mark.parametrize("train", [accumulating, behind_the_update, scaled, in_a_function_of_its_own, by_turns])
def test_one_number_a_step_and_it_is_the_programs(train: Callable[[Said], None]) -> None:
    said: list[float] = []
    train(lambda loss: said.append(loss.item()))  # type: ignore[arg-type]
    session = OpenSession(nnrepl.trace(train, lambda loss: None))
    assert len(session.tape.steps) == len(said)
    found = over_steps(session, parse("loss"))
    assert [number for number, _ in found] == list(range(1, len(said) + 1))
    assert [number for _, number in found] == pytest.approx(said, rel=1e-6)


def test_steps_that_nobody_looked_into_are_opened_for_what_is_not_known_of_them(tmp_path: Path) -> None:
    """Their losses are known, other values are not; no curve of one point stands for ten steps."""
    program = tmp_path / "train.py"
    program.write_text(
        "import mlx.core as mx\nimport mlx.nn as nn\nimport mlx.optimizers as optim\n"
        "mx.random.seed(0)\nmodel, opt = nn.Linear(2, 1), optim.SGD(0.1)\n"
        "step = nn.value_and_grad(model, lambda x: mx.mean(mx.square(model(x))))\n"
        "for i in range(6):\n"
        "    twice = 2 * mx.ones((3, 2))\n"
        "    loss, grads = step(twice)\n"
        "    opt.update(model, grads)\n"
        "    mx.eval(model.parameters(), loss)\n"
    )
    lines = ("c", "plot loss", "plot grad(weight).max()", "q")
    shown = nnrepl_cli("--plain", str(program), stdin="\n".join(lines) + "\n", env={"NNREPL_NATIVE": "on"}).stdout
    of_loss, asked = shown.split("(nnrepl")[-3:-1]
    assert "opening steps 2 to 6" in asked
    assert "(step 6)" in asked
    assert "opening" not in of_loss
    assert "(step 6)" in of_loss
