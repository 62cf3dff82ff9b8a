"""Odd programs: grad, value_and_grad, vjp, jvp and vmap by themselves."""

from __future__ import annotations

import functools
from collections import namedtuple

import mlx.core as mx

from tests.corpus.programs import called

Point = namedtuple("Point", "x y")


@called((3,), (3,))
def named_tuples(x, y):
    def f(point, scale):
        return (point.x * point.y * scale).sum(), Point(point.x * 2, [point.y])

    return mx.value_and_grad(f)(Point(x, y), 3.0)


@called((3,), (3,))
def trees_of_every_sort(x, y):
    def f(tree, rest):
        a, (b, c) = tree["pair"]
        return (a * b).sum() + (c * rest["k"]).sum() + (tree["deep"]["er"][0] ** 2).sum()

    tree = {"pair": (x, [y, x * 2]), "deep": {"er": [y + 1], "unused": x}, "empty": {}, "none": []}
    return mx.value_and_grad(f, argnums=(0, 1))(tree, {"k": y * 3})


@called((3,), (3,))
def argnums_and_argnames(x, y):
    def f(a, b, *, c, d=2.0):
        return (a * b * c * d).sum()

    return (
        mx.value_and_grad(f, argnums=1)(x, y, c=x),
        mx.value_and_grad(f, argnums=(0, 1), argnames=("c",))(x, y, c=y, d=3.0),
        mx.grad(f, argnames="c")(x, y, c=y),
        mx.grad(f, argnums=[1], argnames=["d", "c"])(x, y, c=y, d=x),
        mx.grad(f, argnums=[-1 + 1])(x, y, c=x),
    )


@called((3,))
def positional_argument_given_by_name(x):
    def f(w, scale=1.0, bias=None):
        return (w * scale + (0 if bias is None else bias)).sum()

    return mx.value_and_grad(f)(x, bias=x, scale=2.0), mx.grad(f, argnames="bias")(x, bias=x * 2)


class Quadratic:
    """A callable object with methods to be differentiated."""

    def __init__(self, a):
        self.a = a
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return (self.a * x * x).sum()

    def shifted(self, x, by=1.0):
        return self(x + by), self.calls

    @staticmethod
    def still(x):
        return (x * 3).sum()

    @classmethod
    def made(cls, x):
        return cls(x)(x)


@called((3,))
def methods_and_callable_objects(x):
    f = Quadratic(x + 1)
    return (
        mx.value_and_grad(f)(x),
        mx.value_and_grad(f.shifted)(x, by=2.0),
        mx.grad(Quadratic.still)(x),
        mx.grad(Quadratic.made)(x),
        mx.grad(Quadratic.__call__, argnums=1)(f, x),
        f.calls,
    )


@called((3,), (3,))
def partials_and_wrappers(x, y):
    def f(a, b, scale=1.0):
        return (a * b * scale).sum()

    @functools.wraps(f)
    def wrapped(*args, **kwargs):
        return f(*args, **kwargs) * 2

    return (
        mx.value_and_grad(functools.partial(f, x))(y),
        mx.value_and_grad(functools.partial(f, scale=3.0), argnums=1)(x, y),
        mx.value_and_grad(functools.partial(f, b=y))(x),
        mx.grad(wrapped, argnums=(0, 1))(x, y),
        mx.grad(mx.sum)(x),
        mx.grad(functools.lru_cache(lambda a: (a * 2).sum()).__wrapped__)(x),
        [mx.grad(lambda a, k=k: (a**k).sum())(x) for k in (1, 2, 3)],
    )


@called((3,))
def builtin_functions_differentiated(x):
    return mx.value_and_grad(mx.logsumexp)(x), mx.grad(mx.linalg.norm)(x), mx.value_and_grad(mx.array.mean)(x)


@called((3,), (3,))
def one_transform_called_many_times(x, y):
    step = mx.value_and_grad(lambda w, t: ((w - t) ** 2).sum())
    losses = []
    for _ in range(5):
        loss, grad = step(x, y)
        x = x - 0.3 * grad
        losses.append(loss)
    return losses, x, step(y, y)


@called((3,))
def gradients_of_gradients_at_the_top(x):
    f = lambda t: (mx.sin(t) * t**2).sum()  # noqa: E731
    g = mx.grad(f)
    h = mx.grad(lambda t: g(t).sum())
    return f(x), g(x), h(x), mx.grad(lambda t: h(t)[0])(x)


@called((4, 3), (3,))
def vmap_at_the_top(x, w):
    f = mx.vmap(lambda row: mx.tanh(row * w).sum())
    g = mx.vmap(mx.value_and_grad(lambda row: (row * w).sum() ** 2))
    return f(x), g(x), mx.grad(lambda v: f(v).sum())(x), mx.vmap(mx.vmap(mx.sin))(x)


@called((4, 3))
def jvp_and_vjp_at_the_top(x):
    f = lambda a: (mx.sin(a), a.sum())  # noqa: E731
    return mx.jvp(f, [x], [mx.ones((4, 3))]), mx.vjp(f, [x], [x, mx.array(1.0)])


@called((4, 3))
def jvp_of_grad_and_grad_of_jvp(x):
    f = lambda a: (mx.exp(a * 0.3) * a).sum()  # noqa: E731
    forward = lambda a: mx.jvp(f, [a], [mx.ones((4, 3))])[1][0]  # noqa: E731
    return mx.jvp(mx.grad(f), [x], [x]), mx.grad(forward)(x), mx.value_and_grad(lambda a: forward(a) * a.sum())(x)


@called((3,))
def auxiliary_outputs_of_every_sort(x):
    def f(t):
        y = t * 2
        return (y * t).sum(), y, None, "text", 3, {"a": [y, {"b": mx.sin(y)}]}, t

    return mx.value_and_grad(f)(x)


@called((3,))
def result_used_after_the_gradient(x):
    kept = []

    def f(t):
        hidden = mx.tanh(t)
        kept.append(hidden)
        return (hidden * t).sum()

    value, grad = mx.value_and_grad(f)(x)
    return value + kept[0].sum(), grad * kept[0], len(kept)


@called((3,))
def gradient_of_a_captured_array(x):
    """What is captured by a closure is a constant, even if it is the same array as the argument."""
    return mx.grad(lambda t: (t * x).sum())(x), mx.grad(lambda t: (t * t).sum() + (x * x).sum())(x)


@called((3,))
def same_array_for_two_arguments(x):
    def f(a, b):
        return (a * a * b).sum()

    return mx.grad(f, argnums=(0, 1))(x, x), mx.grad(lambda tree: f(tree[0], tree[1]))([x, x])


@called((2, 3))
def generator_of_gradients(x):
    def steps(w):
        while True:
            value, grad = mx.value_and_grad(lambda t: (t**2).sum())(w)
            w = w - 0.1 * grad
            yield value, w

    walk = steps(x)
    return [next(walk) for _ in range(4)]


@called((4, 3))
def gradient_accumulation(x):
    w = mx.ones((3,))
    step = mx.value_and_grad(lambda p, row: ((row * p).sum() - 1) ** 2)
    total = mx.zeros((3,))
    for row in x:
        _, grad = step(w, row)
        total = total + grad / 4
    return w - total


@called((4, 3))
def adversarial_example(x):
    w = mx.ones((3,)) * 0.5

    def loss(weights, data):
        return mx.logaddexp(0.0, -(data @ weights)).mean()

    attacked = x + 0.1 * mx.sign(mx.grad(loss, argnums=1)(w, x))
    return mx.value_and_grad(loss)(w, attacked)


@called((3,))
def exception_inside_of_a_gradient(x):
    seen = []

    def f(t):
        if len(seen) < 2:
            seen.append(float(t.sum().item()))
            raise KeyError("not yet")
        return (t * t).sum()

    for _ in range(2):
        try:
            mx.grad(f)(x)
        except KeyError as error:
            seen.append(str(error))
    return mx.value_and_grad(f)(x), seen


@called((3,))
def loss_that_is_not_a_scalar(x):
    messages = []
    for wrong in (lambda t: t * 2, lambda t: "text", lambda t: (1, t), lambda t: None, lambda t: [t.sum()]):
        for transform in (mx.grad, mx.value_and_grad):
            try:
                transform(wrong)(x)
            except Exception as error:
                messages.append((type(error).__name__, str(error)))
    return messages


@called((3,))
def arguments_that_cannot_be_differentiated(x):
    messages = []
    for call in (
        lambda: mx.grad(lambda t: t)(3.0),
        lambda: mx.grad(lambda t: t["a"].sum())({"a": "text"}),
        lambda: mx.grad(lambda t: t.sum(), argnums=2)(x),
        lambda: mx.grad(lambda t: t.sum(), argnames="missing")(x),
        lambda: mx.grad(lambda t: t.sum(), argnums=(0, 0))(x),
        lambda: mx.grad(lambda t: t.sum())(),
        lambda: mx.grad(lambda t: t.astype(mx.int32).sum())(x),
    ):
        try:
            messages.append(call())
        except Exception as error:
            messages.append((type(error).__name__, str(error).splitlines()[0]))
    return messages


@called((2,))
def functions_that_return_what_cannot_be_differentiated(x):
    """MLX says so in its own words, whatever transform it is."""
    said = []
    for result in (
        lambda t: t,
        lambda t: [t.sum(), t],
        lambda t: (),
        lambda t: 3.0,
        lambda t: {"a": t},
        lambda t: None,
    ):
        for transform in (mx.grad, mx.value_and_grad, lambda f: lambda t: mx.vjp(f, [t], [t])):
            try:
                said.append(str(transform(result)(x)))
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
    return said
