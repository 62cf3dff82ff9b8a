"""A long run with a small history: any value of any pass, looked at in any order, is the one that plain MLX had."""

from __future__ import annotations

import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.tape import Value
from nnrepl.timeline.history import History, parse_size
from tests.support import nnrepl_cli

PASSES = 40
PROGRAM = f"""
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
opt = optim.Adam(learning_rate=0.01)
def loss_fn(model, x, y):
    return (model(x) - y).square().mean()
step = nn.value_and_grad(model, loss_fn)
for i in range({PASSES}):
    x = mx.random.normal((16, 4))
    y = x.sum(axis=1, keepdims=True)
    loss, grads = step(model, x, y)
    opt.update(model, grads)
    mx.eval(model.parameters(), opt.state, loss)
"""


def plain() -> list[tuple[str, str, str]]:
    """For each pass: the loss, a weight, its gradient."""
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
    opt = optim.Adam(learning_rate=0.01)

    def loss_fn(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        return (model(x) - y).square().mean()

    step = nn.value_and_grad(model, loss_fn)
    seen = []
    for _ in range(PASSES):
        x = mx.random.normal((16, 4))
        y = x.sum(axis=1, keepdims=True)
        weight = model.layers[0].weight.tolist()
        loss, grads = step(model, x, y)
        seen.append((str(loss.tolist()), str(weight), str(grads["layers"][0]["weight"].tolist())))
        opt.update(model, grads)
        mx.eval(model.parameters(), opt.state, loss)
    return seen


@pytest.mark.parametrize("native", ["on", "off"])
def test_any_value_of_a_long_run(native: str, tmp_path: Path) -> None:
    """Recorded, what was dropped is computed again; natively, steps are closed again and opened again."""
    path = tmp_path / "train.py"
    path.write_text(PROGRAM)
    expected, commands, wanted = plain(), [f"config native {native}", "config peek 0", "continue"], []
    chance = random.Random(4)
    for number in (*chance.sample(range(PASSES), 8), 0, PASSES - 1):
        # Each step is a gradient pass, an update, and what makes the batch.
        commands += [f"goto pass {3 * number + 1}", "until update"]
        for name, value in zip(("loss", "layers.0.weight", "grad(layers.0.weight)"), expected[number]):
            commands.append(f"{name}.tolist()")
            wanted.append(value)
    script = tmp_path / "look.txt"
    script.write_text("\n".join([*commands, "goto pass 4", "until update", "p grad(layers.3.weight)", "quit"]))
    result = nnrepl_cli("--plain", "--history", "14K", "-x", str(script), str(path), env={"COLUMNS": "10000"})
    lines = result.stdout.splitlines()
    found = [lines[at + 1] for at, line in enumerate(lines) if line.endswith(".tolist()")]
    assert found == wanted
    if native == "on":
        assert result.stdout.count("opening step") > 8, "more than stay open at once"
    else:
        assert re.search(r"dropped before, computed again: \d+ ops in \d+ ms", result.stdout)


LONG_RUN = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_map
model = nn.Sequential(*[nn.Linear(128, 128) for _ in range(5)]); mx.eval(model.parameters())
x = mx.random.normal((2, 128)); opt = optim.SGD(1e-4)
step = nn.value_and_grad(model, lambda x: (model(x) ** 2).mean())
def update():
    l, g = step(x)
    opt.update(model, g)
    return l
compiled = mx.compile(update, inputs=[model.state, opt.state], outputs=[model.state, opt.state])
def accumulated():
    total = None
    for _ in range(3):
        l, g = step(x)
        total = g if total is None else tree_map(mx.add, total, g)
        mx.eval(l, total)
    opt.update(model, total)
    return l
averaged = model.parameters()
for i in range(60):
    BODY
    mx.eval(l, model.state, opt.state)
    if i > 10: print("active", mx.get_active_memory())
"""
AVERAGE = "averaged = tree_map(lambda a, b: 0.9 * a + 0.1 * b, averaged, model.parameters()); mx.eval(averaged)"
STEPS = {
    "a step": ("l = update()", 3),
    "a compiled step": ("l = compiled()", 3),
    "gradients of several passes": ("l = accumulated()", 3),
    "Adam": ("opt = opt if i else optim.Adam(1e-4); l = update()", 5),
    "an average of the weights": (f"l = update(); mx.eval(l, model.state); {AVERAGE}", 4),
}


@pytest.mark.parametrize(("body", "sets"), STEPS.values(), ids=STEPS)
def test_the_budget_holds(body: str, sets: int, tmp_path: Path) -> None:
    """328 kB of parameters, several times that in a step (gradients, what the rate makes of them, the new parameters):
    no step leaves more than the budget, and what the program itself holds: parameters, gradients, state."""
    path = tmp_path / "long.py"
    path.write_text(LONG_RUN.replace("BODY", body))
    result = nnrepl_cli("--batch", "--history", "1500K", "-c", "continue", "-c", "p loss", str(path))
    used = [int(size) for size in re.findall(r"active (\d+)", result.stdout)]
    assert len(used) == 49
    assert max(used) < 1.5e6 + sets * 0.33e6
    assert max(used[25:]) <= max(used[:25]) + 10_000  # it does not grow


def test_the_budget_holds_where_ten_steps_are_evaluated_at_once(tmp_path: Path) -> None:
    """What the program no longer holds goes while it is lazy, that of earlier passes as well."""
    path = tmp_path / "rarely.py"
    text = LONG_RUN.replace("BODY", "l = update()").replace("range(60)", "range(20)")
    path.write_text(
        text.replace("mx.eval(l, m", "if i % 10 == 9: mx.eval(l, m") + "print('peak', mx.get_peak_memory())\n"
    )
    result = nnrepl_cli("--batch", "--history", "1500K", "-c", "config native off", "-c", "continue", str(path))
    peak = re.search(r"peak (\d+)", result.stdout)
    assert peak is not None, result.stdout
    assert int(peak[1]) < 1.5e6 + 4 * 0.33e6


LOOPS = {
    "an update by hand": "w = w * 0.999 + 0.001; mx.eval(w)",
    "a change in place": "w *= 0.999; mx.eval(w)",
    "a forward pass": "y = mx.tanh(w); s = y.sum(); mx.eval(s)",
}


@pytest.mark.parametrize("body", LOOPS.values(), ids=LOOPS)
def test_the_budget_holds_without_gradients(body: str, tmp_path: Path) -> None:
    """A 256 kB tensor in a loop that takes no gradients: an old value is there again when somebody looks."""
    path = tmp_path / "loop.py"
    path.write_text(
        "import mlx.core as mx\nw = mx.full((256, 256), 0.5); mx.eval(w)\n"
        f"for i in range(60):\n    {body}\n    print('active', mx.get_active_memory())\n"
    )
    look = ["-c", "goto #5", "-c", "p float(w[0, 0].item())"]
    result = nnrepl_cli("--batch", "--history", "1M", "-c", "continue", *look, str(path))
    used = [int(size) for size in re.findall(r"active (\d+)", result.stdout)]
    assert len(used) == 60
    assert max(used) < 2**20 + 3 * 2**18
    assert re.search(r"item\(\)\) = 0\.\d+$", result.stdout, re.MULTILINE), result.stdout


def trained(w: mx.array) -> mx.array:
    for _ in range(12):
        _, gradient = mx.value_and_grad(lambda w: (w * w * w).sum())(w)
        w = w - 0.01 * gradient
    return w


HELD = {
    4_000: ("00 00 00 00 00 02", "00 00 00 00 00 00 00 00 00 00 00 02"),
    7_000: ("00 00 01 01 01 02", "00 00 00 00 00 00 00 00 01 01 01 02"),
    9_000: ("11 01 01 01 01 02", "11 00 00 00 01 00 00 01 01 01 01 02"),
    14_000: ("11 11 11 11 11 02", "11 01 11 11 11 01 01 01 01 01 01 02"),
    20_000: ("11 11 11 12 72 72", "11 11 11 11 11 11 11 11 11 11 01 02"),
    40_000: ("72 72 72 72 72 72", "11 11 11 11 11 11 11 72 72 72 72 72"),
}


def test_what_is_let_go_of_first() -> None:
    """How many tensors of each gradient pass and each update are held, of 100 numbers each, after six steps and after
    twelve. What is handed on (the weights) stays longest, of older passes at distances that double; of the newest all
    that there is room for."""
    assert {budget: held_within(budget) for budget in HELD} == HELD


def held_within(budget: int) -> tuple[str, str]:
    tape = nnrepl.trace(trained, mx.ones(100)).tape
    reached: Any = SimpleNamespace(ops=[], passes=[], kept=tape.kept, notes=tape.notes)
    history, seen = History(reached, budget, Value.forget, set), []
    for pass_ in tape.passes[1:]:
        reached.ops, reached.passes = tape.ops[: pass_.end], [*reached.passes, pass_]
        mx.eval([value.array for op in pass_.ops for value in op.outputs])
        history.trim()
        parts = [[value for op in one.ops for value in op.outputs if value.size > 1] for one in reached.passes]
        held = [str(sum(value.held is not None for value in part)) for part in parts]
        assert history.bytes == 400 * sum(map(int, held))
        seen.append(" ".join(map("".join, zip(held[::2], held[1::2]))))
    return seen[11], seen[23]


@pytest.mark.parametrize(("text", "size"), [("500", 500), ("20K", 20480), ("1.5MB", 1572864), ("2 GiB", 2**31)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-5", "5T", "K"])
def test_sizes_that_are_none(text: str) -> None:
    result = nnrepl_cli("--history", text)
    assert result.returncode == 2
    assert "is no size such as 500M or 2G" in result.stderr
