"""Edits of training scripts that run natively are plain programs with those lines written in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.closed import edits
from tests.closed.test_closed import _main, play  # noqa: F401


@pytest.mark.parametrize("seed", [2, 21, 60, 65, 120, 206])
def test_lines_and_their_twins(seed: int, tmp_path: Path) -> None:
    """Every shape: after updates, before and in calls, one edit on another, and taken back."""
    case = edits.case(seed)
    (tmp_path / "train.py").write_text(edits.script(case.script, case.marks))
    shown = play(tmp_path / "train.py", *case.commands)
    found = [int(number) for number in re.findall(r"^hash\(tuple\(log\)\)\s*=\s*(-?\d+)", shown, re.MULTILINE)]
    assert found == [hash(tuple(edits.plainly(case, written))) for written in case.expected], shown


TRAIN = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(3)
X = mx.random.normal((24, 4)); model = nn.Linear(4, 1); opt = optim.Adam(1e-2); mark = mx.array(1.0); log = []
learn = nn.value_and_grad(model, lambda model, x: (model(x) ** 2).mean())
for i in range(6):
    loss, grads = learn(model, X); opt.update(model, grads)
    shown = mark * i; log.append(loss.item())
"""


def test_a_cell_behind_native_steps_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    shown = play(tmp_path / "train.py", "continue", "X[4] = 1.0", "p X[4, 0].item()", "undo", "p X[4, 0].item() == 1",
                 "X[4] = 2.0", "goto step 6", "p i", "goto end", "p X[4, 0].item()")  # fmt: skip
    assert re.findall(r"^(?:X.*|i) = +(\S+)", shown, re.MULTILINE) == ["1.0", "False", "5", "2.0"], shown
    assert "cannot" not in shown


def test_what_stands_behind_an_update_is_opened_with_its_step(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    shown = play(tmp_path / "train.py", "continue", "goto step 3", "goto step 3 train.py:8", "p i", "p shown.item()")
    assert re.search(r"^i = 2$", shown, re.MULTILINE), shown
    assert shown.count("opening step") == 1


def test_a_look_at_the_end_is_one_at_the_timeline_looked_at(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    for native in ("on", "off"):
        shown = play(tmp_path / "train.py", f"config native {native}", "continue", "p log[-1]", "goto step 3",
                     "opt.learning_rate = 0.3", "goto end", "continue", "p log[-1]", "undo", "p log[-1]",
                     "redo", "p log[-1]")  # fmt: skip
        first, second, *others = re.findall(r"^log\[-1\] = (.*)", shown, re.MULTILINE)
        assert first != second, shown
        assert others == [first, second], shown
