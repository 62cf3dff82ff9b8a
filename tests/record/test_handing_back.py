"""Results lie in memory as in plain Python: by that a product of theirs has its last bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from tests.closed.test_closed import _main, captured, plainly, play

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


def test_who_steps_through_an_update_leaves_its_bits_alone(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TRAINED.replace("HOLD", "pass").replace("range(4)", "range(2)"))
    told = [line for line in plainly(program.read_text())[0].splitlines() if "0x" in line]
    assert [line for line in play(program, *["step"] * 64).splitlines() if "0x" in line] == told
