"""Odd programs: functions inside of nested transforms that leave traces outside: counters, statistics, tensors changed
in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from tests.corpus.checks import Call
from tests.corpus.programs import built, differentiated

NESTED: dict[str, Callable[[Any, mx.array], mx.array]] = {
    "grad": lambda f, x: mx.grad(f)(x),
    "value_and_grad": lambda f, x: mx.value_and_grad(f)(x)[1],
    "vmap": lambda f, x: mx.vmap(f)(x),
    "jvp": lambda f, x: mx.jvp(f, [x], [x * 2])[1][0],
    "vjp": lambda f, x: mx.vjp(f, [x], [mx.array(2.0)])[1][0],
    "checkpoint": lambda f, x: mx.checkpoint(f)(x),
    "grad of grad": lambda f, x: mx.grad(lambda q: (mx.grad(f)(q) * q).sum())(x),
}


def _counted(how):
    """The function counts its calls, and its result depends on how many there were."""
    calls = [0]

    def loss(x, w):
        def f(p):
            calls[0] += 1
            return (mx.sin(p) * p * w[0]).sum() * calls[0]

        return NESTED[how](f, x).square().mean() * calls[0]

    def run(x, w):
        return [mx.value_and_grad(loss, argnums=(0, 1))(x, w) for _ in range(2)]

    return Call(run, [mx.arange(12.0).reshape(4, 3) / 7, mx.ones((3, 3)) / 3], after=lambda: calls[0])


@built
def counted_in_a_nested_grad():
    return _counted("grad")


@built
def counted_in_a_nested_value_and_grad():
    return _counted("value_and_grad")


@built
def counted_in_a_vmap():
    return _counted("vmap")


@built
def counted_in_a_jvp():
    return _counted("jvp")


@built
def counted_in_a_vjp():
    return _counted("vjp")


@built
def counted_in_a_grad_of_a_grad():
    return _counted("grad of grad")


def _captured(how, x, w, change):
    a = x * 1.5

    def f(p):
        change(a, w)
        return (mx.sin(p) * p * w[0]).sum() + (a * a).sum()

    return NESTED[how](f, x).square().mean() + (a @ w).square().mean()


def _halve(a, _):
    a /= 2


def _double(a, _):
    a[...] *= 2


def _project(a, w):
    a @= w
    a[0] = a[1] * 2


@differentiated((4, 3), (3, 3))
def captured_and_halved_in_a_grad(x, w):
    return _captured("grad", x, w, _halve)


@differentiated((4, 3), (3, 3))
def captured_and_projected_in_a_grad(x, w):
    return _captured("grad", x, w, _project)


@differentiated((4, 3), (3, 3))
def captured_and_doubled_in_a_vmap(x, w):
    return _captured("vmap", x, w, _double)


@differentiated((4, 3), (3, 3))
def captured_and_projected_in_a_jvp(x, w):
    return _captured("jvp", x, w, _project)


@differentiated((4, 3), (3, 3))
def captured_and_doubled_in_a_vjp(x, w):
    return _captured("vjp", x, w, _double)


@differentiated((4, 3), (3, 3))
def captured_and_halved_in_a_checkpoint(x, w):
    return _captured("checkpoint", x, w, _halve)


@differentiated((4, 3), (3, 3))
def captured_and_projected_in_a_grad_of_a_grad(x, w):
    return _captured("grad of grad", x, w, _project)


@differentiated((4, 3), (3, 3))
def captured_and_given_as_well(x, w):
    a = x * 1.5

    def f(p, q):
        nonlocal a
        a /= 2
        return mx.sin(p) * q

    turned = mx.jvp(f, [a, x], [x, a])[1][0]
    return (turned * a).sum() + (a @ w).square().mean()


@differentiated((4, 3), (3, 3))
def changed_two_calls_deep(x, w):
    a = x * 1.5

    def outer(q):
        pulled = mx.grad(lambda p: (_double(a, w), (p * a).sum())[1])(q)
        return (pulled * q).sum()

    return mx.grad(outer)(x).square().mean() + (a @ w).square().mean()


@differentiated((4, 3), (3, 3))
def custom_without_a_vjp_that_changes_its_argument(x, w):
    a = x @ w

    @mx.custom_function
    def f(p, q):
        q @= w
        return p * 2

    turned = mx.jvp(lambda q: f(q, a) * q, [x], [x])[1][0]
    return (turned * a).sum()


@differentiated((4, 3), (3, 3))
def zeros_from_a_nested_vjp_are_changed_by_a_mask(x, w):
    a = x @ w
    zeros, _ = mx.vjp(lambda p, q: q * q, [a, x], [x])[1]
    zeros[zeros > 0.5] = 0.25
    return (a * zeros).sum() + a.square().mean()


@built
def statistics_of_a_nested_loss():
    mx.random.seed(0)
    critic = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4), nn.ReLU(), nn.Linear(4, 1))

    def loss(x):
        slope = mx.grad(lambda q: critic(q).sum())(x)
        return ((mx.linalg.norm(slope, axis=1) - 1) ** 2).mean() + critic(x).mean()

    return Call(loss, [mx.arange(12.0).reshape(4, 3) / 7], critic, after=lambda: critic.state)


# -- what is evaluated behind a nested gradient -------------------------------------------------------------------


@differentiated((3, 3), (3, 3))
def captured_by_a_grad_and_evaluated_after_it(x, w):
    pulled = mx.grad(lambda p: (p * w).sum())(x)
    squares = w * w
    mx.eval(squares)
    return (squares * x).sum() + (w * w).sum() + pulled.sum()


@differentiated((3, 3), (3, 3))
def made_before_a_grad_and_evaluated_after_it(x, w):
    squares = w * w
    pulled = mx.grad(lambda p: (p * squares).sum())(x)
    total = squares.sum()
    total.item()
    return total * x.sum() + pulled.sum()


@differentiated((3, 3), (3, 3))
def result_of_a_grad_read_by_numpy(x, w):
    pulled = mx.grad(lambda p: (mx.sin(p @ w) * p).sum())(x)
    mean = float(np.array(pulled).mean())
    return pulled.square().mean() + (x @ w).square().mean() * mean


@differentiated((3, 3), (3, 3))
def result_of_a_grad_read_through_a_memoryview(x, w):
    largest = max(memoryview(mx.tanh(mx.grad(lambda p: (p * p * w).sum())(x))).tolist()[0])
    pulled = mx.grad(lambda p: (p * p * w).sum())(x)
    return pulled.square().mean() * largest


@differentiated((3, 3), (3, 3))
def penalty_printed_in_the_loss(x, w):
    slope = mx.grad(lambda q: mx.tanh(q @ w).sum())(x)
    penalty = ((mx.linalg.norm(slope, axis=1) - 1) ** 2).mean()
    penalty.item()
    return (x @ w).mean() + 10 * penalty


@differentiated((3, 3), (3, 3))
def inner_steps_that_print_their_loss(x, w):
    def inner(p):
        return ((x @ p) ** 2).mean()

    p = w
    for _ in range(2):
        value, slope = mx.value_and_grad(inner)(p)
        p = p - 0.1 * slope
        value.item()
    return inner(p)


@differentiated((3, 3), (3, 3))
def given_to_a_grad_after_another_has_captured_it(x, w):
    first = mx.grad(lambda p: (p * w * w).sum())(x)
    second = mx.grad(lambda p: (p * p * p).sum())(w)
    return first.sum() + second.sum()


@differentiated((3, 3), (3, 3))
def pulled_back_and_evaluated(x, w):
    outputs, pulled = mx.vjp(lambda p: p * w * p, [x], [w * x])
    mx.eval(pulled)
    return pulled[0].sum() + outputs[0].sum()


@differentiated((4, 3))
def kept_two_calls_deep(x):
    kept = {}

    def outer(q):
        def inner(r):
            kept["u"] = r * r
            return (kept["u"] * r).sum()

        return (mx.grad(inner)(q) * kept["u"]).sum()

    slope = mx.grad(outer)(x)
    return (slope * 0.1 + kept["u"]).square().mean()


@differentiated((4, 3))
def kept_by_a_jvp_that_gives_nothing(x):
    kept, buffer = [], mx.zeros((4, 3))

    def inner(q):
        kept.append(mx.sin(q) * q)
        return []

    def outer(q):
        mx.jvp(inner, [q * 2], [q])
        return []

    def change(q):
        buffer[0] = q[1] * 3
        return []

    def loss(q):
        mx.jvp(inner, [q], [x])
        return (kept.pop() * q).sum()

    for function in (outer, change, lambda _: []):
        mx.jvp(function, [x], [x * x])
    return (kept.pop() * buffer + mx.grad(loss)(x)).square().mean()


@differentiated((3, 3), (3, 3))
def captured_in_a_call_within_a_call_and_evaluated_after_it(x, w):
    squares = w * w

    def outer(q, r):
        mx.jvp(lambda _: r.T.T, [q], [r])
        return q

    _, pulled = mx.vjp(outer, [squares, squares], [x])
    shown = squares * x
    shown.sum().item()
    return shown.square().mean() + pulled[0].sum() + squares.mean()


@differentiated((3, 3), (3, 3))
def changed_in_a_jvp_that_does_not_return_it(x, w):
    squares = x @ w

    def turn(q):
        nonlocal squares
        squares **= 2
        return mx.roll(x, 1, axis=0) * 2

    tangents = mx.jvp(turn, [squares], [x])[1]
    mx.eval(squares)
    return squares.square().mean() + tangents[0].sum()


@differentiated((3, 3), (3, 3))
def evaluated_in_a_grad_that_takes_what_another_gave(x, w):
    below = x @ w
    both = x * below
    mx.grad(lambda p: (p * p * both).sum())(x)
    pulled = mx.grad(lambda p, q: (p * q).sum())(both, below)

    def shown(p):
        mx.eval(p[::2])
        return p

    def energy(p):
        return (mx.checkpoint(shown)(p) * p * both).sum()

    return mx.grad(energy)(pulled).square().mean()


@differentiated((4, 3), (4, 3))
def evaluated_of_which_the_graph_has_no_argument(x, w):
    """`zeros_like(p)` is made of nothing, and of a whole assignment only what is assigned: `p` keeps its graph."""
    pulled = mx.grad(lambda p: (p * mx.sin(p) * w).sum())(x)
    mapped = mx.jvp(lambda p: p * mx.zeros_like(pulled), [x], [pulled])
    mx.eval(mx.zeros_like(pulled), mx.broadcast_arrays(w, pulled)[0], mapped[0])

    def turn(p, q):
        p[None] = q
        return float(p.sum()) * q

    return (pulled * mx.checkpoint(turn)(pulled, x)).square().mean()


@differentiated((4, 3), (4, 3))
def nothing_is_taken_from_what_a_function_does_not_use(x, w):
    """Marks go from what a nested function's results were made of."""
    other = mx.sin(x) * 2
    mx.grad(lambda p: (p * mx.zeros_like(other)).sum())(w)
    mx.eval(other)
    return (other * w).square().mean()


@differentiated((4, 3), (4, 3))
def places_that_the_program_has_not_looked_at(x, w):
    """What is taken from a tensor is looked at before anything is evaluated, and by nnrepl alone."""
    pulled = mx.grad(lambda p: (p * mx.sin(p) * w).sum())(x)
    picked = mx.take_along_axis(x, mx.argmax(pulled, axis=1, keepdims=True), 1)
    mx.grad(lambda p: (p * picked).sum())(x)
    mx.eval(x * 2)
    return (pulled * picked).square().mean()


# -- two tensors that are one node of MLX's graph ----------------------------------------------------------------


@built
def captured_is_what_it_is_differentiated_by():
    """A closure holds the very tensor that the function is given."""
    x = mx.arange(12.0).reshape(4, 3) / 7

    def loss(a):
        mapped = mx.vmap(lambda p, q: p * q)(a, x) + mx.vmap(lambda p: p * x.sum())(a)
        turned = mx.jvp(lambda p, q: p * q * q, [a, x], [a, x])[1][0]
        return (mapped * turned).sum() + mx.grad(lambda p: (p * x * p).sum())(a).square().sum()

    return Call(loss, [x], 0)


@differentiated((4, 3), (4, 3))
def checkpoint_that_gives_back_what_it_is_given(x, w):
    same = mx.checkpoint(lambda a, b: b)(w, x)
    return mx.vmap(lambda a, b: a * 2 + b)(x, same).square().mean()


@differentiated((3, 3), (3, 3))
def checkpoint_in_a_grad_that_captures_what_was_made_there(x, w):
    def energy(p, q):
        made = mx.tanh(q @ w)
        return (mx.checkpoint(lambda a: a * made)(p) * q).sum()

    return mx.grad(energy)(x, x).square().mean()


@differentiated((4, 3), (4, 3))
def both_gradients_of_a_sum(x, w):
    """MLX makes one node for both; each is used on."""
    first, second = mx.grad(lambda a, b: ((a + b) * x).sum() * 2, argnums=(0, 1))(mx.sin(x), w)
    made, (third, fourth) = mx.vjp(lambda a, b: mx.checkpoint(lambda a, b: a + b)(a, b) * 2, [x, w], [mx.cos(x)])
    return (first * second * w).sum() + (third * x).square().mean() + (fourth * w + made).sum() + third.sum()
