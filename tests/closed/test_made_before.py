"""How a weight was made that comes in from a closed step is looked for there: `what`, `last`, `explain`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.closed.test_closed import play

PROGRAM = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
net, x = nn.Linear(2, 2), mx.random.normal((3, 2))
grad_of = nn.value_and_grad(net, lambda x: net(x).square().mean())
for k in range(5):
    opt = optim.SGD(0.1)
    loss, grads = grad_of(x)
    opt.update(net, grads)
    mx.eval(net.parameters())
    print(net.weight[0, 0].item())
"""


@pytest.mark.parametrize("place", ["step 4", "step 4 update", "step 4 end"])
@pytest.mark.parametrize("asked", ["last weight", "what net.weight", "explain weight"])
def test_a_weight_from_a_closed_step_is_told_as_where_all_is_recorded(asked: str, place: str, tmp_path: Path) -> None:
    file = tmp_path / "run.py"
    file.write_text(PROGRAM)
    shown = [play(file, f"config native {native}", "restart now", "goto end", f"goto {place}", "list", asked)
             for native in ("on", "off")]  # fmt: skip
    closed, recorded = ([line for line in one.splitlines() if "subtract" in line or "weight@" in line] for one in shown)
    assert recorded
    assert closed == recorded
    assert re.search(r"^step 3 · update|\b3#\d+", shown[0], re.MULTILINE)


@pytest.mark.parametrize("native", ["on", "off"])
def test_last_leads_from_one_step_to_the_one_before(native: str, tmp_path: Path) -> None:
    """Where a loss is not made yet in its call, the last one is the step's before, and not an answer that it is not."""
    file = tmp_path / "run.py"
    file.write_text(PROGRAM)
    asked = ["goto step 4 forward", "s", "last loss", "last loss", "last loss", "last loss"]
    shown = play(file, f"config native {native}", "restart now", "goto end", *asked)
    ends = re.findall(r"^(step \d) · forward \d+ of \d+.*\n.*\n.*\n#\d+  loss =", shown, re.MULTILINE)
    assert ends == ["step 3", "step 2", "step 1"]
    assert "loss" in shown.splitlines()[-1]  # before the first one there is none
