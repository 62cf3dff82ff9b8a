"""Random training scripts of steps that run natively, edits in them, and what a plain program says in which those lines
are written.

A script has places, `#A` to `#E`, where a line may be written: before a step, before its gradient call, after `z` in
the forward pass, between the call and the update, and after the update.
"""

from __future__ import annotations

import contextlib
import io
import random
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import mlx.core as mx

STEPS = 9
HEAD = """
import random, numpy as np, mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from functools import partial
from mlx.utils import tree_flatten, tree_map
mx.random.seed(3); random.seed(4); dice = np.random.default_rng(5)
X = mx.random.normal((24, 4)); Y = X.sum(axis=1, keepdims=True)
log = []; scale = 1.0; now = [0]; mark = mx.array(0.0)
"""
END = """
tail = [p.sum().item() for _, p in tree_flatten(weights())]
log = [l if isinstance(l, float) else l.item() for l in log] + tail
"""
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8); self.layers = [nn.Linear(8, 8)]; self.drop = nn.Dropout({drop})
        self.norm = nn.BatchNorm(8); self.last = nn.Linear(8, 1)
    def __call__(self, x):
        z = mx.tanh(self.first(x))
        #C
        return self.last({head})
model = Net(); {frozen}
def weights(): return model.parameters()
def loss_fn(model, x, y): return {loss}.mean() * scale
learn = nn.value_and_grad(model, loss_fn); opt = {opt}
"""
WHOLE = (
    NET
    + """
for i in range(9):
    now[0] = i
    #A
    x, y = {batch}
    #B
    loss, grads = learn(model, x, y)
    #D
    {clip}opt.update(model, grads){evaluated}
    log.append(loss{item}){told}
    #E
"""
)
COMPILED = (
    NET
    + """
state = [model.state, opt.state, mx.random.state]
@partial(mx.compile, inputs=state, outputs=state)
def step(x, y):
    loss, grads = learn(model, x, y)
    {clip}opt.update(model, grads)
    return loss
for i in range(9):
    now[0] = i
    #A
    x, y = {batch}
    #B
    loss = step(x, y)
    mx.eval(state, loss)
    log.append(loss{item}){told}
    #E
"""
)
DICT = """
w = {{"first": {{"weight": mx.random.normal((4, 8)) * 0.5, "bias": mx.zeros((8,))}}, "last": mx.ones((8, 1)) * 0.25}}
def weights(): return w
def loss_fn(w, x, y):
    z = mx.tanh(x @ w["first"]["weight"] + w["first"]["bias"])
    #C
    return ((z @ w["last"] - y) ** 2).mean() * scale
learn = mx.value_and_grad(loss_fn); opt = {opt}
for i in range(9):
    now[0] = i
    #A
    x, y = {batch}
    #B
    loss, grads = learn(w, x, y)
    #D
    {clip}w = opt.apply_gradients(grads, w){evaluated}
    log.append(loss{item}){told}
    #E
"""
TWO = """
maker, judge = nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
def weights(): return [maker.parameters(), judge.parameters()]
def judged(judge, real, fake): return (nn.softplus(-judge(real)) + nn.softplus(judge(fake))).mean() * scale
def made(maker, noise):
    z = judge(maker(noise))
    #C
    return nn.softplus(-z).mean()
learn_d, learn_g = nn.value_and_grad(judge, judged), nn.value_and_grad(maker, made)
opt, opt_g = {opt}, optim.Adam(1e-2)
for i in range(9):
    now[0] = i
    #A
    x, y = {batch}
    noise = mx.random.normal((8, 2))
    #B
    d, grads_d = learn_d(judge, x, maker(noise)); opt.update(judge, grads_d)
    loss, grads = learn_g(maker, noise)
    #D
    {clip}opt_g.update(maker, grads){evaluated_two}
    log.append(d{item}); log.append(loss{item}){told}
    #E
"""
SHAPES = {"whole": WHOLE, "compiled": COMPILED, "dict": DICT, "two": TWO}
CHOICES: dict[str, list[str]] = {
    "drop": ["0.0", "0.3"],
    "head": ["self.drop(z)", "self.layers[0](z)", "nn.relu(self.layers[0](self.drop(z)))", "self.norm(z)"],
    "frozen": ["pass", "model.first.freeze()", "model.last.freeze(keys='bias')"],
    "loss": ["((model(x) - y) ** 2)", "nn.losses.smooth_l1_loss(model(x), y, reduction='none')"],
    "opt": ["optim.Adam(1e-2)", "optim.SGD(0.05, momentum=0.9)", "optim.SGD(0.05)", "optim.AdamW(1e-2)",
            "optim.Lion(1e-2)", "optim.Adam(optim.cosine_decay(1e-2, 20))"],
    "batch": ["X[i:i + 8], Y[i:i + 8]", "X[::3], Y[::3]", "X[:8] + mx.random.normal((8, 4)), Y[:8]",
              "(lambda b: (mx.array(b), mx.array(b.sum(1, keepdims=True))))(dice.normal(size=(8, 4)).astype('f'))",
              "(lambda at: (X[at], Y[at]))(mx.array(random.sample(range(24), 8)))"],
    "clip": ["", "grads, norm = optim.clip_grad_norm(grads, 0.5); ",
             "grads = tree_map(lambda g: g * 0.5, grads); "],
    "evaluated": ["; mx.eval(weights(), opt.state)", "; mx.eval(weights(), opt.state, loss)", ""],
    "evaluated_two": ["; mx.eval(weights(), opt.state, opt_g.state)", ""],
    "item": ["", ".item()"],
    "told": ["", "; print('at', i, loss.item())"],
}  # fmt: skip
ANYWHERE = "ABDE"
EDITS: list[tuple[str, str, str]] = [
    ("whole compiled", ANYWHERE, "model.first.weight = model.first.weight * 1.5"),
    ("whole compiled", ANYWHERE, "model.last.bias = model.last.bias + 0.25"),
    ("whole compiled", ANYWHERE, "model.layers[0].weight = model.layers[0].weight * 0.5"),
    ("whole compiled", ANYWHERE, "model.last.weight[0, 1] = 2.0"),
    ("whole compiled", ANYWHERE, "model.first.bias[2:] = -1.0"),
    ("whole", "E", "opt.state['first']['bias']['{slot}'] = opt.state['first']['bias']['{slot}'] * 0.5"),
    ("whole compiled", "AB", "opt.state['last']['weight']['{slot}'] = opt.state['last']['weight']['{slot}'] * 3.0"),
    ("whole compiled", "AB", "opt.state['last']['weight']['{slot}'][0, 2] = 0.125"),
    ("whole dict two compiled", "ABD", "opt.learning_rate = 0.3"),
    ("whole dict two compiled", "B", "x = x * 2"),
    ("whole dict two compiled", "B", "x[0, 1] = 0.5"),
    ("whole dict", "B", "y = y - 1"),
    ("whole dict two", "C", "z = z * 2"),
    ("whole dict two", "C", "z = mx.sin(z)"),
    ("whole dict two", "C", "z[0] = 0.5"),
    ("whole", "D", "grads['last']['weight'] = grads['last']['weight'] * 2"),
    ("whole", "D", "grads['last']['weight'][0, 0] = 0.0"),
    ("dict", "D", "grads['first']['weight'] = mx.sign(grads['first']['weight'])"),
    ("dict", "D", "grads['first']['bias'] = grads['first']['bias'] * 0"),
    ("two", "D", "grads['weight'] = grads['weight'] * -1"),
    ("dict", ANYWHERE, "w['first']['weight'] = w['first']['weight'] * 2"),
    ("dict", ANYWHERE, "w['first']['bias'][3] = 1.0"),
    ("dict", ANYWHERE, "w['last'] = w['last'] + 0.5"),
    ("two", ANYWHERE, "maker.weight = maker.weight * 2"),
    ("two", ANYWHERE, "judge.layers[0].weight = judge.layers[0].weight * 0.5"),
    ("two", ANYWHERE, "judge.layers[2].bias[0] = 0.5"),
    ("two", "B", "noise = noise * 0.5"),
    ("whole dict two compiled", ANYWHERE, "scale = 3.0"),
    ("whole compiled", ANYWHERE, "model.eval()"),
    ("whole compiled", ANYWHERE, "model.drop.train(False)"),
    ("whole dict two compiled", ANYWHERE, "mx.random.seed(3)"),
    ("whole dict two", ANYWHERE, "X = X * 1.25"),
    ("whole dict two", ANYWHERE, "X[4] = 1.0"),
]


@dataclass(frozen=True)
class Change:
    """A line that is written in step `step` (from 0) at a place."""

    step: int
    place: str
    line: str


@dataclass
class Case:
    """A script, commands, and what each of the looks among them is to show: the lines that are written then."""

    shape: str
    script: str
    marks: str
    commands: list[str] = field(default_factory=list)
    expected: list[tuple[Change, ...]] = field(default_factory=list)


def script(text: str, marks: str, changes: tuple[Change, ...] = ()) -> str:
    """The script, an op at some of its places, with changes written in it."""
    made = []
    for line in text.splitlines():
        bare = line.lstrip()
        if len(bare) == 2 and bare[0] == "#":
            indent = line[: len(line) - len(bare)]
            for change in changes:
                if change.place == bare[1]:
                    step = "now[0]" if change.place == "C" else "i"
                    made.append(f"{indent}if {step} == {change.step}: {change.line}")
            if bare[1] in marks:
                made.append(f"{indent}mark_{bare[1]} = mark + 1")
        else:
            made.append(line)
    return "\n".join(made) + "\n"


def line_of(text: str, place: str) -> int:
    """The number of the line with the op of a place."""
    return next(n for n, line in enumerate(text.splitlines(), 1) if f"mark_{place} =" in line)


def where(case: Case, change: Change) -> list[str]:
    """The commands that lead to the place of a change."""
    text = script(case.script, case.marks)
    return [f"goto step {change.step + 1} train.py:{line_of(text, change.place)}"]


def case(seed: int) -> Case:
    """A random case."""
    chance = random.Random(seed)
    shape = chance.choice(list(SHAPES))
    picks = {name: chance.choice(values) for name, values in CHOICES.items()}
    marks = "".join(place for place in "ABCDE" if chance.random() < 0.5 or place in "C")
    if shape == "compiled":
        marks = marks.replace("D", "").replace("C", "")
    made = Case(shape, HEAD + SHAPES[shape].format(**picks) + END, "")
    slot = "v" if "Adam" in picks["opt"] else ("v" if "momentum" in picks["opt"] else "m")
    changes = [_change(chance, shape, slot, picks) for _ in range(chance.choice([1, 1, 2, 3]))]
    made.marks = "".join(sorted({*marks, *(change.place for change in changes)}))
    _play(made, chance, changes)
    return made


def _change(chance: random.Random, shape: str, slot: str, picks: dict[str, str]) -> Change:
    while True:
        shapes, places, line = chance.choice(EDITS)
        if shape not in shapes.split():
            continue
        if "slot" in line and (picks["opt"] == "optim.SGD(0.05)" or "freeze" in picks["frozen"]):
            continue
        places = "".join(place for place in places if shape != "compiled" or place not in "CD")
        place = chance.choice(places)
        step = chance.randrange(2 if "slot" in line else 1, STEPS)
        return Change(step, place, line.replace("{slot}", slot))


def _play(made: Case, chance: random.Random, changes: list[Change]) -> None:
    first = changes[0].step
    made.commands.append(chance.choice(["continue", "continue", f"goto step {min(first + 2, STEPS)}", "goto step 4"]))
    written: tuple[Change, ...] = ()
    stack = [written]
    for change in changes:
        made.commands += [*where(made, change), change.line]
        # a change leaves out those that lie further on
        order = "ABCDE".index
        kept = [c for c in written if (c.step, order(c.place)) <= (change.step, order(change.place))]
        written = (*kept, change)
        stack.append(written)
        if chance.random() < 0.6 or change is changes[-1]:
            _look(made, written)
    if chance.random() < 0.5:
        made.commands.append("undo")
        _look(made, stack[-2])


def _look(made: Case, written: tuple[Change, ...]) -> None:
    made.commands += ["goto end", "continue", "p hash(tuple(log))"]
    made.expected.append(written)


def plainly(case: Case, written: tuple[Change, ...]) -> list[float]:
    """What a plain program with lines written in it has in its log at its end."""
    module = ModuleType("__main__")
    mx.random.seed(0)
    text = script(case.script, case.marks, written)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "plain.py", "exec"), module.__dict__)
    log: Any = module.__dict__["log"]
    return list(log)
