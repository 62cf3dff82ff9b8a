"""Results lie in memory as in plain Python: by that a product of theirs has its last bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record.handing_back import copied as keep
from tests.closed.test_closed import _main, captured, plainly
from tests.support import nnrepl_cli

__all__ = ["_main"]


def _layout(array: mx.array) -> tuple[int, ...]:
    mx.eval(array)
    return memoryview(array).strides


def _transposed() -> mx.array:
    return mx.random.normal((16, 1)).T


def _named(w: mx.array, d: mx.array) -> mx.array:
    step = 0.01 * d
    kept.append(step)  # while somebody holds it MLX does not write over it
    return w - step


kept: list[mx.array] = []
RESULTS: dict[str, Callable[[mx.array, mx.array], mx.array]] = {
    "temporary": lambda w, d: w - 0.01 * d,
    "named": _named,
    "natural first": lambda w, d: 0.9 * w + 0.1 * d,
    "held by the backward pass": lambda w, d: w * (0.01 * d),
}


def _in_a_loss(make: Callable[[mx.array, mx.array], mx.array], w: mx.array) -> tuple[int, ...]:
    """Return how a result lies that a loss is made of."""
    made = []

    def loss(w: mx.array, d: mx.array) -> mx.array:
        made.append(make(w, d))
        return (made[0] * made[0]).sum()

    mx.eval(mx.value_and_grad(loss)(w, _transposed()))
    return _layout(made[0])


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_laid_out_as_in_plain_python(name: str) -> None:
    w = mx.random.normal((1, 16))
    mx.eval(w)
    plain = _in_a_loss(RESULTS[name], w)
    with nnrepl.recording():
        recorded = _in_a_loss(RESULTS[name], w)
    assert recorded == plain


def test_what_was_let_go_of_is_there_where_somebody_looks() -> None:
    w = mx.random.normal((1, 16))
    mx.eval(w)

    def f(w: mx.array) -> mx.array:
        step = 0.01 * mx.arange(16.0)[None]
        after = w - step
        mx.eval(after)
        return after.sum()

    trace = nnrepl.trace(f, w)
    assert mx.array_equal(trace["step"].array, 0.01 * mx.arange(16.0)[None])
    assert mx.array_equal(trace["after"].array, w - trace["step"].array)
    assert trace.verify()


TRAINED = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(3)
x = mx.random.normal((24, 9)); y = x[:, :1] * 2 - x[:, 1:2]
model = nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 1))
mx.eval(model.parameters(), x, y)
opt, kept, told = optim.SGD(0.05), [], []
loss_and_grads = nn.value_and_grad(model, lambda m, x, y: ((m(x) - y) ** 2).mean())
for i in range(4):
    loss, grads = loss_and_grads(model, x, y)
    mx.eval(loss, grads)
    HOLD
    opt.update(model, grads)
    mx.eval(model.state, opt.state)
    print(i, loss.item().hex(), memoryview(model.layers[-1].weight).strides)
"""


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize(
    "hold", ["pass", "kept.append(model.layers[-1].weight)", "kept[:] = [model.layers[-1].weight.T]"]
)
def test_an_updated_weight_is_laid_out_as_in_plain_python(hold: str, native: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TRAINED.replace("HOLD", hold))
    told = [line for line in plainly(program.read_text())[0].splitlines() if "0x" in line]
    assert len(told) == 4
    shown = captured("--batch", "-c", f"config native {native}", "-c", "continue", str(program))
    assert [line for line in shown.splitlines() if "0x" in line] == told


LATE = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(61)
told, opt, X = [], optim.SGD(0.1), mx.random.normal((4, 3, 6, 6))
model = nn.Linear(6, 1)
loss_and_grads = nn.value_and_grad(model, lambda m, x: ((m(x) - x[:, :1]) ** 2).mean())
for i in range(4):
    before = [model.weight, model.bias]
    for j in range(COUNT):
        loss, grads = loss_and_grads(model, X[i, j])
        opt.update(model, grads)
    mx.eval(model.parameters())
    print([one.hex() for one in model.weight.tolist()[0]], memoryview(model.weight).strides)
"""


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("count", [2, 3])
def test_what_is_evaluated_after_several_updates_is_laid_out_as_in_plain_python(
    count: int, native: str, tmp_path: Path
) -> None:
    """Natively the first of them is recorded, and the program evaluates it when nothing is. It holds its first weights:
    else plain Python does not repeat its own last bits."""
    program = tmp_path / "program.py"
    program.write_text(LATE.replace("COUNT", str(count)))
    told = [line for line in plainly(program.read_text())[0].splitlines() if "0x" in line]
    assert len(told) == 4
    shown = captured("--batch", "-c", f"config native {native}", "-c", "continue", str(program))
    assert [line for line in shown.splitlines() if "0x" in line] == told


MIXED = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_map
mx.random.seed(61)
told, opt, X = [], optim.SGD(0.1), mx.random.normal((4, 6, 6))
model = nn.Linear(6, 1)
loss_and_grads = nn.value_and_grad(model, lambda m, x: ((m(x) - x[:, :1]) ** 2).mean())
mx.eval(model.parameters())
for i in range(4):
    before = tree_map(lambda v: v, model.parameters())
    loss, grads = loss_and_grads(model, X[i])
    opt.update(model, grads)
    after = model.parameters()
    model.update(tree_map(lambda b, a: b + 0.5 * (a - b), before, after))
    mx.eval(model.parameters())
    print([one.hex() for one in model.weight.tolist()[0]], memoryview(model.weight).strides)
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_an_average_of_weights_is_laid_out_as_in_plain_python(native: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(MIXED)
    told = [line for line in plainly(MIXED)[0].splitlines() if "0x" in line]
    assert len(told) == 4
    shown = captured("--batch", "-c", f"config native {native}", "-c", "continue", str(program))
    assert [line for line in shown.splitlines() if "0x" in line] == told


@pytest.mark.parametrize(
    ("evaluated", "lies"), [("mx.eval(loss, grads)", "(64, 4)"), ("pass", "(4, 4)")], ids=["alone", "with the rest"]
)
def test_a_weight_that_is_looked_at_lies_as_it_will(evaluated: str, lies: str, tmp_path: Path) -> None:
    """Where gradients are evaluated before the update, MLX writes over the weight; else over what is taken from it,
    since the weight is waited for."""
    program = tmp_path / "program.py"
    program.write_text(TRAINED.replace("HOLD", "pass").replace("mx.eval(loss, grads)", evaluated))
    shown = nnrepl_cli(str(program), stdin="config peek 4096\n" + "step\n" * 36).stdout
    assert "layers.2.weight = \n" in shown, "it was looked at"
    assert re.findall(r"0 0x\S+ (.*)", shown) == [lies]


def test_what_is_handed_over_is_kept_as_it_lies() -> None:
    """Made again from its op a weight may lie otherwise, and a step that is opened begins with it."""
    w, step = mx.random.normal((1, 16)), _transposed()
    mx.eval(w, step)
    copied = keep(w - step)
    assert copied is None, "what is lazy is made again"
    turned = mx.random.normal((16, 1)).T
    mx.eval(turned)
    copied = keep(turned)
    assert copied is not None
    assert copied is not turned
    assert _layout(copied) == _layout(turned) != _layout(w)
    assert mx.array_equal(copied, turned)
