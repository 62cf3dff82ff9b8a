"""Odd programs: mx.custom_function and mx.checkpoint."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from tests.corpus.checks import Call
from tests.corpus.programs import built, called, differentiated

# -- custom functions --------------------------------------------------------------------------------------------


@differentiated((4, 3), (4, 3))
def custom_vjp(x, y):
    @mx.custom_function
    def f(a, b):
        return mx.sin(a) * b

    @f.vjp
    def f_vjp(primals, cotangent, output):
        a, b = primals
        return cotangent * mx.cos(a) * b * 2, cotangent * mx.sin(a) + output

    return (f(x, y) * x + f(y, y)).sum()


@differentiated((4, 3))
def custom_straight_through(x):
    @mx.custom_function
    def rounded(a):
        return mx.round(a)

    @rounded.vjp
    def _(primals, cotangent, output):
        return cotangent

    return (rounded(x * 3) * x).sum()


@differentiated((4, 3))
def custom_with_two_results(x):
    @mx.custom_function
    def f(a):
        return mx.sin(a), mx.cos(a)

    @f.vjp
    def _(primals, cotangents, outputs):
        return cotangents[0] * outputs[1] - cotangents[1] * outputs[0]

    a, b = f(x)
    return (a * a + b * x).sum() + f(x)[0].sum()


@differentiated((4, 3))
def custom_without_anything(x):
    @mx.custom_function
    def f(a):
        return mx.sin(a) * a

    return (f(x) * x).sum()


@differentiated((4, 3))
def custom_with_jvp_only(x):
    @mx.custom_function
    def f(a):
        return mx.sin(a) * a

    @f.jvp
    def _(primals, tangents):
        return tangents * mx.cos(primals)

    return (f(x) * x).sum()


@differentiated((4, 3))
def custom_with_vmap_only(x):
    @mx.custom_function
    def f(a):
        return mx.sin(a) * a

    @f.vmap
    def _(inputs, axes):
        return f(inputs), axes

    return (f(x) * x).sum()


@differentiated((4, 3), (4, 3), (4, 3))
def custom_with_too_few_gradients(x, w, b):
    """MLX goes on among the cotangents, one for each result."""

    @mx.custom_function
    def f(x, w):
        return x * w

    @f.vjp
    def f_vjp(primals, cotangent, output):
        return cotangent * 2

    @mx.custom_function
    def g(x, w, b):
        return x * w, b + x

    @g.vjp
    def g_vjp(primals, cotangents, outputs):
        return None, cotangents[1] * 5, None

    y, z = g(x, w, b)
    return (f(x, w) * b).sum() + (y * 10 + z * z).sum()


@differentiated((4, 3))
def custom_with_everything(x):
    @mx.custom_function
    def f(a, b):
        return a * b

    @f.vjp
    def f_vjp(primals, cotangent, output):
        return cotangent * primals[1], cotangent * primals[0] * 3

    @f.jvp
    def f_jvp(primals, tangents):
        return tangents[0] * primals[1] * 5

    @f.vmap
    def f_vmap(inputs, axes):
        return inputs[0] * inputs[1] + 1, axes[0]

    inner, tangents = mx.jvp(f, [x, x * 2], [x, x])
    return f(x, x + 1).sum() + mx.vmap(f)(x, x).sum() + (inner[0] * tangents[0]).sum()


@differentiated((4, 3))
def custom_with_closure(x):
    w = x * 2

    @mx.custom_function
    def f(a):
        return a * w

    @f.vjp
    def _(primals, cotangent, output):
        return cotangent * w

    return (f(x) * x).sum()


@differentiated((4, 3), (3,))
def custom_with_trees_and_keywords(x, b):
    @mx.custom_function
    def f(tree, scale=1.0):
        return {"out": tree["x"] * tree["b"][0] * scale, "sum": tree["x"].sum()}

    @f.vjp
    def f_vjp(primals, cotangents, outputs, **kwargs):
        out = cotangents["out"]
        return {"x": out * primals["b"][0] + cotangents["sum"], "b": [(out * primals["x"]).sum(axis=0) * 2]}

    result = f({"x": x, "b": [b]})
    return (result["out"] * x).sum() + result["sum"] * 0.1


@differentiated((4, 3))
def custom_in_a_custom(x):
    @mx.custom_function
    def inner(a):
        return mx.exp(a)

    @inner.vjp
    def inner_vjp(primal, cotangent, output):
        return cotangent * output * 0.5

    @mx.custom_function
    def outer(a):
        return inner(a) * a

    @outer.vjp
    def outer_vjp(primal, cotangent, output):
        return cotangent * inner(primal) + mx.vjp(inner, [primal], [cotangent])[1][0]

    return (outer(x * 0.3) * x).sum() + mx.grad(lambda t: inner(t).sum())(x).sum()


@differentiated((4, 3))
def custom_whose_gradient_is_unused(x):
    calls = []

    @mx.custom_function
    def f(a, b):
        return a * 2, b * 3

    @f.vjp
    def f_vjp(primals, cotangents, outputs):
        calls.append(1)
        return cotangents[0] * 2, cotangents[1] * 3

    first, _ = f(x, mx.stop_gradient(x))
    unused, _ = f(x * 2, x)
    return first.sum() + (mx.stop_gradient(unused) * x).sum() + len(calls)


@differentiated((4, 3))
def custom_that_clips_gradients(x):
    @mx.custom_function
    def clipped(a):
        return a

    @clipped.vjp
    def _(primal, cotangent, output):
        norm = mx.sqrt((cotangent * cotangent).sum())
        if norm.item() > 1:
            return cotangent / norm
        return cotangent

    return (clipped(mx.sin(x) * 10) ** 2).sum()


@built
def custom_that_prints_in_its_vjp():
    printed = []

    @mx.custom_function
    def watched(a):
        return a * 1

    @watched.vjp
    def _(primal, cotangent, output):
        printed.append((primal.shape, float(cotangent.sum())))
        return cotangent

    return Call(lambda x: (watched(mx.tanh(x)) * watched(x)).sum(), [mx.arange(4.0)], 0, after=lambda: printed)


@called((4, 3))
def custom_under_transforms_at_the_top(x):
    @mx.custom_function
    def f(a):
        return mx.sin(a)

    @f.vjp
    def f_vjp(primal, cotangent, output):
        return cotangent * 7

    @f.jvp
    def f_jvp(primal, tangent):
        return tangent * 11

    @f.vmap
    def f_vmap(inputs, axes):
        return inputs * 13, axes

    return f(x), mx.grad(lambda t: f(t).sum())(x), mx.jvp(f, [x], [x]), mx.vmap(f)(x), mx.vjp(f, [x], [x])


# -- checkpoints -------------------------------------------------------------------------------------------------


@differentiated((4, 3))
def checkpoint(x):
    def f(t):
        return mx.sin(t) * mx.exp(t) * t

    g = mx.checkpoint(f)
    return (g(x) * x + g(x * 2)).sum()


@differentiated((4, 3), (3,))
def checkpoint_with_closure(x, w):
    g = mx.checkpoint(lambda t: mx.tanh(t * w))
    return (g(x) * w).sum()


@differentiated((4, 3))
def checkpoint_with_random_numbers(x):
    g = mx.checkpoint(lambda t: t * mx.random.normal(t.shape))
    return (g(x) * x).sum()


@differentiated((4, 3), (3,))
def checkpoint_with_random_numbers_and_closure(x, w):
    dropout = nn.Dropout(0.5)

    def f(t, u):
        return dropout(mx.tanh(t * w)) * u + mx.random.uniform(shape=w.shape)

    g = mx.checkpoint(f)
    h = g(x, x + 1)
    return (g(h, h) * mx.random.bernoulli(0.5, x.shape)).sum()


@differentiated((4, 3))
def checkpoint_in_a_checkpoint(x):
    inner = mx.checkpoint(lambda t: mx.sin(t) * t)
    outer = mx.checkpoint(lambda t: inner(t) * inner(t * 2) + t)
    return (outer(x) * x).sum()


@differentiated((4, 3))
def checkpoint_chain(x):
    block = mx.checkpoint(lambda t, s: mx.tanh(t * s) + t)
    for number in range(6):
        x = block(x, number * 0.5)
    return x.sum()


@differentiated((4, 3), (3,))
def checkpoint_with_trees(x, b):
    def f(tree, *, more):
        return [tree["a"] * b, {"k": (tree["a"] + more[0]).sum(axis=0)}]

    first, second = mx.checkpoint(f)({"a": x}, more=[x * 2])
    return (first * second["k"]).sum()


@differentiated((4, 3))
def checkpoint_with_an_unused_result(x):
    used, _ = mx.checkpoint(lambda t: (mx.sin(t), mx.exp(t)))(x)
    same = mx.checkpoint(lambda t: t)(x)
    constant = mx.checkpoint(lambda t: mx.ones((3,)))(x)
    return (used * same * constant).sum()


@differentiated((4, 3))
def checkpoint_around_a_no_op(x):
    f = mx.checkpoint(lambda t: (mx.sin(t).astype(mx.float32) * t.reshape(4, 3)).sum(axis=0).astype(t.dtype))
    return (f(x) * x).sum()


@differentiated((4, 3))
def checkpoint_with_in_place_code(x):
    def f(t):
        y = t * 2
        y[0] = t[1]
        y += t
        return y

    return (mx.checkpoint(f)(x) * x).sum()


@differentiated((4, 3))
def checkpoint_of_a_custom_function(x):
    @mx.custom_function
    def f(a):
        return mx.round(a)

    @f.vjp
    def _(primal, cotangent, output):
        return cotangent * 2

    return (mx.checkpoint(lambda t: f(t * 3) * t)(x) * x).sum()


@differentiated((3,))
def checkpoint_under_nested_transforms(x):
    f = mx.checkpoint(lambda t: mx.sin(t) * t)
    g = mx.grad(lambda t: f(t).sum())(x)
    return (g * f(x)).sum() + mx.vmap(mx.checkpoint(lambda t: t * t))(x).sum()


@built
def checkpoint_runs_its_function_twice():
    runs = []

    def f(x):
        runs.append(len(runs))
        return mx.sin(x) * len(runs)

    return Call(lambda x: (mx.checkpoint(f)(x) * x).sum(), [mx.arange(4.0)], 0, after=lambda: runs)


@built
def checkpointed_module():
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.GELU(), nn.Linear(4, 1))
    first = nn.utils.checkpoint(model.layers[0])

    def loss(x):
        hidden = first(x)
        for layer in model.layers[1:]:
            hidden = nn.utils.checkpoint(layer)(hidden)
        return (hidden**2).mean()

    return Call(loss, [mx.ones((5, 3))], model)
