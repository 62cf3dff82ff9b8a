"""Edits typed at the prompt inside of a checkpoint: where it runs first, where it runs again, from the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import nnrepl_cli, script_python

LOOP = """\
import mlx.core as mx
w = mx.array([0.3, -0.8]); x = mx.array([[1.0, 2.0], [0.5, -1.0]])
def block(h, w):
    u = h * w
    # here
    v = mx.tanh(u)
    return v + h
def loss_fn(w, x):
    h = mx.sin(x)
    # before
    return (mx.checkpoint(block)(h, w) ** 2).mean()
for step in range(3):
    loss, g = mx.value_and_grad(loss_fn)(w, x)
    w = w - 0.5 * g
    mx.eval(w)
    print(step, loss.item(), w.tolist())
"""
LINES = {
    "in the first run": ("# here", "u", "until pass 3; until v; u = u * 2; c"),
    "in the second run": ("# here", "u", "until pass 3; until backward; until v; u = u * 2; c"),
    "from the end": ("# here", "u", "c; goto pass 3; until v; u = u * 2; c"),
    "what goes in": ("# before", "h", "c; goto pass 3; step; h = h * 2; c"),
}


@pytest.mark.parametrize(("where", "name", "lines"), LINES.values(), ids=LINES)
def test_both_runs_see_it(where: str, name: str, lines: str, tmp_path: Path) -> None:
    path = tmp_path / "loop.py"
    path.write_text(LOOP.replace(where, f"if step == 1: {name} = {name} * 2"))
    wanted = script_python(path).splitlines()
    path.write_text(LOOP)
    said = nnrepl_cli(str(path), stdin="\n".join([*lines.split("; "), "q"]), env={"COLUMNS": "200"}).stdout
    found = [line for line in said.splitlines() if line[:2] in ("0 ", "1 ", "2 ")]
    assert found[-2:] == wanted[-2:]
