"""Training loops around the features of the matrix (test_matrix.py)."""

from __future__ import annotations

HEAD = """import sys, functools, itertools, random, contextlib
from collections import deque, defaultdict
from dataclasses import dataclass, field, replace
from typing import NamedTuple
import numpy as np
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map
mx.random.seed(<seed>); random.seed(<seed>); np.random.seed(<seed>)
LAYERS = []
def reg(layer):
    LAYERS.append(layer)
    return layer
def fmt(a):
    return a.astype(mx.float32).tolist()
def show(i, loss, grads):
    print("LOSS", i, loss.item())
    for name, g in tree_flatten(grads):
        print("GRAD", i, name, fmt(g))
<features>
w0 = mx.random.normal((3, 3)); v0 = mx.random.normal((3, 3)); x = mx.random.normal((4, 3))
mx.eval(w0, v0, x)
STEP, DONE, PART = -1, False, 0
def at(step, many=False):
    global DONE
    if STEP != step or (DONE and not many) or PART:
        return False
    DONE = True
    return True
"""

OPTIMIZERS = [
    "SGD(0.05)", "Adam(0.05)", "SGD(optim.step_decay(0.1, 0.5, 1), momentum=0.9)",
    "AdamW(optim.cosine_decay(0.05, 10))",
]  # fmt: skip

LOOPS = {
    "by hand": """
params = {"w": w0, "v": v0}
def loss_fn(params, x):
    h = x @ params["w"]
    <calls params["v"]>
    return h.square().mean() + 0.01 * params["v"].sum()
for i in range(3):
    STEP = i
    loss, grads = mx.value_and_grad(loss_fn)(params, x + i)
    show(i, loss, grads)
    params = {k: params[k] - 0.05 * grads[k] for k in params}  #@ grads["w"]
print("PARAMS", {k: fmt(params[k]) for k in params})
""",
    "argnums": """
w, v = w0, v0
def loss_fn(w, v, x):
    h = x @ w
    <calls v>
    return h.square().mean() + 0.01 * v.sum(), h
for i in range(3):
    STEP = i
    (loss, hh), grads = mx.value_and_grad(loss_fn, argnums=(0, 1))(w, v, x + i)
    show(i, loss, grads)
    w = w - 0.05 * grads[0]  #@ w
    v = v - 0.05 * grads[1]  #@ v
print("PARAMS", fmt(w), fmt(v))
""",
    "model": """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.v = w0, v0
        self.layers = LAYERS
    def __call__(self, x):
        h = x @ self.w  #@ x
        <calls self.v>
        return h
model = Model()
opt = optim.<optimizer>
def loss_fn(model, x):
    y = model(x)
    return y.square().mean()  #@ y
step = nn.value_and_grad(model, loss_fn)
for i in range(3):
    STEP = i
    loss, grads = step(model, x + i)
    show(i, loss, grads)
    opt.update(model, grads)
    mx.eval(model.parameters(), opt.state)
print("PARAMS", [(n, fmt(p)) for n, p in tree_flatten(model.parameters())])
""",
}


def _changed(old: str, new: str, loop: str = "model") -> str:
    assert old in LOOPS[loop]
    return LOOPS[loop].replace(old, new)


_STEP = """    loss, grads = step(model, x + i)
    show(i, loss, grads)
    opt.update(model, grads)
"""
LOOPS["compiled"] = _changed(_STEP, "    loss, grads = train(x + i)\n    show(i, loss, grads)\n").replace(
    "for i in range(3)",
    """state = [model.state, opt.state, mx.random.state]
@functools.partial(mx.compile, inputs=state, outputs=state)
def train(x):
    loss, grads = step(model, x)
    opt.update(model, grads)
    return loss, grads
for i in range(3)""",
)
LOOPS["accumulated"] = _changed(
    _STEP,
    """    loss, grads = step(model, x + i)
    PART = 1
    more, others = step(model, x - i)
    PART = 0
    grads = tree_map(lambda a, b: a + b, grads, others)
    show(i, loss + more, grads)
    opt.update(model, grads)
""",
)
LOOPS["average"] = _changed(
    "    mx.eval(model.parameters(), opt.state)\n",
    """    ema = tree_map(lambda a, b: 0.9 * a + 0.1 * b, ema, model.parameters())
    mx.eval(model.parameters(), opt.state, ema)
""",
).replace("for i in range(3)", "ema = tree_map(lambda a: a, model.parameters())\nfor i in range(3)")
LOOPS["average"] += 'print("EMA", [(n, fmt(p)) for n, p in tree_flatten(ema)])\n'
LOOPS["clipped"] = _changed(
    "    opt.update(model, grads)", "    grads, norm = optim.clip_grad_norm(grads, 0.5)\n    opt.update(model, grads)"
)
