"""Odd programs: checkpoints in nested gradients, of which each run finds the variables as they are then; and what a
nested gradient makes of a model that it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from tests.corpus.checks import Call
from tests.corpus.programs import built


def _twice(loss: Callable[..., mx.array], after: Callable[[], Any] = tuple, compiled: bool = False) -> Call:
    """Two steps of a loss of two tensors, three of a compiled one."""

    def run(h, w):
        gradients = mx.value_and_grad(loss, argnums=(0, 1))
        step = mx.compile(gradients) if compiled else gradients
        found = []
        for _ in range(3 if compiled else 2):
            value, grads = step(h, w)
            mx.eval(value, grads)
            found.append((value, grads))
            w = w - 0.01 * mx.clip(grads[1], -1, 1)
        return found

    mx.random.seed(3)
    args = [mx.random.normal((4, 3)), mx.random.normal((4, 3))]
    mx.eval(args)
    return Call(run, args, after=after)


def _captured(h, w):
    kept = [mx.sin(h)]

    def nested(p):
        def block(q):
            kept[0] = kept[0] * q
            return kept[0] + q

        return mx.checkpoint(block)(p).square().sum()

    return (mx.grad(nested)(w) * 1.5).square().mean() + kept[0].sum()


@built
def later_run_of_a_captured_tensor():
    return _twice(_captured)


@built
def later_run_of_a_captured_tensor_compiled():
    return _twice(_captured, compiled=True)


@built
def later_run_in_place():
    def loss(h, w):
        kept = mx.sin(h)

        def nested(p):
            def block(q):
                nonlocal kept
                kept *= q
                kept[0] = q[1]
                return kept + q

            return mx.checkpoint(block)(p)

        _, (gradient,) = mx.vjp(nested, [w], [h])
        return gradient.square().mean() + kept.sum()

    return _twice(loss)


@built
def later_run_of_what_comes_behind_it():
    def loss(h, w):
        def nested(p):
            factor = p * 2

            def block(q):
                return q.square() * factor

            result = mx.checkpoint(block)(p * h)
            factor = factor * h
            return result.square().sum()

        value, gradient = mx.value_and_grad(nested)(w)
        return gradient.square().mean() + value

    return _twice(loss)


@built
def later_runs_in_each_other():
    calls = [0]

    def loss(h, w):
        def nested(p, q):
            def outer(r):
                calls[0] += 1

                def inner(s):
                    calls[0] += 1
                    return mx.sin(s) * calls[0] * w

                return mx.checkpoint(inner)(r * calls[0]) * r

            return mx.checkpoint(outer)(p * q).square().sum()

        gradient = mx.grad(lambda p: mx.grad(nested)(p, h).square().sum())(w)
        return gradient.square().mean()

    return _twice(loss, after=lambda: calls[0])


@built
def later_runs_that_leave_tensors():
    def loss(h, w):
        kept = [mx.sin(h), mx.cos(h)]

        def nested(p):
            def block(q):
                kept[0] = kept[0] * q
                kept.append(q * kept[-1])
                return kept[0] + q

            return (mx.checkpoint(block)(p * w) * mx.checkpoint(block)(p)).square().sum()

        value, gradient = mx.value_and_grad(nested)(w)
        left = kept[-1].sum() + kept[2].sum() + kept[0].sum()

        def second(p):
            def block(q):
                kept[1] *= mx.tanh(q)
                return kept[1] * kept[-1] * q

            return mx.checkpoint(block)(p).sum()

        _, (other,) = mx.vjp(second, [h], [mx.array(2.0)])
        return gradient.square().mean() + value + left + (other[0] * kept[1]).sum() + kept[-2].sum()

    return _twice(loss)


@built
def later_runs_that_draw():
    def loss(h, w):
        kept = []

        def nested(p):
            def block(q):
                dropped = q * mx.random.bernoulli(0.5, q.shape)
                kept.append(dropped.sum())
                return dropped * mx.sin(q)

            return (mx.checkpoint(block)(p) * mx.random.uniform(shape=(4, 3))).square().sum()

        value, gradient = mx.value_and_grad(nested)(w * h)
        return gradient.square().mean() + value + kept[0] + kept[-1] * mx.random.normal(())

    return _twice(loss, after=lambda: mx.random.normal((3,)))


class _Blocks(nn.Module):
    def __init__(self, checkpointed: bool):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.norm = nn.BatchNorm(3, affine=False)
        self._checkpointed = checkpointed

    def __call__(self, x):
        block = nn.utils.checkpoint(self.a) if self._checkpointed else self.a
        return self.b(self.norm(mx.tanh(block(x))))


def _of_a_model(loss: Callable[..., mx.array], checkpointed: bool = False) -> Call:
    """Two steps of a loss of a model, which takes gradients of it itself."""
    mx.random.seed(4)
    model = _Blocks(checkpointed)
    mx.eval(model.parameters())

    def run(x):
        step = nn.value_and_grad(model, loss)
        found = []
        for _ in range(2):
            value, grads = step(model, x)
            mx.eval(value, grads)
            found.append((value, grads))
            model.update(tree_map(lambda p, g: p - 0.01 * g, model.trainable_parameters(), grads))
        return found

    return Call(run, [mx.arange(12.0).reshape(4, 3) / 7], after=model.parameters)


def _inner(model, x):
    return model(x).square().sum()


@built
def model_behind_its_nested_gradient():
    def loss(model, x):
        value, grads = nn.value_and_grad(model, _inner)(model, x)
        penalty = sum(grad.square().sum() for _, grad in tree_flatten(grads))
        return value + 0.1 * penalty + model(x).mean() + model.a.weight.sum()

    return _of_a_model(loss)


@built
def model_with_two_nested_gradients():
    def loss(model, x):
        nn.value_and_grad(model, _inner)(model, x)
        _, grads = nn.value_and_grad(model, _inner)(model, x * 2)
        return grads["a"]["weight"].square().sum() + grads["b"]["bias"].sum() + model(x).sum()

    return _of_a_model(loss)


@built
def model_that_learns_within_its_loss():
    def loss(model, x):
        before = model.trainable_parameters()
        for _ in range(2):
            _, grads = nn.value_and_grad(model, _inner)(model, x)
            model.update(tree_map(lambda p, g: p - 0.01 * g, model.trainable_parameters(), grads))
        value = _inner(model, x + 1)
        model.update(before)
        return value + model(x).sum()

    return _of_a_model(loss)


@built
def model_given_to_a_nested_gradient():
    def loss(model, x):
        def score(x, model):
            model.seen = x * model.a.weight.sum()
            return model(x).square().sum()

        gradient = mx.grad(score)(x, model)
        value = model.seen.sum() + gradient.sum() * model.b.weight.sum()
        return value + mx.grad(score)(x * 2, model).square().sum()

    return _of_a_model(loss)


@built
def checkpointed_model_behind_its_nested_gradients():
    def loss(model, x):
        gradient = mx.grad(lambda x: _inner(model, x))(x)
        value, grads = nn.value_and_grad(model, _inner)(model, x)
        penalty = grads["a"]["weight"].square().sum() + gradient.square().mean()
        return penalty + value + model.a.weight.sum() + (model.a.bias * model(x)).sum()

    return _of_a_model(loss, checkpointed=True)
