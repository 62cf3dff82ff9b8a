"""Odd programs: mx.custom_function, mx.checkpoint and mx.compile."""

from __future__ import annotations

import functools

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

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


# -- compiled functions ------------------------------------------------------------------------------------------


@differentiated((4, 3), (3, 5))
def compiled(x, w):
    f = mx.compile(lambda a, b: mx.tanh(a @ b) * 2)
    return (f(x, w) ** 2).sum()


@differentiated((4, 3))
def compiled_by_decorator(x):
    @functools.partial(mx.compile, shapeless=True)
    def f(a):
        return nn.gelu(a) * nn.silu(a)

    return f(x).sum() + nn.gelu_approx(x).sum() + nn.mish(x).sum()


@differentiated((4, 3), (3,))
def compiled_with_closure_in_a_loss(x, w):
    f = mx.compile(lambda a: a * w + w.sum())
    g = mx.compile(lambda a: f(a) * f(a * 2))
    return g(x).sum() + f(x[0]).mean()


@differentiated((4, 3))
def compiled_with_trees_in_a_loss(x):
    @mx.compile
    def f(tree, scale, name):
        return {"a": tree["k"][0] * scale, "b": (tree["k"][1], tree["k"][0].sum())}

    result = f({"k": [x, x + 1]}, 2.0, "name")
    return (result["a"] * result["b"][0]).sum() + result["b"][1] + f({"k": [x[0], x[1]]}, 3, "other")["a"].sum()


@differentiated((4, 3))
def compiled_gradient_in_a_loss(x):
    grad = mx.compile(mx.grad(lambda t: (mx.sin(t) * t).sum()))
    return (grad(x) * x).sum()


@differentiated((4, 3))
def compiled_with_random_numbers_in_a_loss(x):
    f = functools.partial(mx.compile, inputs=mx.random.state, outputs=mx.random.state)(
        lambda a: a * mx.random.normal(a.shape)
    )
    return (f(x) * f(x)).sum() + f(x[0]).sum()


@called((2, 3))
def compiled_and_called_again_and_again(x):
    """The Python code of a compiled function runs once for each kind of arguments."""
    runs = []

    @mx.compile
    def f(x, times=1, *, name="f"):
        runs.append((x.shape, times, name))
        return x * times + len(runs)

    results = [f(x), f(x + 1), f(x, 2), f(x, 2), f(x, times=2), f(x, 2.0), f(x, name="g"), f(x[0]), f(x[1])]
    results += [f(x.astype(mx.float16)), f(x, 1), f(x, name="f"), f(mx.array(1.0)), f(x[None]), f(x * 2)]
    return results, runs


@called((2, 3))
def compiled_without_shapes(x):
    runs = []

    @functools.partial(mx.compile, shapeless=True)
    def f(x, y):
        runs.append(x.ndim)
        return mx.tanh(x) * y

    return f(x, x + 1), f(x[:1], x[:1]), f(x[0], x[1]), f(x * 2, mx.array(3.0)), f(x, x[:1]), runs


@called((4,))
def compiled_in_a_loss_called_again_and_again(x):
    runs = []

    @mx.compile
    def f(x):
        runs.append(1)
        return mx.sin(x) * x

    step = mx.value_and_grad(lambda t: (f(t) * f(t + 1)).sum())
    return step(x), f(x), step(x), f(x + 1), mx.grad(lambda t: f(t).sum())(x), mx.vmap(f)(x), runs


@called((4, 3))
def compiled_gradient_called_again_and_again(x):
    runs = []

    def loss(w, x):
        runs.append(x.shape)
        return ((x @ w) ** 2).mean()

    w = mx.ones((3,))
    step = mx.compile(mx.value_and_grad(loss))
    losses = []
    for _ in range(3):
        value, grad = step(w, x)
        w = w - 0.1 * grad
        losses.append(value)
    return losses, w, step(w, x[:2]), runs


@called((3,))
def compiled_with_one_array_twice(x):
    f = mx.compile(lambda a, b: a - 2 * b)
    return f(x, x), f(x, x + 1), f(x + 1, x), f(x * 2, x * 2)


def _training_step(fresh_optimizer):
    """The step of the MLX documentation: model, optimizer and random state are captured."""
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
    optimizer = fresh_optimizer()
    state = [model.state, optimizer.state, mx.random.state]
    runs = []

    def loss(x, y):
        return nn.losses.mse_loss(model(x), y)

    @functools.partial(mx.compile, inputs=state, outputs=state)
    def step(x, y):
        runs.append(1)
        value, grads = nn.value_and_grad(model, loss)(x, y)
        optimizer.update(model, grads)
        return value

    return model, optimizer, state, step, runs


@called((5, 3))
def compiled_training_step(x):
    model, optimizer, state, step, runs = _training_step(lambda: optim.Adam(learning_rate=0.01))
    losses = []
    for number in range(4):
        losses.append(step(x + number, x[:, :1]))
        mx.eval(state)
    return losses, runs, model.parameters(), optimizer.state


@built
def compiled_training_step_made_before():
    model, optimizer, state, step, runs = _training_step(lambda: optim.SGD(0.05, momentum=0.9))

    def run(x):
        losses = []
        for number in range(4):
            losses.append(step(x + number, x[:, :1]))
            mx.eval(state)
        return losses, mx.random.normal((2,))

    return Call(run, [mx.ones((5, 3))], after=lambda: (runs, model.parameters(), optimizer.state))


@called((4, 3))
def compiled_model_in_training_and_in_evaluation(x):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4), nn.Dropout(0.5))
    state = [model.state, mx.random.state]
    forward = mx.compile(lambda t: model(t), inputs=state, outputs=state)
    outputs = [forward(x), forward(x + 1)]
    model.eval()
    outputs += [forward(x), mx.compile(lambda t: model(t), inputs=model.state)(x)]
    return outputs, model.parameters()


@called((3,))
def compiled_with_captured_inputs_and_outputs(x):
    state = {"w": mx.ones((3,)), "n": [mx.array(0)]}
    runs = []

    @functools.partial(mx.compile, inputs=state, outputs=state)
    def f(x):
        runs.append(1)
        state["n"][0] = state["n"][0] + 1
        state["w"] = state["w"] * 2 + x
        return state["w"].sum() * x

    results = [f(x), f(x)]
    state["w"] = mx.zeros((3,))
    results += [f(x), f(x + 1)]
    return results, state, runs


@built
def compiled_with_captured_inputs_and_outputs_made_before():
    state = {"w": mx.ones((3,)), "n": [mx.array(0)]}
    runs = []

    @functools.partial(mx.compile, inputs=state, outputs=state)
    def f(x):
        runs.append(1)
        state["n"][0] = state["n"][0] + 1
        state["w"] = state["w"] * 2 + x
        return state["w"].sum() * x

    def run(x):
        results = [f(x), f(x), state["w"] * x]
        state["w"] = mx.zeros((3,))
        return [*results, f(x), f(x + 1)]

    return Call(run, [mx.arange(3.0)], after=lambda: (state, runs))


@called((3,))
def compiled_with_inputs_only(x):
    state = [mx.ones((3,))]

    @functools.partial(mx.compile, inputs=state)
    def f(x):
        return state[0] * x

    results = [f(x)]
    state[0] = x * 5
    results.append(f(x))
    state[0] += 1
    results.append(f(x))
    return results, state


@built
def compiled_with_inputs_in_a_loss_made_before():
    state = {"w": mx.ones((3,))}

    @functools.partial(mx.compile, inputs=state, outputs=state)
    def f(x):
        state["w"] = state["w"] * 2
        return state["w"] * x

    return Call(lambda x: (f(x) * f(x + 1)).sum(), [mx.arange(3.0)], 0, after=lambda: state)


def _with_constants_from_outside(x, compiler, world):
    f = compiler(lambda t: t * world["scale"] + world["array"])
    results = [f(x)]
    world["scale"] = 100.0
    world["array"] = x * 7
    return [*results, f(x + 1), f(x[:1])]


@called((3,))
def compiled_with_constants_from_outside(x):
    """What is captured without being listed as an input is a constant from the first call on."""
    outside = x * 3
    mx.eval(outside)  # MLX refuses to capture what has not been computed
    return _with_constants_from_outside(x, mx.compile, {"scale": 2.0, "array": outside})


@built
def compiled_with_constants_from_outside_made_before():
    world = {"scale": 2.0, "array": mx.ones((3,))}
    f = mx.compile(lambda t: t * world["scale"] + world["array"])
    mx.eval(world)
    return Call(lambda x: _with_constants_from_outside(x, lambda _: f, world), [mx.arange(3.0)])


@built
def compiled_before_and_called_before():
    """A function that has been compiled and run when recording begins does not run its Python code again."""
    runs = []

    @mx.compile
    def f(x):
        runs.append(1)
        return x * len(runs)

    mx.eval(f(mx.arange(4.0)))
    return Call(lambda x: [f(x), f(x + 1), f(x[:2]), f(x[1:3])], [mx.arange(4.0)], after=lambda: runs)


@called((4, 3))
def compiled_results_of_every_sort(x):
    constant = mx.ones((2,))
    f = mx.compile(lambda a, b: (a, [b * 2], {"k": a + b, "same": a}, constant, mx.zeros((2,)), mx.arange(3)))
    first = f(x, x)
    second = f(x + 1, x)
    return first, second, mx.compile(lambda a: a)(x), mx.compile(lambda: mx.ones((2,)))()


@called((4, 3))
def compiled_results_that_are_not_arrays(x):
    f = mx.compile(lambda a: {"array": a * 2, "rest": [None, 3, "text", (1.5, a)]})
    return f(x), f(x + 1), mx.compile(lambda a: 3)(x), mx.compile(lambda a: None)(x)


@called((4, 3))
def compiled_functions_must_not_evaluate(x):
    messages = []
    for wrong in (lambda a: a.sum().item(), lambda a: mx.eval(a * 2) or a, lambda a: a * 2 if a.sum() > 0 else a):
        for call in (mx.compile(wrong), mx.vmap(wrong), mx.grad(mx.compile(lambda a, f=wrong: (f(a) * a).sum()))):
            try:
                messages.append(call(x))
            except Exception as error:
                messages.append((type(error).__name__, str(error).splitlines()[0]))
    return messages


@called((4, 3))
def compiled_arguments_that_mlx_refuses(x):
    messages = []
    f = mx.compile(lambda a, b=None: a * 2)
    for arguments in ((x, {1, 2}), (x, object()), (x, None), (x, [None]), (x, b"bytes"), (x, (1, "a", [2.0]))):
        try:
            messages.append(f(*arguments))
        except Exception as error:
            messages.append((type(error).__name__, str(error).splitlines()[0].split(" at 0x")[0]))
    return messages


@called((4, 3))
def compiled_with_in_place_code(x):
    @mx.compile
    def f(a, b):
        a[0] = b[1]
        a += 1
        c = a * 2
        c[1:] *= b[1:]
        return c, a

    y = x * 1
    first = f(y, x)
    return first, y, f(x, y), x


@called((4, 3))
def compiled_and_then_not(x):
    runs = []

    @mx.compile
    def f(a):
        runs.append(1)
        return mx.tanh(a) * 2

    results = [f(x), f(x)]
    mx.disable_compile()
    try:
        results += [f(x), f(x)]
    finally:
        mx.enable_compile()
    results += [f(x)]
    return results, len(runs)


@called((4, 3))
def compiled_methods_and_partials(x):
    class Scaler:
        by = 3.0

        def scale(self, a):
            return a * self.by

    scaler = Scaler()
    method = mx.compile(scaler.scale)
    results = [method(x), mx.compile(functools.partial(mx.multiply, 2.0))(x)]
    scaler.by = 5.0
    return [*results, method(x), mx.compile(scaler.scale)(x), mx.compile(mx.exp)(x)]


@called((4, 3))
def compiled_with_an_array_that_it_does_not_know(x):
    """An array that is computed later, and was not there when the function was traced, is an error in MLX."""
    try:
        return mx.compile(functools.partial(mx.add, x * 2))(x), mx.compile(lambda a: a + x)(x * 2)
    except Exception as error:
        return type(error).__name__, str(error)


@called((4, 3))
def compiled_with_random_numbers(x):
    plain = mx.compile(lambda a: a + mx.random.normal(a.shape))
    held = mx.compile(lambda a: a + mx.random.normal(a.shape), inputs=mx.random.state, outputs=mx.random.state)
    return plain(x), plain(x), held(x), held(x), mx.random.normal((2,)), plain(x), held(x)


@called((4, 3))
def compiled_in_a_compiled(x):
    runs = []

    @mx.compile
    def inner(a):
        runs.append("inner")
        return mx.sin(a) * a

    @mx.compile
    def outer(a):
        runs.append("outer")
        return inner(a) + inner(a * 2)

    return outer(x), outer(x + 1), inner(x), inner(x), outer(x[0]), runs


@called((4, 3))
def compiled_and_vmapped(x):
    f = mx.compile(mx.vmap(lambda row: row * row.sum()))
    g = mx.vmap(mx.compile(lambda row: row * row.sum()))
    return f(x), f(x), g(x), mx.compile(mx.grad(lambda t: g(t).sum()))(x), mx.compile(lambda t: mx.jvp(g, [t], [t]))(x)


@called((4, 3))
def compiled_function_that_raises(x):
    calls = []

    @mx.compile
    def f(a):
        calls.append(1)
        if len(calls) < 3:
            raise ValueError(f"call {len(calls)}")
        return a * 2

    messages = []
    for _ in range(4):
        try:
            messages.append(f(x))
        except ValueError as error:
            messages.append(str(error))
    return messages, len(calls)
