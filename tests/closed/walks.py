"""Random walks over a training run, with what a plain program would tell at each of their stops."""

from __future__ import annotations

import contextlib
import io
import random
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType

import mlx.core as mx

from tests.closed.programs import HEAD

STEPS = 9
NET = """
Y = mx.random.normal((24, 3))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8); self.last = nn.Linear(8, 3)
    def __call__(self, x):
        z = mx.tanh(self.first(x))
        return self.last(z)
model = Net(); opt = optim.Adam(1e-2)
def loss_fn(model, x, y): return ((model(x) - y) ** 2).mean()
learn = nn.value_and_grad(model, loss_fn)
"""
KINDS = {
    "whole": NET + """
for i in range(9):
    loss, grads = learn(model, X, Y); opt.update(model, grads); mx.eval(model.parameters(), opt.state, loss)
""",
    "batches": NET + """
for i in range(9):
    x = X[i:i + 8] * 1.5; average = model.first.weight * 0.5
    loss, grads = learn(model, x, Y[i:i + 8])
    grads, norm = optim.clip_grad_norm(grads, 0.5); opt.update(model, grads)
    mx.eval(model.parameters(), opt.state, average)
    if i % 4 == 0: print(i, loss.item())
""",
    "lazy": NET.replace("self.last(z)", "self.last(mx.fast.rms_norm(z, None, 1e-5))") + """
for i in range(9):
    x = X + mx.random.normal((24, 4))
    loss, grads = learn(model, x, Y); opt.update(model, grads)
    if i == 5: mx.eval(model.parameters())
""",
    "nested": """
Y = mx.random.normal((24, 4))
@mx.checkpoint
def block(w, x): return mx.tanh(x @ w) * x
@mx.custom_function
def twice(x): return 2 * x
@twice.vjp
def twice_vjp(primal, cotangent, output): return 3 * cotangent
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4); self.drop = nn.Dropout(0.25); self.w = mx.eye(4)
    def __call__(self, x):
        w = self.w
        z = mx.tanh(self.drop(self.first(x)))
        return self.last(block(self.first.weight, twice(z - 0.5)), w)
    def last(self, h, w): return mx.vmap(lambda row: row @ w)(h) + mx.grad(lambda h: (h ** 2).sum())(h)
model = Net(); opt = optim.AdamW(1e-2)
def loss_fn(model, x, y): return ((model(x) - y) ** 2).mean()
learn = nn.value_and_grad(model, loss_fn)
for i in range(9):
    loss, grads = learn(model, X, Y); opt.update(model, grads); mx.eval(model.parameters(), opt.state)
    if i % 2: print(i, loss.item())
""",
}  # fmt: skip
BITS = "mx.view(z, mx.uint32).astype(mx.uint64).sum().item()"
LOSS = "mx.view(loss, mx.uint32).astype(mx.uint64).sum().item()"


@lru_cache(512)
def told(kind: str, edits: tuple[tuple[int, float], ...]) -> tuple[list[int], int]:
    """What a plain program with edits `z = z * factor` in some steps tells: z of each step, and the last loss."""
    edit = "        if len(told) in at: z = z * at[len(told)]\n        told.append(mx.stop_gradient(z))\n"
    source = KINDS[kind].replace("        return self.last", f"{edit}        return self.last")
    module = ModuleType("__main__")
    mx.random.seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(HEAD + f"at = {dict(edits)!r}; told = []\n" + source, "plain.py", "exec"), module.__dict__)
    bits = [eval(BITS, {"mx": mx, "z": z}) for z in module.__dict__["told"]]
    return bits, eval(LOSS, {"mx": mx, "loss": module.__dict__["loss"]})


@dataclass
class Line:
    """A timeline, as the walk knows it."""

    edits: tuple[tuple[int, float], ...] = ()
    parent: int = 0


@dataclass
class Walk:
    """Commands, and the numbers that they are to show, in order."""

    kind: str
    commands: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def walk(kind: str, seed: int, length: int = 7) -> Walk:
    """A random walk over a program of a kind."""
    chance, made = random.Random(f"{kind} {seed}"), Walk(kind)
    lines, now = [Line()], 0
    made.commands.append(chance.choice(["continue", "continue", "goto step 4", "until step 6 backward"]))
    for _ in range(length):
        what = chance.choice(["look", "look", "look", "edit", "edit", "timeline", "setting", "end"])
        step = chance.randrange(STEPS)
        edited = dict(lines[now].edits)
        if what == "edit" and step not in edited:
            factor = chance.choice([0.0, 2.0, -1.5])
            made.commands += [f"goto step {step + 1}", "until tanh", "step", f"z = z * {factor}"]
            kept = {at: by for at, by in edited.items() if at < step}  # an earlier edit leaves out those behind it
            lines.append(Line(tuple({**kept, step: factor}.items()), now))
            now = len(lines) - 1
        elif what == "timeline" and len(lines) > 1:
            now = chance.randrange(len(lines))
            made.commands.append(f"timeline {now + 1}")
        elif what == "setting":
            made.commands.append(f"config native {chance.choice(['on', 'off'])}")
        elif what == "end":
            made.commands += ["goto end", "continue", f"p {LOSS}"]
            made.numbers.append(told(kind, lines[now].edits)[1])
        else:
            made.commands += [f"goto step {step + 1}", "until backward", f"p {BITS}"]
            made.numbers.append(told(kind, lines[now].edits)[0][step])
    return made
