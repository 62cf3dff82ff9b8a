"""Results lie in memory as in plain Python: by that a product of theirs has its last bits."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

import nnrepl


def _layout(array: mx.array) -> tuple[int, ...]:
    mx.eval(array)
    return memoryview(array).strides


def _transposed() -> mx.array:
    return mx.random.normal((16, 1)).T


def named(w: mx.array) -> mx.array:
    step = 0.01 * _transposed()
    result = w - step
    mx.eval(result)
    return result


def in_a_loss(w: mx.array) -> mx.array:
    kept = []

    def loss(w: mx.array, d: mx.array) -> mx.array:
        kept.append(w - 0.01 * d)
        return (kept[0] * kept[0]).sum()

    mx.eval(mx.value_and_grad(loss)(w, _transposed()))
    return kept[0]


def with_a_name(w: mx.array) -> mx.array:
    kept = []

    def loss(w: mx.array, d: mx.array) -> mx.array:
        kept.append(0.01 * d)
        kept.append(w - kept[0])
        return (kept[1] * kept[1]).sum()

    mx.eval(mx.value_and_grad(loss)(w, _transposed()))
    return kept[1]


def natural_first(w: mx.array) -> mx.array:
    kept = []

    def loss(w: mx.array, d: mx.array) -> mx.array:
        kept.append(0.9 * w + 0.1 * d)
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


@pytest.mark.parametrize("program", [named, in_a_loss, with_a_name, natural_first, held_by_the_backward_pass])
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
