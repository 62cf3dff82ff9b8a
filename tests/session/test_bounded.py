"""A place within a step that is named is looked for in that step: never a whole training run for a typed error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import nnrepl_cli

PROGRAM = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
net, opt = nn.Linear(2, 2), optim.SGD(0.1)
learn = nn.value_and_grad(net, lambda x: mx.square(net(x)).sum())
for i in range(6):
    loss, grads = learn(mx.ones((3, 2)))
    opt.update(net, grads)
    print("turn", i, flush=True)
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_the_program_stops_where_the_step_is_over(native: str, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    lines = (
        "goto step 3 softmax",
        "until step 4 tanh",
        "goto step 2 addmm",
        "goto step 2 exp",
        "until step 1 addmm",
        "goto step 9",
        "q",
    )
    ran = nnrepl_cli("--plain", str(program), stdin="\n".join(lines) + "\n", env={"NNREPL_NATIVE": native})
    said = ran.stdout.split("(nnrepl")[1:]
    assert "step 3 has no softmax" in said[0]
    assert "\nstep 3 · forward 1 of" in said[0]
    assert "turn 2" in said[0]
    assert "turn 3" not in said[0]
    assert "step 4 has no tanh" in said[1]
    assert "turn 4" not in said[1]
    assert "step 2 addmm · 1 of" in said[2]
    assert "step 2 · forward 2 of" in said[2]
    assert said[3].strip().endswith("step 2 has no exp")
    assert "step 1 addmm is not ahead of here; goto step 1 addmm goes there" in said[4]
    assert "step 9 was not reached" in said[5]
