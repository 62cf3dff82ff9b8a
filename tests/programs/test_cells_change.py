"""What cells change in the lists, dicts, objects and models of the program: after each, a name is what Python says."""

from __future__ import annotations

import random
import re
from pathlib import Path

import mlx.core as mx
import pytest

from tests.support import nnrepl_cli

PROGRAM = """
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
class Box: pass
model = nn.Linear(1, 1)
opt = optim.SGD(0.5)
data = {"a": mx.array([1.0]), "n": 1}
box = Box()
box.w = mx.array([2.0]); box.k = 1; box.of = {"x": mx.array([4.0])}
row, other = [mx.array([3.0])], [mx.array([8.0]), mx.array([9.0])]
def f():
    return data["a"] * box.w + row[0] + box.of["x"] * box.k + model.bias + opt.learning_rate
def put(value):
    data["a"] = value
    box.w = value * 2
    row[0] = value + 1
def swap():
    global row, other
    row, other = other, row
def loss(model, x):
    return mx.sum(model(x) * data["a"])
step = nn.value_and_grad(model, loss)
for i in range(3):
    _, grads = step(model, mx.array([[1.0]]))
    opt.update(model, grads)
    mx.eval(model.parameters())
y = f()
"""

LOOKS = (
    'data["a"]', "box.w", "row[0]", 'box.of["x"]', "box.k", "model.bias", "opt.learning_rate", 'data["n"]', "len(row)"
)  # fmt: skip

CELLS = (
    'data["a"] = mx.array([{}.0])',
    "box.w = mx.array([{}.0])",
    "row[0] = row[0] * {}",
    "row.insert(0, mx.array([{}.0]))",
    'data = {{"a": mx.array([{}.0]), "n": 0}}',
    'box.of["x"] = mx.array([{}.0])',
    'box.of = {{"x": box.w}}',
    "box.k = {}",
    "model.bias = mx.array([{}.0])",
    "opt.learning_rate = {}.0",
    'data["n"] += {}',
    "put(mx.array([{}.0]))",
    "swap()",
    "row, other = other, row",
    "for k in range({}): row[0] = row[0] + k",
    "q = {}",
    "box.w += {}.0; kept = box.w",
    "def g(v): box.w = v; return f()",
    "_, grads = step(model, mx.array([[1.0]])); opt.update(model, grads)",
)


def _typed(seed: int) -> list[str]:
    chance = random.Random(seed)
    return [cell.format(chance.randint(2, 9)) for cell in chance.sample(CELLS, 12)]


def _told(cells: list[str]) -> list[float]:
    """What plain Python says after each cell."""
    known: dict[str, object] = {"__name__": "__main__"}
    exec(PROGRAM, known)
    told = []
    for cell in cells:
        exec(cell, known)
        told += [float(mx.array(eval(look, known)).item()) for look in LOOKS]
    return told


def _shown(answers: str) -> list[float]:
    """What was answered to each `p`."""
    prompt = r"^\(nnrepl(?: \d+)?\) "
    said = re.findall(rf"{prompt}p (.+)\n((?:(?!\(nnrepl).*\n?)*)", answers, re.MULTILINE)
    numbers = [re.fullmatch(r"(?:opening .*\n)?.+? = \[?([-\d.e]+)\]?\s*", answer) for _, answer in said]
    assert all(numbers), [pair for pair, number in zip(said, numbers) if not number]
    return [float(number[1]) for number in numbers if number]


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("seed", range(3))
def test_after_each_cell_a_name_is_what_python_says(native: str, seed: int, tmp_path: Path) -> None:
    mx.random.seed(0)
    (tmp_path / "run.py").write_text("import mlx.core as mx; mx.random.seed(0)" + PROGRAM)
    cells = _typed(seed)
    told = _told(cells)
    lines = ["continue"]
    for cell in cells:
        lines += [cell, *(f"p {look}" for look in LOOKS)]
    result = nnrepl_cli("run.py", stdin="\n".join(lines), cwd=tmp_path, env={"NNREPL_NATIVE": native})
    assert (result.returncode, result.stderr) == (0, "")
    assert _shown(result.stdout) == pytest.approx(told, rel=1e-4), "\n".join(cells)


@pytest.mark.parametrize("native", ["on", "off"])
def test_at_the_end_of_a_program_a_change_is_its_next_line_or_is_refused(native: str, tmp_path: Path) -> None:
    """It was said that the program does something else when it runs again, "a clock, say"."""
    (tmp_path / "run.py").write_text(PROGRAM.replace("y = f()", "print(y := f())"))
    refused = {
        "#1 = #1 * 2": "the program has ended, and nothing of it takes #1 any more: goto #1 leads to where it is made",
        "weight = weight * 2": "as its next line, model.weight = ... changes the model",
    }
    lines = ["continue", "set box.w = box.w * 2", "p box.w", *refused, "set opt.learning_rate = 2", "undo", "p box.w"]
    result = nnrepl_cli("run.py", stdin="\n".join(lines), cwd=tmp_path, env={"NNREPL_NATIVE": native})
    assert result.returncode == 1
    said = " ".join(result.stdout.split())
    assert all(refusal in said for refusal in refused.values()), said
    assert _shown(result.stdout)[-2:] == [4, 4], said
    assert "does not do the same" not in said


@pytest.mark.parametrize("native", ["on", "off"])
def test_in_a_call_that_a_cell_makes_a_name_is_what_it_was_there(native: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(PROGRAM)
    look = "p (box.w + 100 * row[0] + 10000 * data['a']).item()"
    walk = ("put(mx.array([7.0]))", look, *("back", look) * 3, "goto end", "debug put(mx.array([3.0]))", look)
    fails = "box.w = mx.array([5.0]); mx.ones((2,)) @ mx.ones((3,))"
    lines = ("continue", *walk, *("s", look) * 2, "continue", look, fails, look)
    result = nnrepl_cli("run.py", stdin="\n".join(lines), cwd=tmp_path, env={"NNREPL_NATIVE": native})
    told = re.findall(r"\.item\(\) = (\d+)", result.stdout)
    back, on = ["70814", "70314", "70302", "10302"], ["70814", "30814", "30806", "30406"]
    assert told == [*back, *on, "30405"], result.stdout
