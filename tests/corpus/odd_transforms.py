"""Odd programs: grad, value_and_grad, vjp, jvp and vmap inside of a loss."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from tests.corpus.checks import Call
from tests.corpus.programs import built, differentiated


@differentiated((4, 3))
def nested_grad(x):
    g = mx.grad(lambda t: (mx.sin(t) * t).sum())(x)
    return (g * g * x).sum()


@differentiated((4, 3), (3,))
def nested_grad_closure(x, w):
    def inner(t):
        return (mx.tanh(t * w) * x).sum()

    value, grad = mx.value_and_grad(inner)(x * 2)
    return (grad * w).sum() + value


@differentiated((4, 3), (3,))
def gradient_penalty(x, w):
    def critic(t):
        return mx.tanh(t @ w).sum()

    grad = mx.grad(critic)(x)
    return ((mx.linalg.norm(grad, axis=-1) - 1) ** 2).mean() + critic(x)


@differentiated((4,))
def grad_of_grad_of_grad(x):
    def cubic(t):
        return (t**4 * mx.sin(t)).sum()

    first = mx.grad(cubic)
    second = mx.grad(lambda t: first(t).sum())
    third = mx.grad(lambda t: (second(t) * t).sum())
    return (third(x) * x).sum() + second(x).mean() + first(x)[0]


@differentiated((3,), (3, 3))
def hessian_vector_product(x, a):
    def energy(t):
        return t @ a @ t + mx.exp(t).sum()

    product = mx.grad(lambda t: (mx.grad(energy)(t) * mx.stop_gradient(x)).sum())(x)
    return (product * x).sum()


@differentiated((3,))
def hessian_by_vmap(x):
    def energy(t):
        return (mx.sin(t) * t.sum()).sum()

    hessian = mx.vmap(lambda v: mx.grad(lambda t: (mx.grad(energy)(t) * v).sum())(x))(mx.eye(3))
    return (hessian * hessian).sum() + mx.trace(hessian)


@differentiated((3,), (2, 3))
def jacobian_by_vmap_of_vjp(x, w):
    def f(t):
        return mx.tanh(w @ t)

    rows = mx.vmap(lambda v: mx.vjp(f, [x], [v])[1][0])(mx.eye(2))
    columns = [mx.jvp(f, [x], [v])[1][0] for v in mx.eye(3)]
    return (rows * mx.stack(columns, axis=1)).sum()


@differentiated((4, 3))
def nested_argnums_and_tuples(x):
    def f(a, b, c):
        return (a * b + mx.sin(c) * a).sum()

    value, (one, two) = mx.value_and_grad(f, argnums=(0, 2))(x, x * 2, x + 1)
    return value * 0.1 + (one * two).sum() + mx.grad(f, argnums=1)(x, x, x).mean()


@differentiated((4, 3))
def nested_argnames(x):
    def f(a, *, scale, shift=None):
        return (a * scale).sum() + (0 if shift is None else (a * shift**2).sum())

    value, (nothing, grads) = mx.value_and_grad(f, argnums=[], argnames="scale")(x, scale=x * 2)
    assert nothing is None or len(nothing) == 0
    grad, named = mx.grad(f, argnums=0, argnames=["scale", "shift"])(x, scale=x, shift=mx.sin(x))
    return value + (grads["scale"] * x).sum() + (grad * named["shift"] + named["scale"]).sum()


@differentiated((4, 3), (3,))
def nested_tree(x, b):
    def f(tree):
        return (tree["w"] * tree["list"][0]).sum() + (tree["list"][1][0] * b).sum()

    value, grads = mx.value_and_grad(f)({"w": x, "list": [x + 1, (x[0], x[1])]})
    return value + (grads["w"] * grads["list"][0]).sum() + grads["list"][1][0] @ b + grads["list"][1][1].sum()


@differentiated((4, 3))
def nested_with_auxiliary_outputs(x):
    def f(t):
        hidden = mx.sin(t)
        return (hidden * t).sum(), {"hidden": hidden, "n": 3}, [t * 2]

    (value, extra, more), grad = mx.value_and_grad(f)(x)
    return value * extra["n"] + (extra["hidden"] * grad).sum() + (more[0] * x).sum()


@differentiated((4, 3), (3,))
def vmap(x, w):
    return mx.vmap(lambda row: (row * w).sum() * row)(x).sum()


@differentiated((4, 3), (3, 5))
def vmap_with_closures(x, w):
    y = x * 2

    def f(row):
        return mx.tanh(row @ w) * y.sum() + (w * w).sum()

    return (mx.vmap(f)(x) * mx.vmap(f)(y)).sum() + w.sum()


@differentiated((4, 3))
def vmap_of_grad(x):
    return mx.vmap(mx.grad(lambda row: (row**3).sum()))(x).sum()


@differentiated((4, 3), (3,))
def vmap_of_grad_with_closure(x, w):
    def per_example(row, target):
        return ((row * w).sum() - target) ** 2

    grads = mx.vmap(mx.grad(per_example), in_axes=(0, 0))(x, x[:, 0])
    norms = mx.linalg.norm(grads, axis=1, keepdims=True)
    return (grads / mx.maximum(norms, 1.0)).sum() + (norms * x).mean()


@differentiated((4, 3), (3,))
def grad_of_vmap_with_closure(x, w):
    y = mx.exp(x * 0.1)

    def total(t):
        return mx.vmap(lambda row, other: mx.tanh(row * w) @ other + y.mean())(t, y).sum()

    return (mx.grad(total)(x) * y).sum() + total(x * w)


@differentiated((2, 4, 3))
def vmap_of_vmap_with_axes(x):
    inner = mx.vmap(lambda a, b: (a * b).sum(), in_axes=(0, None))
    outer = mx.vmap(inner, in_axes=(2, 0))
    moved = mx.vmap(lambda a: (a * 2, a.sum()), in_axes=1, out_axes=(1, 0))(x[0])
    return (outer(x[:, :, :].transpose(1, 0, 2), x[0].T[:, :2].reshape(3, 2)) ** 2).sum() + moved[0].sum() * moved[1][0]


@differentiated((4, 3))
def vmap_over_a_tree(x):
    def f(tree, scale):
        return {"out": tree["a"] * tree["b"][0] * scale, "sum": tree["a"].sum()}

    result = mx.vmap(f, in_axes=({"a": 0, "b": [1]}, None))({"a": x, "b": [x.T]}, x[0, 0])
    return (result["out"] * x).sum() + result["sum"].mean()


@differentiated((4, 3))
def jvp(x):
    outputs, tangents = mx.jvp(lambda a: mx.sin(a) * a, [x], [x * 2])
    return (outputs[0] * tangents[0]).sum()


@differentiated((4, 3), (3,))
def jvp_with_closure(x, w):
    def f(a, b):
        return mx.tanh(a @ w) * b.sum(), a * b[0, 0]

    outputs, tangents = mx.jvp(f, [x, x * 2], [mx.ones((4, 3)), w * x])
    return (outputs[0] * tangents[0]).sum() + (tangents[1] * outputs[1]).sum()


@differentiated((4, 3))
def vjp(x):
    outputs, grads = mx.vjp(lambda a: mx.sin(a) * a, [x], [x * 2])
    return (outputs[0] * grads[0]).sum()


@differentiated((4, 3))
def vjp_of_several(x):
    def f(a, b):
        return a * b, mx.exp(a).sum()

    outputs, grads = mx.vjp(f, [x, x + 1], [x * x, mx.array(2.0)])
    return (outputs[0] * grads[1]).sum() + outputs[1] + (grads[0] * x).mean()


@differentiated((5,))
def fixed_point_with_implicit_gradient(x):
    def step(z):
        return mx.tanh(0.5 * z + x)

    z = mx.zeros((5,))
    for _ in range(10):
        z = mx.stop_gradient(step(z))
    _, grads = mx.vjp(step, [z], [mx.ones((5,))])
    return step(z).sum() + (grads[0] * mx.stop_gradient(z)).sum()


@differentiated((4, 3), (4, 3))
def inner_gradient_steps(x, y):
    """Model-agnostic meta-learning: the loss after two steps of learning."""

    def inner(w):
        return ((x @ w - y[:, 0]) ** 2).mean()

    w = x[0] * 0.1
    for _ in range(2):
        w = w - 0.1 * mx.grad(inner)(w)
    return ((y @ w - x[:, 1]) ** 2).mean()


@built
def meta_learning_of_a_model():
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def loss(x):
        def inner(params):
            model.update(params)
            return (model(x) ** 2).mean()

        before = model.trainable_parameters()
        grads = mx.grad(inner)(before)
        norm = sum((g * g).sum() for _, g in nn.utils.tree_flatten(grads))
        model.update(before)
        return (model(x) * norm).mean()

    return Call(loss, [mx.ones((2, 3))], model)


@differentiated((3, 3), (4, 3))
def nested_results_that_are_evaluated(w, x):
    h = x @ w
    g = mx.grad(lambda q: (q**3 * 0.1).sum())
    slope = g(h)
    turned = mx.jvp(g, [h], [h * 2])[1][0]
    pulled = mx.vjp(lambda q, r: q * q @ r, [h, w], [mx.sin(h)])[1]
    mapped = mx.vmap(lambda row: row**3)(h)
    largest = (slope.abs() + turned).max().item()
    mx.eval(pulled[1], mapped)
    return (slope * turned / largest).sum() + pulled[0].sum() + (pulled[1] * w).sum() + mapped.sum()


@differentiated((3, 3), (4, 3))
def a_rule_of_its_own_behind_calls_that_stop(w, x):
    """It gives something where nothing arrives, so it shows whether it runs."""

    @mx.custom_function
    def ruled(q):
        return mx.sin(q)

    @ruled.vjp
    def ruled_vjp(primals, cotangent, output):
        return cotangent * 0.5 + output * 0.1

    stopped = mx.vmap(lambda q: mx.sin(mx.stop_gradient(q * 1.1)))(ruled(x @ w))
    one = mx.vmap(lambda q, r: mx.cos(q) * mx.stop_gradient(mx.exp(r)).sum())(x @ w + 1, ruled(x @ w * 2))
    mixed = mx.vmap(lambda q: mx.stop_gradient(q * 3) * q + mx.stop_gradient(q))(ruled(x @ w - 1))
    two = mx.vmap(lambda q, r: (q * 2, mx.tanh(mx.stop_gradient(r) * 3)))(x @ w * 0.5, ruled(x @ w * 4))
    slope = mx.grad(lambda q, r: (mx.stop_gradient(r) * q * q).sum())(x @ w, ruled(x @ w + 3))
    taken = sum(part.sum() for part in (one, mixed, *two, slope))
    return taken + (stopped * stopped).mean() + 0 * w.sum()
