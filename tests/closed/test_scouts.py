"""What stops a program that runs natively stops it where it stops one that is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.closed.test_closed import _main, captured  # noqa: F401

TRAIN = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(3)
X = mx.random.normal((24, 4)); Y = X.sum(axis=1, keepdims=True)
class Net(nn.Module):
    def __init__(self):
        super().__init__(); self.first = nn.Linear(4, 8); self.last = nn.Linear(8, 1)
    def __call__(self, x): return self.last(nn.relu(self.first(x)))
model = Net(); opt = optim.Adam(2e-2)
def loss_fn(model, x, y): return mx.sqrt(((model(x) - y) ** 2).mean() - 0.2)
learn = nn.value_and_grad(model, loss_fn)
for i in range(16):
    loss, grads = learn(model, X, Y)
    opt.update(model, grads)
    mx.eval(model.parameters(), opt.state)
    if i % 4 == 0: print(i, loss.item())
"""
"""Its loss becomes NaN in step 10."""
SUMMED = TRAIN.replace("    opt.update", "    loss = loss * 0.5\n    opt.update")
"""What it calls `loss` is not what it differentiates alone."""


@pytest.mark.parametrize(
    ("program", "commands"),
    [
        (TRAIN, "catch nan; continue; p i; continue; p i"),
        (TRAIN, "break loss < 0.9; continue; p i; continue; p i; clear 1; continue"),
        (TRAIN, "continue; goto step 1; watch loss; continue; p i; continue; p i"),
        (TRAIN, "continue; goto step 1; catch nan; continue; p i"),
        (TRAIN, "break loss < 0.5; continue; p i; reverse-continue; continue 2; p i; info break"),
        (TRAIN, "break loss < 0.1, i == 9; catch nan; continue; p i"),
        (SUMMED, "break loss < 0.35; continue; p i; info break"),
    ],
)
def test_the_same_stops(program: str, commands: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(program)
    shown = {}
    for native in ("on", "off"):
        lines = [part for line in (f"config native {native}", *commands.split("; ")) for part in ("-c", line)]
        said = captured("--batch", *lines, str(tmp_path / "train.py")).splitlines()
        shown[native] = [line for line in said if not line.startswith(("native o", "opening", "Natively"))]
    assert shown["on"] == shown["off"]
    assert any("continue" not in line and line.startswith("step ") for line in shown["on"])


TOLD = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(3)
X = mx.random.normal((6, 2)); Y = X.sum(axis=1, keepdims=True)
class Settings: rate = 1
settings = Settings(); settings.rate = 1
model = nn.Linear(2, 1); opt = optim.SGD(1e-2)
def late(x):
    return x * 2
def learn(x): return ((model(x) - Y) ** 2).mean()
grad = nn.value_and_grad(model, learn)
for i in range(16):
    loss, grads = grad(X)
    if i == 3:
        grads["bias"] = late(grads["bias"])
    if i == 6:
        grads["bias"] = grads["bias"] * 2
    if i == 9:
        settings.rate = 2
    if i == 11:
        model.bias = model.bias + 1
    opt.update(model, grads)
    mx.eval(model.parameters(), opt.state)
"""


def test_a_step_in_which_nothing_can_be_hit_stays_closed(tmp_path: Path) -> None:
    """Each way in which it is told where a stop may be opens the step in which it is, and no other."""
    (tmp_path / "train.py").write_text(TOLD)
    never = ("late, i == 1", "settings.rate == 3", "loss < 0.1")
    stops = {"late, i == 3": "step 4", "train.py:17": "step 7", "settings.rate == 2": "step 10", "loss < 2": "step 13"}
    lines = ["config native on", "catch nan", "catch zero-grad", *[f"break {place}" for place in never]]
    for place in stops:
        lines += [f"tbreak {place}", "continue"]
    shown = captured("--batch", *[part for line in lines for part in ("-c", line)], str(tmp_path / "train.py"))
    opened = [line.split(":")[0] for line in shown.splitlines() if line.startswith("opening")]
    assert opened == [f"opening {step}" for step in stops.values()]
