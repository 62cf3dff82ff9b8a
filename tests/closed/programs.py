"""Training scripts whose steps run natively. Each calls `seen(z)` in its loss, where a plain program tells z."""

HEAD = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map
mx.random.seed(3)
X = mx.random.normal((24, 4)); Y = X.sum(axis=1, keepdims=True)
"""

PLAIN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8); self.last = nn.Linear(8, 1)
    def __call__(self, x):
        z = mx.tanh(self.first(x)); seen(z)
        return self.last(z)
model = Net()
def loss_fn(model, x, y): return ((model(x) - y) ** 2).mean()
learn = nn.value_and_grad(model, loss_fn)
"""

ADAM = """
opt = optim.Adam(1e-2)
for i in range(12):
    loss, grads = learn(model, X, Y)
    opt.update(model, grads)
    mx.eval(model.parameters(), opt.state)
    if i % 5 == 0: print(i, loss.item())
"""

PROGRAMS = {
    "adam": PLAIN + ADAM,
    "lazy": PLAIN + ADAM.replace("    mx.eval(model.parameters(), opt.state)\n", ""),
    "counted": """
log = []
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8); self.norm = nn.BatchNorm(8); self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(8, 1); self.calls = 0
    def __call__(self, x):
        self.calls += 1; log.append(self.calls)
        z = self.drop(nn.relu(self.norm(self.first(x * (1 + 0.01 * self.calls))))); seen(z)
        return self.last(z)
model = Net()
def loss_fn(model, x, y): return ((model(x) - y) ** 2).mean()
learn = nn.value_and_grad(model, loss_fn)
"""
    + ADAM,
    "iterators": """
import random, numpy as np
random.seed(1); np.random.seed(2); dice = np.random.default_rng(5)
def batches():
    while True:
        at = random.randrange(16); yield X[at:at + 8] * float(np.random.randn()), Y[at:at + 8] + float(dice.normal())
data = batches(); tags = iter(range(100)); drift = iter(mx.linspace(0, 0.1, 12)); slot = mx.zeros((2, 4)).at[1]
model = nn.Linear(4, 1)
def loss_fn(model, x, y):
    z = model(x) * (1 + next(tags)); seen(z)
    return ((z - y) ** 2).mean()
learn = nn.value_and_grad(model, loss_fn)
opt = optim.AdamW(optim.cosine_decay(1e-3, 10))
for i in range(12):
    x, y = next(data)
    x = x + slot.add(mx.ones(4)).sum() * next(drift)
    loss, grads = learn(model, x, y)
    grads, norm = optim.clip_grad_norm(grads, 1.0)
    opt.update(model, grads)
    mx.eval(loss, model.parameters())
    print(i, loss.item(), norm.item())
""",
    "accumulated": PLAIN
    + """
opt = optim.SGD(0.05, momentum=0.9); ema = model.parameters()
for i in range(10):
    total = None
    for part in range(3):
        loss, grads = learn(model, X[part * 8:part * 8 + 8], Y[part * 8:part * 8 + 8])
        total = grads if total is None else tree_map(mx.add, total, grads)
    opt.update(model, tree_map(lambda g: g / 3, total))
    ema = tree_map(lambda e, p: 0.9 * e + 0.1 * p, ema, model.parameters())
    mx.eval(model.parameters(), opt.state, ema)
    print(i, loss.item(), ema["last"]["bias"].item())
""",
    "two": """
maker, judge = nn.Linear(2, 4), nn.Linear(4, 1)
def judged(judge, real, fake):
    z = judge(real); seen(z)
    return (nn.softplus(-z) + nn.softplus(judge(fake))).mean()
def made(maker, noise):
    z = judge(maker(noise)); seen(z)
    return nn.softplus(-z).mean()
learn_d, learn_g = nn.value_and_grad(judge, judged), nn.value_and_grad(maker, made)
opt_d, opt_g = optim.Adam(1e-2), optim.Adam(1e-3)
for i in range(10):
    noise = mx.random.normal((24, 2))
    d, grads = learn_d(judge, X, maker(noise)); opt_d.update(judge, grads)
    g, grads = learn_g(maker, noise); opt_g.update(maker, grads)
    mx.eval(maker.parameters(), judge.parameters(), opt_d.state, opt_g.state)
    print(i, d.item(), g.item())
""",
    "in_place": """
held = mx.zeros((8, 4)); state = {"n": 0}; w = {"a": mx.ones((4, 1)), "b": mx.zeros((1,))}
def loss_fn(w, x, y):
    state["n"] += 1; z = (x * state["n"]) @ w["a"] + w["b"]; seen(z)
    return mx.abs(z - y).mean()
learn = mx.value_and_grad(loss_fn)
opt = optim.SGD(0.01)
for i in range(10):
    held[:] = X[i:i + 8]; held[0] += 1.0
    loss, grads = learn(w, held, Y[i:i + 8])
    w = opt.apply_gradients(grads, w)
    w["b"] += 0.125
    mx.eval(w, loss)
    print(i, loss.item(), held.sum().item())
""",
    "nested": """
@mx.checkpoint
def block(w, x): return mx.tanh(x @ w)
@mx.custom_function
def twice(x): return 2 * x
@twice.vjp
def twice_vjp(primal, cotangent, output): return 3 * cotangent
model = nn.Linear(4, 4)
def loss_fn(model, x):
    z = block(model.weight, twice(model(x))) * nn.gelu(x); seen(z)
    slope = mx.grad(lambda x: (x ** 3).sum())(z)
    return (slope + mx.vmap(lambda r: r * r.sum())(z)).mean()
learn = nn.value_and_grad(model, loss_fn); opt = optim.Lion(1e-2)
for i in range(10):
    loss, grads = learn(model, X); opt.update(model, grads); mx.eval(model.parameters()); print(i, loss)
""",
    "many_styles": PLAIN
    + """
opt = optim.Adam(1e-2)
for i in range(4):
    loss, grads = learn(model, X, Y); opt.update(model, grads); mx.eval(model.state, opt.state)
    print(round(loss.item(), 4))
for i in range(4):
    loss, grads = learn(model, X, Y); print(round(loss.item(), 4))
    for layer, of in zip(model.children().values(), grads.values()):
        for name in of: layer[name] = layer[name] - 0.01 * of[name]
    mx.eval(model.parameters())
for i in range(4):
    loss, grads = learn(model, X, Y); opt.update(model, grads); mx.eval(model.state, opt.state)
    print(round(loss.item(), 4))
""",
}

ARRAYS = """
w = {"a": mx.random.normal((4, 8)), "b": mx.random.normal((8, 1))}
def loss_fn(w, x, y):
    z = mx.tanh(x @ w["a"]); seen(z)
    return ((z @ w["b"] - y) ** 2).mean()
learn = mx.value_and_grad(loss_fn)
"""
"""Weights that are plain arrays, changed by hand."""
BY_HAND = {
    "by_hand": ARRAYS
    + """
for i in range(10):
    loss, grads = learn(w, X + i, Y)
    w = tree_map(lambda p, g: p - 0.05 * g, w, grads)
    mx.eval(w, loss)
    if i % 4 == 0: print(i, loss.item())
""",
    "written_into": ARRAYS
    + """
def descend(w, grads):
    for name in w: w[name] -= 0.05 * grads[name]
for i in range(10):
    x = X * (1 + i)
    loss, grads = learn(w, x, Y)
    descend(w, grads)
    if i % 4 == 0: print(i, loss.item())
""",
    "summed_by_hand": ARRAYS
    + """
total = None
for k in range(30):
    loss, grads = learn(w, X[k % 3 * 8:k % 3 * 8 + 8], Y[k % 3 * 8:k % 3 * 8 + 8])
    total = grads if total is None else tree_map(mx.add, total, grads)
    if k % 3 == 2:
        w, total = tree_map(lambda p, g: p - 0.02 * g, w, total), None
        mx.eval(w)
        print(k, loss.item())
""",
    "products": ARRAYS
    + """
names, held = list(w), list(w.values())
def of(*held): return loss_fn(dict(zip(names, held)), X, Y)
for i in range(10):
    (loss,), grads = mx.vjp(of, held, [mx.array(0.5)])
    held = [p - 0.1 * g for p, g in zip(held, grads)]
    mx.eval(held)
    print(i, loss.item())
""",
    "there_and_back": PLAIN
    + """
opt = optim.SGD(0.05)
for i in range(10):
    loss, grads = learn(model, X, Y)
    old = model.trainable_parameters()
    model.update(tree_map(lambda p, g: p + 0.05 * g, old, grads))
    _, grads = learn(model, X, Y)
    model.update(old); opt.update(model, grads); mx.eval(model.parameters())
    print(i, loss.item())
""",
}
PROGRAMS |= {name: text for name, text in BY_HAND.items() if name != "there_and_back"}  # its last bits are not held

COMPILED = """
from functools import partial
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8); self.drop = nn.Dropout(0.2); self.last = nn.Linear(8, 1)
    def __call__(self, x):
        z = self.drop(mx.tanh(self.first(x)))
        return self.last(z)
model = Net(); opt = optim.Adam(1e-2); count = [0]
def loss_fn(model, x, y): return ((model(x) - y) ** 2).mean()
learn = nn.value_and_grad(model, loss_fn)
state = [model.state, opt.state, mx.random.state]
@partial(mx.compile, inputs=state, outputs=state)
def step(x, y):
    count[0] += 1
    loss, grads = learn(model, x * count[0], y)
    opt.update(model, grads)
    return loss
for i in range(12):
    many = 24 if i % 3 else 8
    loss = step(X[:many], Y[:many])
    mx.eval(state, loss)
    print(i, count[0], loss.item())
"""

SUMMED = """
from functools import partial
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)); opt = optim.Adam(1e-2)
def loss_fn(model, x, y): return ((model(x) - y) ** 2).mean()
state = [model.state, opt.state]
@partial(mx.compile, inputs=state, outputs=state)
def more(x, y, before):
    loss, grads = nn.value_and_grad(model, loss_fn)(model, x, y)
    return loss, tree_map(lambda a, b: a + b, before, grads)
@partial(mx.compile, inputs=state, outputs=state)
def apply(total): opt.update(model, tree_map(lambda a: a / 3, total))
for i in range(5):
    total = tree_map(mx.zeros_like, model.parameters())
    for k in range(3):
        loss, total = more(X[8 * k:8 * k + 8], Y[8 * k:8 * k + 8], total)
        if k == 2: apply(total)
        mx.eval(loss, state, total)
"""
"""Gradients that are summed inside of a compiled function are no weights."""

LIBRARY = """
from mlx_lm.models.activations import swiglu
model = nn.Linear(4, 8); opt = optim.Adam(1e-2)
def loss_fn(model, x, y):
    z = swiglu(*mx.split(model(x), 2, axis=1)); seen(z)
    return ((z.sum(axis=1, keepdims=True) - y) ** 2).mean()
learn = nn.value_and_grad(model, loss_fn)
for i in range(12):
    loss, grads = learn(model, X, Y); opt.update(model, grads); mx.eval(model.parameters(), opt.state)
    if i % 4 == 3: print(i, swiglu(X, X).sum().item())
"""
"""A library's own compiled function, under a gradient and by itself, outlives the program when that runs again."""
PROGRAMS["library"] = LIBRARY
