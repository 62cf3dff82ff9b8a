"""Training scripts under nnrepl: every style of update, compiled steps, other people's scripts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

from tests.programs.fidelity import (
    CONTINUE,
    EXAMPLES,
    assert_same,
    check,
    same_surroundings,
)
from tests.support import ROOT, nnrepl_cli, plain_and_traced, plain_python

__all__ = ["same_surroundings"]


def test_every_style_of_update(tmp_path: Path) -> None:
    program = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map
mx.random.seed(1)
X = mx.random.normal((16, 4)); Y = X[:, :2] * X[:, 2:]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 8), nn.Linear(8, 2)]
    def __call__(self, x):
        return self.layers[1](nn.gelu(self.layers[0](x)))
def loss_fn(model, x, y):
    return nn.losses.mse_loss(model(x), y)
model = Net(); learn = nn.value_and_grad(model, loss_fn)
for optimizer in (optim.SGD(0.1, momentum=0.9), optim.AdamW(optim.cosine_decay(1e-2, 10)), optim.Lion(1e-3),
                  optim.RMSprop(1e-2), optim.Adafactor(), optim.Adagrad(0.1)):
    for i in range(3):
        loss, grads = learn(model, X, Y)
        grads, norm = optim.clip_grad_norm(grads, 1.0)
        if i == 1: model.update(optimizer.apply_gradients(grads, model))
        else: optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state)
        print(type(optimizer).__name__, loss.item(), norm.item(), len(optimizer.state))
for _ in range(2):
    loss, grads = learn(model, X, Y)
    model.update(tree_map(lambda p, g: p - 0.1 * g, model.parameters(), grads)); print(loss)
for _ in range(2):
    loss, grads = learn(model, X, Y); print(loss)
    for layer, of in zip(model.layers, grads["layers"]):
        for name in of: layer[name] -= 0.1 * of[name]
def functional(params, x, y):
    model.update(params); return loss_fn(model, x, y)
params = model.trainable_parameters()
for _ in range(2):
    loss, grads = mx.value_and_grad(functional)(params, X, Y)
    params = tree_map(lambda p, g: p - 0.1 * g, params, grads)
    print(loss.item(), [(name, value.sum().item()) for name, value in tree_flatten(params)])
w = mx.zeros((4, 2)); gradient = mx.grad(lambda w: ((X @ w - Y) ** 2).mean())
for _ in range(3): w = w - 0.1 * gradient(w)
print(w, mx.value_and_grad(lambda a, *, b: ((a * b).sum(), b), argnums=(0,), argnames=["b"])(w, b=w))
"""
    check(tmp_path, program)


def test_compiled_steps(tmp_path: Path) -> None:
    """A compiled body runs once for each kind of arguments: its prints say so."""
    program = """
from functools import partial
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
@mx.compile
def product(x):
    print("tracing product")
    return x @ x
for n in (2, 2, 3, 2): print(product(mx.ones((n, n))).sum().item())
model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1)); optimizer = optim.SGD(0.1)
def loss_fn(model, x):
    print("tracing loss")
    return (model(x) @ mx.ones((1, 1))).sum()
state = [model.state, optimizer.state, mx.random.state]
@partial(mx.compile, inputs=state, outputs=state)
def step(x):
    print("tracing step")
    loss, grads = nn.value_and_grad(model, loss_fn)(model, x)
    optimizer.update(model, grads)
    return loss
for n in (4, 4, 4, 5):
    loss = step(mx.ones((n, 2)))
    mx.eval(state)
    print(loss.item(), optimizer.step.item())
mx.disable_compile()
for _ in range(2): product(mx.ones((2, 2)))
mx.enable_compile()
for _ in range(2): product(mx.ones((2, 2)))
@mx.custom_function
def doubled(x): return x * 2
@doubled.vjp
def doubled_vjp(primals, cotangent, output): print("vjp"); return cotangent * 7
print(mx.grad(lambda x: doubled(x).sum())(mx.ones(2)))
def checkpointed(x): print("checkpoint"); return mx.exp(x)
print(mx.grad(lambda x: mx.checkpoint(checkpointed)(x).sum())(mx.ones(2)))
"""
    check(tmp_path, program)


def _trained(w: mx.array, x: mx.array) -> mx.array:
    """The losses of three compiled steps, the parameter being an argument."""

    @mx.compile
    def step(w: mx.array) -> tuple[mx.array, mx.array]:
        loss, grad = mx.value_and_grad(lambda w: (x @ w).square().sum())(w)
        return w - 0.1 * grad, loss

    losses = []
    for _ in range(3):
        w, loss = step(w)
        losses.append(loss)
    return mx.stack(losses)


def _trained_by_state(x: mx.array) -> mx.array:
    """The losses of three compiled steps, model and optimizer being captured."""
    model, optimizer = nn.Linear(2, 1), optim.SGD(0.1)
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array) -> mx.array:
        loss, grads = nn.value_and_grad(model, lambda x: model(x).square().sum())(x)
        optimizer.update(model, grads)
        return loss

    return mx.stack([step(x) for _ in range(3)])


def _dropped_out(x: mx.array) -> mx.array:
    """Three draws of a compiled dropout that has the random state among its inputs and outputs."""
    drop = partial(mx.compile, inputs=mx.random.state, outputs=mx.random.state)(nn.Dropout(0.5))
    return mx.stack([drop(x) for _ in range(3)])


@pytest.mark.parametrize(
    ("fn", "shapes"), [(_trained, [(2, 1), (3, 2)]), (_trained_by_state, [(3, 2)]), (_dropped_out, [(32,)])]
)
def test_compiled_functions_that_run_again(fn: Callable[..., mx.array], shapes: list[tuple[int, ...]]) -> None:
    plain_and_traced(fn, [mx.ones(shape) for shape in shapes], wrt=None)


# -- scripts that other people wrote -------------------------------------------------------------------------

SYNTHETIC = """
import random, sys, types
import mlx.core as mx, numpy as np
random.seed(0); np.random.seed(0); mx.random.seed(0)
def module(name, **members): sys.modules[name] = types.ModuleType(name); vars(sys.modules[name]).update(members)
class Anything(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return self
    def __call__(self, *args, **kwargs): return self
    def __getitem__(self, key): return self
    def __iter__(self): return iter((self, self))
class Batches(list):
    def reset(self): pass
class Steps(list):
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def set_postfix(self, **values): print(values)
matplotlib = Anything("matplotlib")
sys.modules.update({"matplotlib": matplotlib, "matplotlib.pyplot": matplotlib})
noise = np.random.default_rng(0)
images, labels = noise.random((600, 784), dtype=np.float32), noise.integers(0, 10, 600, dtype=np.uint32)
words, points = noise.integers(0, 50, 400, dtype=np.uint32), noise.random((1000, 2), dtype=np.float32)
module("mnist", mnist=lambda: (images[:512], labels[:512], images[512:], labels[512:]))
module("tqdm", trange=lambda n: Steps(range(n)))
module("sklearn", datasets=types.SimpleNamespace(make_moons=lambda **_: (points, None)),
       preprocessing=types.SimpleNamespace(StandardScaler=lambda: types.SimpleNamespace(fit_transform=lambda x: x)))
module("datasets", load_dataset=lambda _: (range(50), words, words[:100], words[:100]),
       load_data=lambda _: (mx.array(images[:, :12]), mx.array(labels[:600]) % 7, mx.eye(600)),
       train_val_test_mask=lambda: (mx.arange(140), mx.arange(200, 500), mx.arange(500, 600)))
batches = Batches([{"image": noise.random((2, 32, 32, 3), dtype=np.float32), "label": labels[:2]}])
module("dataset", get_cifar10=lambda _: (batches, batches))
"""

TIMES = re.compile(r"(Time:?|It/sec|took|Throughput:) [\d.]+")


@pytest.mark.skipif(not EXAMPLES.exists(), reason="MLX_EXAMPLES names no checkout of ml-explore/mlx-examples")
@pytest.mark.parametrize(
    "command",
    [
        "mnist/main.py",
        "normalizing_flow/main.py --cpu --n_steps 3 --d_hidden 8",
        "transformer_lm/main.py --context_size 16 --num_blocks 2 --dim 16 --num_heads 2 --num_iters 12"
        " --steps_per_report 3 --steps_per_eval 6 --eval_test",
        "transformer_lm/main.py --context_size 16 --num_blocks 2 --dim 16 --num_heads 2 --num_iters 2"
        " --steps_per_report 1 --checkpoint",
        "gcn/main.py --epochs 4",
        "cifar/main.py --cpu --epochs 1",
    ],
)
def test_foreign_training_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Scripts of mlx-examples on synthetic data, which is put in their way from outside."""
    (tmp_path / "sitecustomize.py").write_text(SYNTHETIC)
    surroundings = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "MLX_DISABLE_COMPILE": "1"}
    for name, text in surroundings.items():
        monkeypatch.setenv(name, text)
    script = [str(EXAMPLES / command.split()[0]), *command.split()[1:]]
    plain = plain_python(*script, cwd=tmp_path)
    debugged = nnrepl_cli(*CONTINUE, *script, cwd=tmp_path, env=surroundings)
    assert plain.returncode == 0, plain.stderr
    assert len(plain.stdout.splitlines()) >= 2
    for result in (plain, debugged):
        result.stdout = TIMES.sub("TIME", result.stdout)
    assert_same(plain, debugged)
