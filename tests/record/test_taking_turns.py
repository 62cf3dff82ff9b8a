"""Several ops that use one value by turns: MLX adds their parts to its gradient by turns, and so must the sweep."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnrepl
from nnrepl.record import usual
from nnrepl.record.vjp import Rule
from tests.support import assert_same_bits, plain_and_traced


def _plain(kind: int, a: mx.array, b: mx.array) -> mx.array:
    """An op or two of the ordinary kind."""
    return PLAIN[kind](a, b)


PLAIN: list[Callable[[mx.array, mx.array], mx.array]] = [
    lambda a, b: a * b,
    lambda a, b: mx.tanh(a) + b,
    lambda a, b: a / (1 + mx.abs(b)),
    lambda a, b: mx.where(a > b, a, b * 0.3),
    lambda a, b: mx.logaddexp(a, b),
    lambda a, b: mx.fast.rms_norm(a, b[0], 1e-5),
]


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


Steps = list[tuple[bool, int, int, int, int]]


def _steps(*kinds: int) -> st.SearchStrategy[Steps]:
    picks = [st.integers(0, 30) for _ in range(3)]
    plain = st.tuples(st.just(False), st.integers(0, 5), *picks)
    nested = st.tuples(st.just(True), st.sampled_from(kinds), *picks)
    return st.lists(plain | nested, min_size=1, max_size=6)


def _program(steps: Steps) -> Callable[..., mx.array]:
    def fn(x: mx.array, y: mx.array) -> mx.array:
        values = [x * 1, y * 1]  # not the leaves themselves: see the test below
        for nested, kind, *picked in steps:
            a, b, c = (values[-1 - pick % len(values)] for pick in picked)
            values.append(_nested(kind, a, b, c) if nested else _plain(kind, a, b))
        return sum((value * value).mean() for value in values[-2:])

    return fn


@settings(max_examples=50, deadline=None, derandomize=True)
@given(_steps(0, 4, 5))
def test_gradients_are_mlxs_to_the_bit(steps: Steps) -> None:
    mx.random.seed(3)
    arrays = [mx.random.normal((2, 3)), mx.random.normal((2, 3))]
    _, trace = plain_and_traced(_program(steps), arrays, [0, 1])
    assert trace.tape.holes == []
    assert trace.verify().complete


@settings(max_examples=30, deadline=None, derandomize=True)
@given(_steps(0, 1, 2, 3, 4, 5))
def test_gradients_are_mlxs_but_for_the_last_bit(steps: Steps) -> None:
    """Where several results of one nested transform are used, MLX enters it several times, and others come between:
    there the last bit may differ, no more."""
    mx.random.seed(3)
    arrays = [mx.random.normal((2, 3)), mx.random.normal((2, 3))]
    expected = mx.grad(_program(steps), argnums=[0, 1])(*arrays)
    trace = nnrepl.trace(_program(steps), *arrays, wrt=[0, 1])
    assert trace.tape.holes == []
    for wanted, found in zip(expected, trace.grads):
        scale = mx.maximum(mx.abs(wanted).max(), 1e-6)
        assert mx.all(
            (mx.abs(wanted - found) <= 1e-5 * scale) | (mx.isnan(wanted) & mx.isnan(found)) | (wanted == found)
        )


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


def test_what_has_arrived_is_handed_on_where_mlx_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Add::vjp` gives back what has arrived: it need not be called for that. All others take the same short way, those
    with constants among their arguments, and those in which a row is broadcast, too."""
    taken: list[tuple[str, bool]] = []
    whole = usual.usual_vjp

    def noted(rule: Rule, *arrays: list[mx.array]) -> list[mx.array]:
        taken.append((rule.op.name, len({value.shape for value in rule.op.inputs}) == 1))
        return whole(rule, *arrays)

    def loss(a: mx.array, row: mx.array) -> mx.array:
        both = mx.add(mx.softmax(mx.tanh(a), axis=0, precise=True), a)
        wide = mx.add(mx.maximum(both, -both), row).reshape(1, 2, -1)[0, ::-1]
        return wide @ mx.array([[-0.0], [2.0]])

    def summed(a: mx.array, row: mx.array) -> mx.array:
        return loss(a, row).sum()

    a, row = mx.array([[1.0, -2.0], [-0.0, 3.0]]), mx.array([[0.5, 1.0]])
    nnrepl.trace(summed, a, row, wrt=(0, 1))  # each kind of op is asked once
    monkeypatch.setattr(usual, "usual_vjp", noted)
    trace = nnrepl.trace(summed, a, row, wrt=(0, 1))
    mine, plain = trace.grads, mx.grad(summed, argnums=(0, 1))(a, row)
    assert all(mx.array_equal(mx.view(x, mx.uint32), mx.view(y, mx.uint32)) for x, y in zip(mine, plain))
    usually = {"maximum", "tanh", "negative", "softmax", "reshape", "getitem", "matmul"}
    assert usually <= {name for name, _ in taken}
    assert [alike for name, alike in taken if name == "add"] == [False]
