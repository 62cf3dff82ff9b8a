"""A loop of compiled steps: motions, stops and changes do what they do in the same loop uncompiled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import nnrepl_cli

LOOP = """\
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from functools import partial
def same(fun, **kwargs): return fun
mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)); opt = optim.Adam(5e-2)
X = mx.random.normal((4, 4)); y = mx.random.normal((4, 1))
def loss_fn(m, X, y):
    h = m(X)
    e = h - y
    return (e ** 2).mean()
vg = nn.value_and_grad(model, loss_fn)
state = [model.state, opt.state]
@partial(mx.compile, inputs=state, outputs=state)
def step(X, y):
    loss, g = vg(model, X, y)
    opt.update(model, g)
    return loss
for i in range(6):
    loss = step(X, y); mx.eval(state)
    print(i, loss.item())
"""
LINES = {
    "motions": "until pass 5; p loss; next pass; next pass; until backward; s; rs; until loss < 0.05; info passes; c",
    "stops": "b loss_fn; c; c; p e; clear loss_fn; tb tanh; c; b loop.py:9; c; c; finish; watch loss; c; c; info b; c",
    "a change of a weight": "until pass 4; layers.0.weight = layers.0.weight * 0; c; timelines; info passes",
    "a change between the gradient and the update": (
        "until pass 4; grad(layers.2.weight) = grad(layers.2.weight) * 2; until pass 8; s 20; "
        'model.layers[2].bias = model.layers[2].bias * 0; opt.state["layers"][0]["weight"]["m"] *= -1; c'
    ),
    "a change at the start": "until pass 3; model.layers[0].weight = model.layers[0].weight * 2; next pass 3; y; c",
    "a change inside": "until pass 3; s 3; h = h + 1; until pass 7; p loss; undo; p loss; c; verify",
    "a cut, and back, and to it again": (
        "c; goto step 2; until loop.py:9; h = mx.stop_gradient(h); c; undo; p str(model.layers[0].weight.tolist()); "
        "redo; p str(model.layers[0].weight.tolist())"
    ),
    "a change in the past": "c; goto pass 5; until backward; e = e * 2; c; info passes; timelines; diff 1 2",
}


def both(lines: str, tmp_path: Path, native: str) -> tuple[str, str]:
    """What the compiled loop and the same one uncompiled show."""
    path = tmp_path / "loop.py"
    said = []
    for source in (LOOP, LOOP.replace("partial(mx.compile", "partial(same")):
        path.write_text(source)
        typed = "\n".join([*lines.split("; "), "q"])
        said.append(nnrepl_cli("loop.py", stdin=typed, cwd=tmp_path, env={"NNREPL_NATIVE": native}).stdout)
    assert all(one.count("\n(nnrepl") == lines.count("; ") + 2 for one in said)
    return _all_ops(said[0]), _all_ops(said[1])


def _all_ops(said: str) -> str:
    """What was said, with the ops of which an eager update has let go counted with those that were compared."""
    let_go = re.search(r"  (\d+) ops kept no result that could be compared\n", said)
    if let_go is None:
        return said
    more = int(let_go[1])
    said = said.replace(let_go[0], "")
    return re.sub(r"(\d+)( ops (?:computed again|were evaluated before))", lambda m: f"{int(m[1]) + more}{m[2]}", said)


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_it_is_the_uncompiled_loop(lines: str, tmp_path: Path) -> None:
    compiled, eager = both(lines, tmp_path, "off")
    assert compiled == eager


@pytest.mark.parametrize("name", ["motions", "a change of a weight", "a change in the past"])
def test_natively_it_is_the_uncompiled_loop(name: str, tmp_path: Path) -> None:
    """All but which steps are open is the same: a compiled call is opened as a whole, with the call that MLX traced."""
    compiled, eager = (_but_for_open_steps(one) for one in both(LINES[name], tmp_path, "on"))
    assert compiled == eager
    assert "gradient · loss_fn  loop.py:15" in compiled


def _but_for_open_steps(text: str) -> str:
    """A session without what tells how many ops are known of its steps."""
    text = re.sub(r"(?<=loop.py:1[56])( +\d+( \+ \d+)?) .*?(?=( [\d.]+)? *\n)", "", text)
    text = re.sub(r"\n(▶| ) +\d+  update · Adam.*", "", text)
    return re.sub(r"(?m)^(steps? .* (?:is|are) closed|no value differs: \d+|opening step).*\n", "", text)
