"""Several ops that use one value by turns: MLX adds their parts to its gradient by turns, and so must the sweep."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from hypothesis import given, settings
from hypothesis import strategies as st

import nnrepl
from tests.support import assert_same_bits, plain_and_traced

Arrays = list[mx.array]


def _plain(kind: int, a: mx.array, b: mx.array) -> mx.array:
    """An op or two of the ordinary kind."""
    return (
        a * b,
        mx.tanh(a) + b,
        a / (1 + mx.abs(b)),
        mx.where(a > b, a, b * 0.3),
        mx.logaddexp(a, b),
        mx.fast.rms_norm(a, b[0], 1e-5),
    )[kind]


def _nested(kind: int, a: mx.array, b: mx.array, c: mx.array) -> mx.array:
    """A transform inside of a loss, which captures what it is not given."""

    def inner(t: mx.array) -> mx.array:
        return (mx.tanh(t * b) * c + mx.sin(t) * a).sum()

    if kind == 0:
        return mx.grad(inner)(a)
    if kind == 1:
        value, grad = mx.value_and_grad(inner)(a)
        return grad * b + value
    if kind == 2:
        (value, extra), grad = mx.value_and_grad(lambda t: (inner(t), t * c))(b)
        return value + grad * c + extra
    if kind == 3:
        outputs, grads = mx.vjp(lambda s, t: mx.sin(s) * t + a * c, [a, b], [c])
        return outputs[0] + grads[0] * grads[1]
    if kind == 4:
        outputs, tangents = mx.jvp(lambda s: mx.exp(s * 0.2) * b, [a], [c])
        return tangents[0] * outputs[0]
    return mx.vmap(lambda s, t: mx.tanh(s * t) * b[0] + (c * s).mean())(a, b)


STEP = st.tuples(st.booleans(), st.integers(0, 5), *(st.integers(0, 30) for _ in range(3)))


def _program(steps: list[tuple[bool, int, int, int, int]]) -> Callable[..., mx.array]:
    def fn(x: mx.array, y: mx.array) -> mx.array:
        values = [x * 1, y * 1]  # not the leaves themselves: see the test below
        for nested, kind, *picked in steps:
            a, b, c = (values[-1 - pick % len(values)] for pick in picked)
            values.append(_nested(kind, a, b, c) if nested else _plain(kind, a, b))
        return sum((value * value).mean() for value in values[-2:])

    return fn


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(STEP, min_size=1, max_size=6))
def test_gradients_are_mlxs_to_the_bit(steps: list[tuple[bool, int, int, int, int]]) -> None:
    mx.random.seed(3)
    arrays = [mx.random.normal((2, 3)), mx.random.normal((2, 3))]
    _, trace = plain_and_traced(_program(steps), arrays, [0, 1])
    assert trace.tape.holes == []
    assert trace.verify().complete


def test_where_mlx_loses_a_gradient() -> None:
    """MLX 0.32 loses part of the gradient where an argument of a loss is handed to a second nested gradient
    (`make_tracer` in mlx/transforms.cpp takes it for a stale copy then). nnrepl does not, and the receipt says so."""

    def loss(x: mx.array) -> mx.array:
        def inner(t: mx.array) -> mx.array:
            return (mx.tanh(t * x) * x).sum()

        return sum((mx.grad(inner)(x) ** 2).sum() for _ in range(2))

    x = mx.array([0.3, -0.7])
    expected = mx.grad(lambda t: loss(t * 1))(x)
    trace = nnrepl.trace(loss, x, wrt=0)
    assert_same_bits(expected, trace.grads)
    agrees = bool(mx.array_equal(mx.grad(loss)(x), expected))
    assert trace.verify().complete == agrees
