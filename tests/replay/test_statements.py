"""What is typed at the prompt and changes something that is no tensor is a change like any other: what follows is what
plain Python gives with that line in the program, once; it stands on the timeline and is undone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import nnrepl_cli, plain_python

PROGRAM = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
class Net(nn.Module):
    kind = 1
    def __init__(self):
        super().__init__()
        self.inner, self.drop, self.scale = nn.Linear(2, 3), nn.Dropout(0.5), 1.0
    def __call__(self, x):
        return self.drop(self.inner(x)) * self.scale * self.kind
model, opt, counter, kept = Net(), optim.SGD(learning_rate=0.1), 0, [1.0]
def loss_fn(model, x):
    global counter
    counter += 1
    return (model(x) * counter * sum(kept)).square().mean()
step = nn.value_and_grad(model, loss_fn)
for i in range(5):
    x = mx.ones((4, 2)) * (i + 1)  # here
    loss, g = step(model, x)
    opt.update(model, g)
    print("LOSS", i, loss.item(), counter, kept)
"""
LINES = [
    "model.eval()", "opt.learning_rate = 0.5", "counter += 10", "kept.append(2.0)", "model.scale = 3.0",
    "Net.kind = 2", "kept[0] = 0.5", "del kept[0]", "model.freeze()", "model.inner = nn.Linear(2, 3, bias=False)",
]  # fmt: skip


@pytest.mark.parametrize("lines", [LINES[:3], LINES[3:6], LINES[6:8], LINES[8:]], ids=str)
def test_lines_and_their_twins(lines: list[str], tmp_path: Path) -> None:
    """Each line in a step of its own, then all of them undone but the first."""
    path, twin = tmp_path / "program.py", tmp_path / "twin.py"
    path.write_text(PROGRAM)

    def losses(count: int) -> list[str]:
        """What the program prints with the first lines in it."""
        body = "".join(f"    if i == {number + 1}: {line}\n" for number, line in enumerate(lines[:count]))
        twin.write_text(PROGRAM.replace("    x = mx.ones", body + "    x = mx.ones"))
        return _losses(plain_python(str(twin)).stdout)

    commands = []
    for number, line in enumerate(lines):
        commands += [f"until step {number + 2}", "goto program.py:18", line]
    there = [*commands, "c", "q"]
    back = [*commands, *["undo"] * (len(lines) - 1), "c", "q"]
    for script, count in ((there, len(lines)), (back, 1)):
        found = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in script)).stdout
        assert set(losses(count)) <= set(_losses(found)), found
        assert _losses(found)[-1] == losses(count)[-1], found


def test_a_look_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    looks = [
        "model(x).sum()",
        "loss_fn(model, x)",
        "len(kept)",
        "kept.pop()",
        "print(kept.pop())",
        "mine = 3",
        "mine += 1",
    ]
    shown = nnrepl_cli(
        "--plain", str(path), stdin="\n".join(["until step 2", *looks, "kept", "mine", "counter", "timelines", "q\n"])
    ).stdout
    assert "timeline 2" not in shown
    assert "timeline 1" in shown
    assert re.findall(r"^(?:\[1.0\]|4|1)$", shown, re.MULTILINE) == ["1", "[1.0]", "4", "1"], shown


def _losses(text: str) -> list[str]:
    return re.findall(r"^LOSS .*", text, re.MULTILINE)
