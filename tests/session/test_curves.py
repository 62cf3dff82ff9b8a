"""`plot loss` has one number a training step: the one that the program itself has at the end of that turn."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_losses_that_the_program_never_asked_for_are_computed_on_one_way(tmp_path: Path) -> None:
    """Twenty steps are more than stay open at once: no command opens the same step twice."""
    program = tmp_path / "train.py"
    program.write_text(
        "import sys\nimport mlx.core as mx\nimport mlx.nn as nn\nimport mlx.optimizers as optim\n"
        "mx.random.seed(0)\nmodel, opt = nn.Linear(2, 1), optim.SGD(0.1)\n"
        "step = nn.value_and_grad(model, lambda x: mx.mean(mx.square(model(x))))\n"
        "for i in range(20):\n"
        "    loss, grads = step(mx.ones((3, 2)) + i)\n"
        "    opt.update(model, grads)\n"
        "    mx.eval(model.parameters(), *[loss for _ in sys.argv[1:]])\n"
        "    for _ in sys.argv[1:]:\n"
        "        print(f'{i + 1}: {loss.item():.4g}')\n"
    )
    plain = subprocess.run([sys.executable, str(program), "x"], capture_output=True, text=True, check=True).stdout
    lines = ("c", "goto step 9", "p loss", "plot loss", "timelines", "plot grad(weight).max()", "q")
    shown = nnrepl_cli("--plain", str(program), stdin="\n".join(lines) + "\n", env={"NNREPL_NATIVE": "on"}).stdout
    drawn, listed, asked = shown.split("(nnrepl")[4:7]
    told = {line.split(": ")[0]: float(line.split(": ")[1]) for line in plain.splitlines()}
    lowest = re.search(r"lowest (\S+) \(step (\d+)\)", drawn)
    assert lowest is not None
    assert float(lowest[1]) == pytest.approx(told[lowest[2]], abs=1e-4)
    assert lowest[2] == min(told, key=lambda step: told[step])
    assert drawn.count("opening") == 1
    assert "opening the losses of steps 2 to" in drawn
    assert "to step 20" in listed
    assert asked.count("opening") <= 2
    assert "(step 20)" in asked
