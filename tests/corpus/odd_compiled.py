"""Odd programs: mx.compile, inside and outside of gradients, made before the recording began and under it."""

from __future__ import annotations

import functools

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from tests.corpus.checks import Call
from tests.corpus.programs import built, called, differentiated


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
def compiled_calls_that_are_one_to_mlx(x):
    """Its list of what is no array has no lengths in it, a bool is an int there, and a float its bits."""
    runs = []

    @mx.compile
    def f(x, *more):
        runs.append(repr(more))
        return x * len(runs)

    @mx.compile
    def g(x, y=None):
        runs.append(y is None)
        return x[0] - x[1] if y is None else x[0] * y

    given = [True, 1, False, 0.0, -0.0, float("nan"), float("nan"), [1, 2], (1, 2), [[1], 2], {"a": 1}, {"a": True}]
    results = [f(x, one) for one in given]
    return [*results, g([x, x + 1]), g([x], x + 1), g((x, x + 2))], runs


@called((2,))
def one_function_compiled_twice(x):
    """What MLX has traced of a function is kept for both, until one of them goes."""
    runs = []

    def f(x):
        runs.append(1)
        return x * len(runs)

    once, again = mx.compile(f), mx.compile(f)
    results = [once(x), again(x)]
    del once
    return [*results, again(x)], runs


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
def compiled_steps_must_not_evaluate_in_their_loss(x):
    messages = []
    for wrong in (lambda a: a.sum().item(), lambda a: mx.eval(a * 2), lambda a: mx.async_eval(mx.sin(a))):
        loss = lambda a, f=wrong: (f(a), (a * a).sum())[1]  # noqa: E731
        try:
            messages.append(mx.compile(lambda a, f=loss: mx.value_and_grad(f)(a))(x))
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
    for nothing_to_call in (3, "f"):
        try:
            mx.compile(nothing_to_call)
        except TypeError as error:
            messages.append(str(error).splitlines()[-1])
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


@called((4, 3), (4, 3))
def compiled_in_a_loss_on_what_is_not_differentiated(x, w):
    """MLX compiles that, also in a loss: its lines run once, and what it has drawn is frozen."""
    runs = []

    def noisy(a):
        runs.append(len(runs))
        return mx.sin(a) * len(runs) + mx.random.normal(a.shape)

    turned = mx.compile(noisy)
    other, made = w * 2, []

    def loss(x, y):
        return (turned(other) * x).sum() + (turned(other) * turned(other) * x * x).mean() + turned(y * 1).sum()

    for _ in range(3):
        value, gradient = mx.value_and_grad(loss)(x, w)
        x = x - 0.1 * gradient
        made += [value, gradient, turned(other)]
    return made, runs, mx.random.normal((2,))


@called((4, 3))
def compiled_with_a_gradient_and_called_in_a_loss_too(x):
    squares = mx.compile(lambda a: mx.grad(lambda b: (b * b * a).sum())(a))
    first = squares(x * 2)
    return first, mx.grad(lambda a: (squares(x * 3) * a).sum())(x), squares(x)


@differentiated((4, 3))
def compiled_in_a_nested_grad_on_what_is_differentiated_outside(x):
    """There MLX has tracers, and runs its function plainly."""
    outside = mx.sin(x)
    doubled = outside + outside

    def energy(a):
        return (a * mx.compile(lambda b: b * doubled[::-1])(outside)).sum()

    return mx.grad(energy)(x).square().mean()
