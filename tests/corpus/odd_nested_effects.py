"""Odd programs: functions inside of nested transforms that leave traces outside: counters, statistics, tensors changed
in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

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
