"""Small training programs with a hook in them, one for each feature and for features in each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from tests.timeline.written import Hook, Program

STEPS = 3
Inner = Callable[[mx.array, mx.array], mx.array]


def inputs() -> tuple[dict[str, mx.array], mx.array]:
    """Parameters and data of all programs."""
    params = {"a": mx.array([[0.5, -0.3], [0.2, 0.8]]), "b": mx.array([0.7, -0.4])}
    return params, mx.array([[0.4, -0.9], [0.3, 0.6], [-0.5, 0.1]])


def block(hook: Hook) -> Inner:
    """What most programs put a transform around."""

    def inner(h: mx.array, w: mx.array) -> mx.array:
        u = hook("u", h * w)
        v = hook("v", mx.tanh(u))
        return v + h

    return inner


def plain(hook: Hook) -> Inner:
    return block(hook)


def checkpointed(hook: Hook) -> Inner:
    return mx.checkpoint(block(hook))  # type: ignore[no-any-return]


def checkpointed_twice(hook: Hook) -> Inner:
    inner = mx.checkpoint(block(hook))

    def outer(h: mx.array, w: mx.array) -> mx.array:
        g = hook("g", mx.sin(h) * w)
        return inner(g, w) * h  # type: ignore[no-any-return]

    return mx.checkpoint(outer)  # type: ignore[no-any-return]


def custom(hook: Hook) -> Inner:
    function = mx.custom_function(block(hook))

    @function.vjp
    def backward(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        h, w = primals
        c = hook("c", cotangent * 0.5)
        return c * w + output * 0.1, (c * h).sum(axis=0)

    return function


def custom_without_vjp(hook: Hook) -> Inner:
    function = mx.custom_function(block(hook))

    @function.jvp
    def forward(primals: Any, tangents: Any) -> Any:
        return tangents[0]

    return function


def custom_in_checkpoint(hook: Hook) -> Inner:
    return mx.checkpoint(custom(hook))  # type: ignore[no-any-return]


def checkpoint_in_custom(hook: Hook) -> Inner:
    inner = mx.checkpoint(block(hook))
    function = mx.custom_function(lambda h, w: inner(h, w) * 2)

    @function.vjp
    def backward(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        h, w = primals
        return cotangent * w, (mx.cos(output) * h).sum(axis=0)

    return function


def mapped(hook: Hook) -> Inner:
    def inner(h: mx.array, w: mx.array) -> mx.array:
        return hook("v", mx.vmap(lambda row: mx.sin(row * w) + row)(h))

    return inner


def mapped_and_looked_at(hook: Hook) -> Inner:
    def inner(h: mx.array, w: mx.array) -> mx.array:
        v = mx.vmap(lambda row, u: mx.sin(row * u) + row, in_axes=(0, None))(h, w)
        if hook.eager:
            mx.eval(v)
        return hook("v", v)

    return inner


def nested_gradient(hook: Hook) -> Inner:
    def inner(h: mx.array, w: mx.array) -> mx.array:
        g = mx.grad(lambda q: (mx.sin(q * w) * q).sum())(hook("u", h * 2))
        return hook("v", g * h)

    return inner


def nested_gradient_that_looks(hook: Hook) -> Inner:
    def inner(h: mx.array, w: mx.array) -> mx.array:
        def energy(q: mx.array) -> mx.array:
            s = mx.sin(q * w)
            if hook.eager:
                mx.eval(s)
            return (s * q).sum()

        value, g = mx.value_and_grad(energy)(hook("u", h * 2))
        return hook("v", g * value)

    return inner


def nested_jvp(hook: Hook) -> Inner:
    def inner(h: mx.array, w: mx.array) -> mx.array:
        tangent = hook("u", h * 3)
        outs, tangents = mx.jvp(lambda q: mx.tanh(q * w), [h], [tangent])
        return hook("v", tangents[0]) + outs[0]

    return inner


def nested_vjp(hook: Hook) -> Inner:
    def inner(h: mx.array, w: mx.array) -> mx.array:
        cotangent = hook("u", h * 3)
        outs, grads = mx.vjp(lambda q, r: mx.tanh(q * r), [h, w], [cotangent])
        return hook("v", grads[0]) + outs[0] * grads[1]

    return inner


def checkpointed_map(hook: Hook) -> Inner:
    return mx.checkpoint(mapped(hook))  # type: ignore[no-any-return]


def checkpointed_gradient(hook: Hook) -> Inner:
    return mx.checkpoint(nested_gradient(hook))  # type: ignore[no-any-return]


def compiled_inside(hook: Hook) -> Inner:
    return mx.compile(block(hook))  # type: ignore[no-any-return]


def in_place(hook: Hook) -> Inner:
    def inner(h: mx.array, w: mx.array) -> mx.array:
        u = hook("u", h * w)
        u[0, 1] = 0.25
        u += h
        return hook("v", mx.tanh(u))

    return inner


def checkpointed_in_place(hook: Hook) -> Inner:
    return mx.checkpoint(in_place(hook))  # type: ignore[no-any-return]


def noisy(hook: Hook) -> Inner:
    def inner(h: mx.array, w: mx.array) -> mx.array:
        noise = mx.random.normal(h.shape, scale=0.1)
        return hook("v", mx.tanh(hook("u", h * w) + noise))

    return inner


def checkpointed_noise(hook: Hook) -> Inner:
    return mx.checkpoint(noisy(hook))  # type: ignore[no-any-return]


def scaled_noise(hook: Hook) -> Inner:
    """The gradient of the scale of a noise depends on what was drawn."""

    def inner(h: mx.array, w: mx.array) -> mx.array:
        return hook("v", mx.random.normal(h.shape, scale=hook("u", w * 0.3)) + h)

    return inner


INNER: dict[str, Callable[[Hook], Inner]] = {
    function.__name__: function
    for function in (
        plain, checkpointed, checkpointed_twice, custom, custom_without_vjp, custom_in_checkpoint, checkpoint_in_custom,
        mapped, mapped_and_looked_at, nested_gradient, nested_gradient_that_looks, nested_jvp, nested_vjp,
        checkpointed_map, checkpointed_gradient, compiled_inside, in_place, checkpointed_in_place, noisy,
        checkpointed_noise, scaled_noise,
    )
}  # fmt: skip


def training(inner: Callable[[Hook], Inner], compiled: bool) -> Program:
    """A training loop around a block: by hand, with every kind of state that a compiled step can have."""

    def program(hook: Hook) -> Callable[[], Any]:
        hook.eager = not compiled
        function: Inner
        momentum = {"a": mx.zeros((2, 2)), "b": mx.zeros((2,))}
        params, x = inputs()
        state = [params, momentum, mx.random.state]

        def loss_fn(params: dict[str, mx.array], x: mx.array) -> mx.array:
            h = hook("h", mx.tanh(x @ params["a"]))
            r = hook("r", function(h, params["b"]))
            return (hook("l", (r * r).mean()) + (h * 0.1).sum()) * 2

        def step(x: mx.array) -> mx.array:
            loss, grads = mx.value_and_grad(loss_fn)(params, x)
            for name in params:
                m = hook(f"m.{name}", momentum[name] * 0.9 + grads[name])
                momentum[name] = m
                params[name] = params[name] - 0.1 * m
            return loss

        def run() -> Any:
            nonlocal function
            function = inner(hook)
            mx.random.seed(5)
            taken = partial(mx.compile, inputs=state, outputs=state)(step) if compiled and not hook.twin else step
            losses = []
            for number in range(STEPS):
                hook.begin(number)
                losses.append(taken(x + number))
            return losses, dict(params), dict(momentum), mx.random.uniform()

        return run

    return program


def with_optimizer(wrapped: bool, compiled: bool) -> Program:
    """A model with an optimizer of mlx's, its layer under `nn.utils.checkpoint` or not."""

    def program(hook: Hook) -> Callable[[], Any]:
        hook.eager = not compiled
        mx.random.seed(3)

        class Layer(nn.Module):
            def __init__(self, number: int) -> None:
                super().__init__()
                self.linear = nn.Linear(2, 2)
                self._number = number

            def __call__(self, x: mx.array) -> mx.array:
                u = hook(f"u{self._number}", self.linear(x))
                return hook(f"v{self._number}", nn.gelu(u)) + x

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = [Layer(0), Layer(1)]

            def __call__(self, x: mx.array) -> mx.array:
                for layer in self.layers:
                    x = nn.utils.checkpoint(layer)(x) if wrapped else layer(x)
                return x

        model, optimizer = Net(), optim.Adam(0.1)
        x = inputs()[1]
        state = [model.state, optimizer.state]
        both = nn.value_and_grad(model, lambda model, x: (model(x) ** 2).mean())

        def step(x: mx.array) -> mx.array:
            loss, grads = both(model, x)
            optimizer.update(model, grads)
            return loss

        def run() -> Any:
            taken = partial(mx.compile, inputs=state, outputs=state)(step) if compiled and not hook.twin else step
            losses = []
            for number in range(STEPS):
                hook.begin(number)
                losses.append(taken(x + number))
            return losses, model.parameters(), tree_map(lambda array: array, optimizer.state)

        return run

    return program
