"""Calls that MLX runs by itself, between gradient calls and after their updates: the program runs again along them, and
a change there is what plain Python gives with the line in the source."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest

from tests.support import nnrepl_cli, script_python

HEAD = """\
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
mx.random.seed(3)
model, opt = nn.Linear(3, 1), optim.SGD(learning_rate=0.1)
X = mx.random.normal((4, 5, 3))
def one(p, x):
    z = mx.sin(p * x)
    return z.sum()
def squared(p, x): return one(p, x) ** 2
def inner(net, x): return mx.sin(net(x)).sum()
def nested(net, x):
    _, g = nn.value_and_grad(net, inner)(net, x)
    return (g["weight"] * g["weight"]).sum()
def told(*numbers): print("LAST", *[number.tolist() for number in numbers])
each = mx.vmap(mx.grad(one), in_axes=(None, 0))
w, Y = mx.random.normal((3,)), X[0] * 1
mx.eval(w, X, Y, model.parameters())
"""
LOOPS = {
    "right after a gradient call": """\
for step in range(4):
    loss, g = mx.value_and_grad(one)(w, X[step])
    s = each(w, Y)
    mean = s.mean(axis=0)
    t = mean * 0.5
    w = w - 0.1 * g - t
    mx.eval(w)
told(loss, s, w)
""",
    "compiled, right after a gradient call": """\
each = mx.compile(each)
for step in range(4):
    loss, g = mx.value_and_grad(one)(w, X[step])
    s = each(w, Y)
    mean = s.mean(axis=0)
    t = mean * 0.5
    w = w - 0.1 * g - t
    mx.eval(w)
told(loss, s, w)
""",
    "a product with the Hessian": """\
for step in range(4):
    loss, g = mx.value_and_grad(one)(w, X[step])
    _, (mean,) = mx.jvp(mx.grad(lambda p: one(p, Y)), [w], [g])
    t = mean * 0.05
    w = w - 0.1 * g - t
    mx.eval(w)
told(loss, w)
""",
    "weights that a nested call leaves in a model": """\
for step in range(4):
    loss, g = mx.value_and_grad(one)(w, X[step])
    _, (mean,) = mx.jvp(lambda p: nn.value_and_grad(model, inner)(model, Y * p)[1]["weight"].sum(), [w], [g])
    t = mean * 0.05
    w = w - 0.1 * g - t
    mx.eval(w)
told(loss, w)
""",
    "compiled, without a gradient call": """\
each = mx.compile(each)
for step in range(4):
    mean = each(w, X[step]).mean(axis=0)
    t = mean * 0.5
    w = w - t
    mx.eval(w)
told(w)
""",
    "taken when the gradients were": """\
for step in range(4):
    mean = X[step] * 1
    t = mean * 0.5
    loss, grads = nn.value_and_grad(model, nested)(model, mean + t)
    opt.update(model, grads)
    mx.eval(model.parameters())
told(loss, grads["weight"], model.weight, model.bias)
""",
}
CHANGE = "mean = mean * 1.5"


def last(*arguments: str, typed: str | None = None, native: str = "off") -> list[str]:
    """What the program prints at its end, each time that it comes there."""
    ran = nnrepl_cli("--plain", *arguments, stdin=typed, env={"NNREPL_NATIVE": native})
    return [text for text in ran.stdout.splitlines() if text.startswith("LAST")] or [ran.stdout]


def written(loop: str) -> tuple[int, str, str]:
    """The line before which a change is made in a loop, the program, and the program with the change."""
    lines = (HEAD + LOOPS[loop]).splitlines()
    line = next(at for at, text in enumerate(lines) if text.startswith("    t = "))
    changed = [*lines[:line], f"    if step == 1: {CHANGE}", *lines[line:]]
    return line + 1, "\n".join([*lines, ""]), "\n".join([*changed, ""])


@cache
def expected(loop: str) -> list[str]:
    """What a loop prints at its end, as it is and with the change: the same however it is run."""
    with tempfile.TemporaryDirectory() as folder:
        path, twin = Path(folder) / "between.py", Path(folder) / "twin.py"
        for one, text in zip((path, twin), written(loop)[1:]):
            one.write_text(text)
        found = [last("--batch", "-c", "c", str(one))[0] for one in (path, twin)]
        if "nested" not in LOOPS[loop]:  # MLX adds what the nested call gives in another order (docs/limits.md)
            assert [text.rstrip() for text in found] == [script_python(one).rstrip() for one in (path, twin)]
    return found


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_change_after_one(loop: str, native: str, tmp_path: Path) -> None:
    line, text, _ = written(loop)
    path = tmp_path / "between.py"
    path.write_text(text)
    there = "goto step 2" if "value_and_grad" in LOOPS[loop] else "goto turn 2"
    typed = "\n".join(["c", there, f"until between.py:{line}", CHANGE, "c", ""])
    assert last(str(path), typed=typed, native=native) == expected(loop)
