"""A path in Python's spelling (`model.layers[1].weight`) is the tape's (`layers.1.weight`), in every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnrepl.session.parsed import dotted
from tests.support import nnrepl_cli

PROGRAM = """
from functools import partial
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 8), nn.Linear(8, 1)]
    def __call__(self, x):
        return self.layers[1](nn.relu(self.layers[0](x)))

def main():
    model, opt = Net(), optim.SGD(0.1)
    x = mx.random.normal((16, 4))
    y = x.sum(1, keepdims=True)
    run = nn.value_and_grad(model, lambda m, x, y: ((m(x) - y) ** 2).mean())
    DECORATOR
    def step(x):
        loss, grads = run(model, x, y)
        opt.update(model, grads)
        return loss
    for i in range(5):
        batch = x + 0.01
        loss = step(batch)
        mx.eval(model.state, loss)

main()
"""
COMPILED = "@partial(mx.compile, inputs=[model.state, opt.state], outputs=[model.state, opt.state])"


def _program(tmp_path: Path, decorator: str = "") -> Path:
    path = tmp_path / "train.py"
    path.write_text(PROGRAM.replace("DECORATOR", decorator))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.layers[1].weight", "model.layers.1.weight"),
        ("model['layers'][1][\"weight\"]", "model.layers.1.weight"),
        ("grads['layers'][-1].bias", "grads.layers.-1.bias"),
        ("z1[0, 1]", "z1[0, 1]"),
        ("z1[i]", "z1[i]"),
        ("f(x)[0]", "f(x)[0]"),
        ("z1", "z1"),
    ],
)
def test_dotted(text: str, expected: str) -> None:
    assert dotted(text) == expected


def _answers(path: Path, *lines: str) -> list[str]:
    """What nnrepl says to each line."""
    result = nnrepl_cli(str(path), stdin="".join(f"{line}\n" for line in (*lines, "q")))
    said = result.stdout.split("(nnrepl) ")[1:]
    assert len(said) == len(lines) + 1, result.stdout + result.stderr
    return [answer.partition("\n")[2] for answer in said[:-1]]


@pytest.mark.parametrize("decorator", ["", COMPILED], ids=["eager", "compiled"])
def test_questions_about_a_path_are_answered_as_about_the_tapes_own(tmp_path: Path, decorator: str) -> None:
    """Wherever one stands, before and after the gradient is made, and in a call in which no Python runs."""
    places = ("goto step 3 forward", "goto step 3 backward", "goto step 3 update", "goto step 4")
    asked = ("why grad({})", "explain grad({})", "why {}", "last {}")
    found = []
    for name in ("layers.1.weight", "model.layers[1].weight", "model.layers[-1].weight"):
        lines = [line for place in places for each in asked for line in (place, each.format(name))]
        lines += [places[0], f"check grad({name})"]
        answers = _answers(_program(tmp_path, decorator), "until step 5", *lines)[2::2]
        found.append([" ".join(answer.replace(name, "layers.1.weight").split()) for answer in answers])
    assert not any("nothing on the tape" in answer or "not made yet" in answer for answer in found[0])
    assert all("Nothing is wrong with ∂L/∂layers.1.weight" in answer for answer in found[0][: -1 : len(asked)])
    assert found[1] == found[0]
    assert found[2] == found[0]


@pytest.mark.parametrize("decorator", ["", COMPILED], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["layers.1.weight", "model.layers[1].weight"])
def test_a_watched_parameter_stops_each_step(tmp_path: Path, name: str, decorator: str) -> None:
    first, _, *stops = _answers(_program(tmp_path, decorator), "until step 2", f"watch {name}", "c", "c")
    assert "step 2 " in first
    for number, stop in enumerate(stops):
        assert f"{name} changed" in stop
        assert f"step {3 + number} " in stop


def test_a_module_from_a_variable_is_explained_as_by_its_path(tmp_path: Path) -> None:
    names = ("layers.1", "model.layers[1]", "model.layers.1")
    _, *answers = _answers(_program(tmp_path), "until step 2", *(f"explain {name}" for name in names))
    assert ", Linear: " in answers[0]
    assert len({answer.partition(",")[2] for answer in answers}) == 1


def test_the_end_of_a_path_is_a_hint_at_it(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(
        PROGRAM.replace("model, opt = Net(), ", "model, opt = nn.Sequential(Net()), ").replace("DECORATOR", "")
    )
    for wrong in ("layers.1.weight", "model.body.layers.1.weight"):
        (said,) = _answers(path, f"why grad({wrong})")
        assert "did you mean layers.0.layers.1.weight" in " ".join(said.split())


def test_at_the_end_of_a_program_the_last_gradient_is_meant() -> None:
    shown = nnrepl_cli("examples/simple_nn.py", stdin="c\nwhy grad(weights1)\nexplain grad(weights1)\nq\n").stdout
    assert "∂L/∂weights1 is 0: it became 0 at 1#14, the VJP of maximum" in shown
    assert "not made yet" not in shown
    assert "1#16 vjp of matmul" in shown


TWO = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 4), nn.Linear(4, 1)]
    def __call__(self, x): return self.layers[1](nn.relu(self.layers[0](x)))
critic, actor = Net(), Net()
of_critic = nn.value_and_grad(critic, lambda model, x: ((model(x) - 1) ** 2).mean())
of_actor = nn.value_and_grad(actor, lambda model, x: -critic(x * model(x)).mean())
ones, others = optim.Adam(1e-2), optim.Adam(1e-2)
for i in range(6):
    x = mx.random.normal((8, 3))
    loss, grads = of_critic(critic, x); ones.update(critic, grads); mx.eval(critic.parameters())
    told = [grads["layers"][k]["bias"].sum().item() for k in range(2)]
    for _ in range(2): loss, grads = of_actor(actor, x); others.update(actor, grads); mx.eval(actor.parameters())
    if i == 3: print("critic", *told); print("actor", *[grads["layers"][k]["bias"].sum().item() for k in range(2)])
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_gradients_of_a_model_between_its_gradient_call_and_its_update(tmp_path: Path, native: str) -> None:
    """Where it holds other objects than the call was given; of another model, those of the step before."""
    path = tmp_path / "train.py"
    path.write_text(TWO)
    lines = [
        f"config native {native}",
        "c",
        "goto step 8 update",
        "p [grad(one.bias).sum().item() for one in actor.layers]",
        "p grad(critic.layers[0].bias)",
        "p grad(critic.layers.0.bias)",
        "q",
    ]
    shown = nnrepl_cli(str(path), stdin="\n".join([*lines, ""])).stdout
    ended, _, *found = [answer.partition("\n")[2] for answer in re.split(r"\(nnrepl(?: \d+)?\) ", shown)[2:-1]]
    here, there, _ = [answer.rpartition(" = ")[2].strip(" []\n") for answer in found]
    sums = {line.split()[0]: line.split()[1:] for line in ended.splitlines() if line.startswith(("critic", "actor"))}
    assert here.replace(",", "").split() == sums["actor"]
    assert abs(sum(map(float, there.split())) - float(sums["critic"][0])) < 1e-3
    assert found[1].endswith(found[2])


AT_END = """
import copy
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
model, opt = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)), optim.SGD(0.1)
run = nn.value_and_grad(model, lambda x: model(x).square().mean())
for _ in range(3):
    loss, grads = run(mx.ones((4, 3)))
    opt.update(model, grads)
    mx.eval(model.parameters())
report = "hello"
best = copy.deepcopy(model)
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_what_is_set_when_no_op_comes_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: str) -> None:
    """At the program's end a path may begin with a variable that the tape knows nothing of: no op came after it."""
    monkeypatch.setenv("NNREPL_NATIVE", native)
    path = tmp_path / "train.py"
    path.write_text(AT_END)
    lines = ["p report.encode()", "p report.foo", "p best.layers.0.weight.shape", "p best.layers.9.weight"]
    lines += ["p bool((best.layers.0.weight == model.layers[0].weight).all())", "p (best.layers.2.bias)[0].ndim"]
    shown = nnrepl_cli(str(path), stdin="\n".join(["c", *lines, "q\n"])).stdout
    said = [answer.partition("\n")[2].strip() for answer in re.split(r"\(nnrepl 1\) ", shown)[1:-1]]
    assert [answer.rpartition(" = ")[2] for answer in said] == [
        "b'hello'", "AttributeError: 'str' object has no attribute 'foo'", "(2, 3)",
        "AttributeError: 'list' object has no attribute '9'", "True", "0",
    ]  # fmt: skip
