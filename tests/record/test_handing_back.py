"""Results lie in memory as in plain Python: by that a product of theirs has its last bits."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl


def _layout(array: mx.array) -> tuple[int, ...]:
    mx.eval(array)
    return memoryview(array).strides


def _transposed() -> mx.array:
    return mx.random.normal((16, 1)).T


def temporary(w: mx.array) -> mx.array:
    return w - 0.01 * _transposed()


def named(w: mx.array) -> mx.array:
    step = 0.01 * _transposed()
    result = w - step
    mx.eval(result)
    return result


def natural_first(w: mx.array) -> mx.array:
    return 0.9 * w + 0.1 * _transposed()


def chain(w: mx.array) -> mx.array:
    return w - 0.1 * _transposed() / (mx.sqrt(mx.square(w)) + 1e-8)


def product_first(w: mx.array) -> mx.array:
    return mx.ones((1, 16)) @ mx.ones((16, 16)) - 0.01 * _transposed()


def in_a_loss(w: mx.array) -> mx.array:
    kept = []

    def loss(w: mx.array, d: mx.array) -> mx.array:
        kept.append(w - 0.01 * d)
        return (kept[0] * kept[0]).sum()

    mx.eval(mx.value_and_grad(loss)(w, _transposed()))
    return kept[0]


def held_by_the_backward_pass(w: mx.array) -> mx.array:
    kept = []

    def loss(w: mx.array, d: mx.array) -> mx.array:
        kept.append(w * (0.01 * d))
        return kept[0].sum()

    mx.eval(mx.value_and_grad(loss)(w, _transposed()))
    return kept[0]


@pytest.mark.parametrize(
    "program", [temporary, named, natural_first, chain, product_first, in_a_loss, held_by_the_backward_pass]
)
def test_a_result_is_laid_out_as_in_plain_python(program: Callable[[mx.array], mx.array]) -> None:
    w = mx.random.normal((1, 16))
    mx.eval(w)
    plain = _layout(program(w))
    with nnrepl.recording():
        recorded = _layout(program(w))
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


@pytest.mark.parametrize("make", [lambda: optim.SGD(0.1), lambda: optim.RMSprop(0.01)], ids=["SGD", "RMSprop"])
def test_an_update_writes_over_the_old_weight(make: Callable[[], optim.Optimizer]) -> None:
    """Nothing of the tape's holds its buffer: no leaf of a gradient call, no transposed view."""

    def trained() -> mx.array:
        mx.random.seed(0)
        net, opt = nn.Linear(16, 1), make()
        x, y = mx.random.normal((20, 16)), mx.random.normal((20, 1))
        step = nn.value_and_grad(net, lambda net: mx.square(net(x) - y).mean())
        for _ in range(3):
            loss, gradients = step(net)
            # Else it depends on how far MLX's own thread is, in plain Python as well.
            mx.eval(loss, gradients)
            mx.synchronize()
            opt.update(net, gradients)
            mx.eval(net.state, opt.state)
        return net.weight

    plain = _layout(trained())
    with nnrepl.recording():
        recorded = _layout(trained())
    assert recorded == plain
