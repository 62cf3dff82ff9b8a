"""A layer is called by its place in the model at that moment, and the model by the variable that holds it then."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.support import nnrepl_cli, script_python

HEAD = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
class Tuned(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear, self.scale = linear, mx.ones((2,))
    def __call__(self, x): return self.linear(x) * self.scale
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = []
        for i in range(3): self.layers.insert(0, nn.Linear(2, 2))
    def __call__(self, x):
        for layer in self.layers:
            x = mx.tanh(layer(x))
        return x
net, x = Net(), mx.random.normal((3, 2))
grad_of = nn.value_and_grad(net, lambda x: net(x).square().mean())
def show():
    print(k, [layer.get("linear", layer).weight[0, 0].item() for layer in net.layers])
def train():
    opt = optim.SGD(0.1)
    loss, grads = grad_of(x)
    opt.update(net, grads)
    mx.eval(net.parameters())
"""
CHANGES = [
    "net.layers = net.layers[1:] + net.layers[:1]",
    "net.layers.insert({at}, nn.Linear(2, 2))",
    "net.layers.append(nn.Linear(2, 2))",
    "net.layers[{at}] = nn.Linear(2, 2)",
    "net.layers[{at}] = Tuned(net.layers[{at}])",
    "net.layers[0], net.layers[{at}] = net.layers[{at}], net.layers[0]",
    "del net.layers[{at}]",
    "net.layers.reverse()",
]


def _program(draw: random.Random) -> str:
    lines, count = ["k = 0"], 3
    for step in range(1, 6):
        lines += [f"k = {step}", "show()", "train()"]
        change = draw.choice([one for one in CHANGES if count > 2 or "del" not in one])
        if "Tuned" in change and any("Tuned" in line for line in lines):
            change = CHANGES[0]
        lines.append(change.format(at=draw.randrange(1, count)))
        count += ("nn.Linear" in change and "layers[" not in change) - ("del" in change)
    return "\n".join([HEAD, *lines, ""])


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("native", ["off", "on"])
def test_a_layer_is_called_by_its_place_at_that_moment(seed: int, native: str, tmp_path: Path) -> None:
    draw = random.Random(seed)
    path = tmp_path / "program.py"
    path.write_text(_program(draw))
    plain = script_python(path)
    steps = {int(line[0]): eval(line[2:]) for line in plain.splitlines()}
    asked = draw.sample(sorted(steps), len(steps))
    lines = []
    for step in asked:
        lines.append(f"goto step {step} mean")  # in the midst of the call, where all of the layers have been called
        for at in range(len(steps[step])):
            lines += [f"p net.layers[{at}].get('linear', net.layers[{at}]).weight[0, 0].item()"]
            lines += [f"goto step {step} layers.{at}", f"info gradients layers.{at}"]
            lines += [f"p layers.{at}.weight[0, 0].item()", f"p layers.{at}.linear.weight[0, 0].item()"]
    shown = nnrepl_cli("--plain", str(path), stdin="\n".join([*lines, "q", ""]), env={"NNREPL_NATIVE": native}).stdout
    answers = dict(zip(range(len(lines)), re.split(r"^\(nnrepl.*?\) .*\n", shown, flags=re.M)[1:]))
    line = iter(range(len(lines)))
    for step in asked:
        next(line)
        for at, number in enumerate(steps[step]):
            said = [answers[next(line)] for _ in range(5)]
            numbers = [
                float(found) for one in (said[0], *said[3:]) for found in re.findall(r"= (-?[\d.e-]+)$", one.strip())
            ]
            assert len(numbers) == 2, said  # one of the two paths is there
            assert numbers == pytest.approx([number] * 2, rel=1e-12), (step, at, said)
            assert f"(layers.{at}" in said[1], (step, at, said)
    assert "several models" not in shown


SWEEP = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
x = mx.random.normal((4, 2))
kept = None
for rate in (0.1, 0.2, 0.3):
    model, opt = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), optim.Adam(rate)
    grad_of = nn.value_and_grad(model, lambda model: model(x).square().mean())
    for turn in range(2):
        loss, grads = grad_of(model)
        opt.update(model, grads)
        mx.eval(model.parameters(), opt.state)
    kept = kept or (loss, model)
"""


@pytest.mark.parametrize("native", ["off", "on"])
def test_of_models_in_turn_each_is_called_as_the_program_calls_it_then(native: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SWEEP)
    lines = [
        "goto step 6",
        *(part for step in (2, 1, 4) for part in (f"goto step {step}", "ops all", "goto end", "ops")),
    ]
    lines += [
        "goto step 2 update",
        "what opt.learning_rate",
        "p opt.learning_rate",
        "goto end",
        "what kept.1.layers.0.bias",
    ]
    shown = nnrepl_cli("--plain", str(path), stdin="\n".join([*lines, "q", ""]), env={"NNREPL_NATIVE": native}).stdout
    answers = re.split(r"^\(nnrepl.*?\) ", shown, flags=re.M)[1:]
    for answer in answers[2:14:4]:
        assert "transpose  model.layers.0.weight" in answer
        assert "kept" not in answer
    assert "opt.learning_rate  () float32" in answers[14]
    assert "= 0.1000" in answers[15]
    assert answers[17].split("\n")[1].startswith("kept.1.layers.0.bias  (2,) float32")
