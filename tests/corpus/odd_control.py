"""Odd programs: control flow on values, evaluation in the middle, recursion, generators, NumPy, threads."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import io
import itertools
import operator
import pickle
import threading
import weakref
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_reduce, tree_unflatten

from tests.corpus.checks import Call
from tests.corpus.programs import built, called, differentiated


@differentiated((4, 3))
def control_flow_on_values(x):
    y = x * 2 if x.sum().item() > 0 else x * 3
    turns = 0
    while (y.sum() < 50) and turns < 5:
        y = y + mx.abs(x)
        turns += 1
    mx.eval(y)
    return (y * x).sum()


@differentiated((4, 3))
def evaluated_in_the_middle(x):
    y = mx.sin(x)
    mx.eval(y)
    z = y * x
    float(z.sum())
    return (z * mx.array(np.array(z))).sum()


@differentiated((4, 3))
def evaluated_in_every_way(x):
    y = mx.exp(x)
    mx.eval({"a": [y, (x,)]}, y, 3)
    numbers = [
        y.tolist()[0][0],
        y[0, 1].item(),
        float(y[1, 0]),
        int(y[2, 2]),
        bool(y[0, 0] > 1),
        len(y),
        np.asarray(y)[1, 1],
    ]
    text = f"{y[0, 0]:.3f} {y!r} {y.sum()}"
    if y[0, 0] > y[1, 1] and not (y < 0).any():
        y = y * numbers[1]
    view = memoryview(y)
    return (y * x).sum() * float(numbers[0]) + len(text) + view.shape[0] + x.size + x.nbytes + numbers[6]


@differentiated((4, 3))
def evaluated_asynchronously_in_a_loss(x):
    """MLX refuses this inside of a gradient."""
    mx.async_eval(x * 2)
    return x.sum()


@differentiated((4, 3), (4, 3))
def evaluated_asynchronously_behind_a_nested_call(x, w):
    """What a nested call was made of is no tracer any more."""
    below = x * w
    mx.vjp(lambda a, b: b, [x, below], [x])
    mx.async_eval(below)
    mx.checkpoint(lambda a: a * mx.jvp(lambda b: below * b, [a], [a])[1][0])(w)
    mx.async_eval(below * 2)
    return (below * w).square().mean()


@called((4, 3), (4, 3))
def evaluated_asynchronously_of_what_a_function_is_given(x, w):
    def loss(a, b):
        mx.async_eval(b * 2)
        return (a * b).sum()

    try:
        return mx.grad(loss)(x, w)
    except ValueError as error:
        return str(error)


@called((4, 3))
def evaluated_asynchronously(x):
    y = x * 2
    mx.async_eval(y, [x + 1])
    mx.async_eval({"z": y * y})
    return y.sum().item(), mx.grad(lambda t: (t * y).sum())(x)


@differentiated((4, 3))
def numpy_in_and_out(x):
    a = (x * mx.array(np.arange(3, dtype=np.float32))).sum()
    b = (x + np.float32(2)).sum() + (x * np.ones((4, 3), np.float32)[0]).sum()
    c = x[mx.array(np.array([0, 2]))].sum() + mx.where(mx.array(np.array([True, False, True])), x, 0).sum()
    return a + b + c + (x * float(np.pi)).sum() + mx.maximum(x, np.zeros(3, np.float32)).sum()


@differentiated((4, 3))
def numpy_array_on_the_left(x):
    """NumPy takes the operation over: what comes out is a NumPy array, and no gradient flows through it."""
    left = np.ones((4, 3), np.float32) * x
    return (mx.array(np.asarray(left)) * x).sum()


@differentiated((6,))
def binary_search(x):
    low, high = mx.array(-10.0), mx.array(10.0)
    for _ in range(20):
        middle = (low + high) / 2
        if (mx.sigmoid(x + middle).sum() > 3).item():
            high = middle
        else:
            low = middle
    return (mx.stop_gradient(low) * x).sum() + (high * x).sum()


@differentiated((3, 3))
def newton_iterations(x):
    root = mx.abs(x) + 1
    target = mx.abs(x) + 2
    while True:
        step = (root * root - target) / (2 * root)
        root = root - step
        if mx.abs(step).max() < 1e-3:
            return root.sum()


def _tree_sum(x, depth):
    if depth == 0 or x.shape[0] < 2:
        return mx.tanh(x).sum(axis=0)
    half = x.shape[0] // 2
    return _tree_sum(x[:half], depth - 1) * 0.5 + _tree_sum(x[half:], depth - 1)


@differentiated((9, 2))
def recursion(x):
    return (_tree_sum(x, 3) * x[0]).sum()


@differentiated((4,))
def recursion_with_memory(x):
    @functools.cache
    def chebyshev(n):
        if n < 2:
            return x if n else mx.ones_like(x)
        return 2 * x * chebyshev(n - 1) - chebyshev(n - 2)

    return sum(chebyshev(n).sum() for n in range(6))


@differentiated((4, 3))
def generator(x):
    def multiples():
        for number in range(3):
            yield x * number

    return sum(mx.sin(multiple).sum() for multiple in multiples())


@differentiated((6, 3))
def generators_that_receive(x):
    def running_mean():
        total, count = mx.zeros((3,)), 0
        while True:
            row = yield total / max(count, 1)
            total = total + row
            count += 1

    mean = running_mean()
    next(mean)
    return sum((mean.send(row) * row).sum() for row in x)


@differentiated((4, 3))
def map_reduce_and_partial(x):
    total = functools.reduce(mx.add, map(mx.exp, [x, x * 2, x]))
    scaled = list(map(functools.partial(mx.multiply, x), (x, x + 1)))
    chained = list(itertools.accumulate(scaled, operator.mul))
    return total.sum() + max(scaled, key=lambda a: a.sum().item()).sum() + chained[-1].mean()


@differentiated((4, 3))
def comprehensions(x):
    rows = [mx.tanh(row) for row in x if row.sum().item() > -100]
    by_name = {f"row{number}": row * number for number, row in enumerate(rows)}
    pairs = [(a * b).sum() for a in rows for b in by_name.values()]
    (first := mx.stack(pairs)) * 2
    return first.mean() + sum(v.sum() for k, v in sorted(by_name.items())) + sum({1: x}[1][0, [0]])


@differentiated((4, 3))
def list_grows_and_looks_back(x):
    states = []
    for number in range(5):
        states.append(mx.tanh(x * number + (states[-1] if states else 0)))
    return mx.stack(states).mean()


@differentiated((4, 3))
def exceptions_on_the_way(x):
    total = x * 0
    for other in (mx.ones((2, 2)), mx.ones((3,)), "text", None, x):
        try:
            total = total + x * other
        except (ValueError, TypeError):
            total = total + 1
        finally:
            total = total * 2
    with contextlib.suppress(ValueError):
        total = total @ mx.ones((7, 7))
    return (total * x).sum()


@built
def exception_out_of_the_loss():
    def loss(x):
        y = mx.sin(x) * 2
        if y.shape[0] == 4:
            raise RuntimeError(f"bad shape {y.shape}")
        return y.sum()

    return Call(loss, [mx.ones((4,))], 0)


@built
def mlx_exception_out_of_the_loss():
    return Call(lambda x: (mx.sin(x) @ mx.ones((3, 3))).sum(), [mx.ones((4,))], 0)


@differentiated((4, 3))
def context_managers_and_streams(x):
    stream = mx.new_stream(mx.cpu)
    with mx.stream(stream):
        y = mx.tanh(x)
        with mx.stream(mx.cpu):
            y = y * x
    z = mx.add(y, x, stream=stream)
    mx.synchronize(stream)
    return (z * y).sum(stream=mx.cpu)


@differentiated((4, 3))
def output_printed(x):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print(x.shape, "loss", (x * 2).sum())
        print(x[0])
    return x.sum() * len(out.getvalue())


@built
def counters_and_prints_in_a_loss():
    log = []

    def loss(x):
        log.append(f"called with {x.shape}, sum {x.sum().item():.4f}")
        return (x * x).sum() * len(log)

    return Call(loss, [mx.arange(4.0)], 0, after=lambda: log)


@dataclass
class State:
    """Arrays in a dataclass."""

    position: mx.array
    velocity: mx.array
    history: list = field(default_factory=list)

    def advanced(self, by):
        return State(self.position + by * self.velocity, self.velocity * 0.9 - self.position * by, [*self.history, by])

    def __matmul__(self, other):
        return self.position @ other.velocity


@differentiated((4,), (4,))
def dataclasses_and_operators(x, v):
    state = State(x, v)
    for number in range(4):
        state = state.advanced(0.1 * (number + 1))
    return (state.position**2).sum() + state @ state + sum(state.history)


@differentiated((4, 3))
def containers_of_the_standard_library(x):
    queue = deque(maxlen=2)
    grouped = defaultdict(list)
    for number, row in enumerate(x):
        queue.append(row * number)
        grouped[number % 2].append(queue[0] + row)
    tree = tree_map(lambda a: a * 2, {"q": list(queue), "g": dict(grouped)})
    flat = tree_flatten(tree)
    back = tree_unflatten([(key, mx.sin(value)) for key, value in flat])
    return tree_reduce(lambda total, a: total + a.sum(), back, mx.array(0.0)) + (back["q"][0] * x[1]).sum()


@differentiated((4, 3))
def objects_pickled_and_copied(x):
    y = x * 2
    z = pickle.loads(pickle.dumps(y))
    w = copy.deepcopy({"a": y})["a"]
    return (y * z).sum() + (w * x).sum()


@differentiated((4, 3))
def weak_references_and_garbage(x):
    y = x * 2
    reference = weakref.ref(y)
    z = reference() * x
    del y
    gc.collect()
    cycle = [z]
    cycle.append(cycle)
    del cycle
    gc.collect()
    reference()
    return z.sum()


@differentiated((4, 3))
def arrays_as_keys_and_in_comparisons(x):
    named = {id(x): "x"}
    y = x + 0
    same = [(x == y).all().item(), mx.array_equal(x, y).item(), x is y, named.get(id(y)), mx.allclose(x, y).item()]
    return x.sum() * sum(bool(s) for s in same) + mx.where(x != y, x, y * 2).sum()


@differentiated((4, 3))
def function_defined_by_exec(x):
    scope = {"mx": mx}
    exec("def f(x):\n    y = mx.sin(x)\n    return (y * x).sum()\n", scope)
    return scope["f"](x) + eval("(x * x).sum()", {"x": x}) + eval("mx.cos(x).mean()", scope, {"x": x})


@differentiated((4, 3))
def names_looked_up_late(x):
    total = mx.array(0.0)
    for name in ("sin", "cos", "exp", "abs"):
        total = total + getattr(mx, name)(x).sum()
    method = x.sum
    return total + method() + operator.itemgetter(0)(x).sum() + operator.methodcaller("mean", axis=0)(x).sum()


@differentiated((4, 3))
def unbound_methods_and_classes(x):
    class Sub(list):
        def total(self):
            return sum(item.sum() for item in self)

    return mx.array.sum(x) + mx.array.__add__(x, 1).sum() + Sub([x, x * 2]).total() + x.__mul__(x).__neg__().sum()


@called((4, 3))
def threads_that_compute(x):
    def work(array):
        with mx.stream(mx.cpu):
            result = mx.sin(array) * 2
            mx.eval(result)
            return result

    mx.eval(x)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(work, x).result()
    results = []
    thread = threading.Thread(target=lambda: results.append(work(x + 0)))
    thread.start()
    thread.join()
    return first.tolist(), results[0].tolist(), (x * 2).sum()


@called((4, 3))
def several_gradients_in_one_call(x):
    w = mx.ones((3,))
    losses = []
    for epoch in range(3):
        for row in x:
            loss, grad = mx.value_and_grad(lambda p, r: ((p * r).sum() - 1) ** 2)(w, row)
            w = w - 0.05 * grad
            losses.append(loss.item())
        if losses[-1] < 1e-6:
            break
        w = w * (1 - 0.01 * epoch)
    return losses, w


@called((8, 3))
def early_stopping(x):
    model = nn.Linear(3, 1)
    best, patience = float("inf"), 0
    step = nn.value_and_grad(model, lambda m, data: (m(data) ** 2).mean())
    history = []
    while patience < 2 and len(history) < 10:
        loss, grads = step(model, x)
        model.update(tree_map(lambda p, g: p - 0.3 * g, model.trainable_parameters(), grads))
        value = loss.item()
        patience = patience + 1 if value > best - 1e-2 else 0
        best = min(best, value)
        history.append(value)
    return history, model.parameters()


@called((4, 3))
def gradient_clipping_by_hand(x):
    params = {"w": mx.ones((3, 2)), "b": mx.zeros((2,))}
    loss, grads = mx.value_and_grad(lambda p: ((x @ p["w"] + p["b"]) ** 2).sum())(params)
    norm = mx.sqrt(sum((g**2).sum() for _, g in tree_flatten(grads)))
    if norm > 1:
        grads = tree_map(lambda g: g / norm, grads)
    for name in params:
        params[name] -= 0.1 * grads[name]
    return loss, norm, params


@called((4, 3))
def finite_differences(x):
    f = lambda t: (mx.sin(t) * t).sum()  # noqa: E731
    estimate = mx.zeros((4, 3))
    for i in range(4):
        for j in range(3):
            bump = mx.zeros((4, 3))
            bump[i, j] = 1e-2
            estimate[i, j] = (f(x + bump) - f(x - bump)) / 2e-2
    return estimate, mx.grad(f)(x), mx.abs(estimate - mx.grad(f)(x)).max().item() < 1e-2


@called((5,))
def closures_over_loop_variables(x):
    functions = [lambda t, k=k: (t**k).sum() for k in range(1, 4)]
    late = [lambda t: t * k for k in range(3)]  # noqa: B023
    return [mx.grad(f)(x) for f in functions], [f(x) for f in late]
