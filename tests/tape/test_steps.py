"""Training steps: where they begin and end, held against what the program itself counts."""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx
import pytest
from rich.console import Console

import nnrepl
from tests.support import OpenSession

PREPARED = """
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

mx.random.seed(0)
x, y = mx.random.normal((4, 3)), mx.random.normal((4, 2))
net, other = nn.Linear(3, 2), nn.Linear(2, 2)
opt, opt2 = optim.SGD(0.1), optim.Adam(0.01)


def loss_fn(model, x, y):
    return mx.mean((model(x) - y) ** 2)


def chained(model, x, y):
    return mx.mean((model(net(x)) - y) ** 2)


grad, grad2 = nn.value_and_grad(net, loss_fn), nn.value_and_grad(other, chained)
"""

PROGRAMS = {
    "plain": """
for i in range(4):
    mark(i + 1)
    loss, g = grad(net, x, y)
    opt.update(net, g)
    mx.eval(net.parameters())
""",
    "by hand, one parameter unused": """
params = {"w": mx.ones(3), "v": mx.ones(3), "u": mx.ones(3)}
for i in range(3):
    mark(i + 1)
    loss, g = mx.value_and_grad(lambda p: (p["w"] * p["u"]).sum())(params)
    params = {k: params[k] - 0.1 * g[k] for k in params}
""",
    "momentum by hand, weights and velocities in lambdas": """
params = {"w": mx.ones(3), "u": mx.ones(3)}
velocity = tree_map(mx.zeros_like, params)
for i in range(4):
    mark(i + 1)
    loss, g = mx.value_and_grad(lambda p: (p["w"] * p["u"]).sum())(params)
    velocity = tree_map(lambda v, g: 0.9 * v + g, velocity, g)
    params = tree_map(lambda p, v: p - 0.1 * v, params, velocity)
""",
    "gradients that are added to themselves, in two functions by turns": """
w = mx.ones(3)
def doubled(g): return g + g
def halved(g): return g * 0.25 + g * 0.25
for i in range(2):
    mark(i + 1)
    loss, g = mx.value_and_grad(lambda w: (w * w).sum())(w)
    for _ in range(25): g = halved(doubled(g))
    w = w - 0.1 * g
""",
    "momentum by hand, one parameter unused": """
params = {"w": mx.ones(3), "u": mx.ones(3), "v": mx.ones(2)}
velocity = tree_map(mx.zeros_like, params)
for i in range(4):
    mark(i + 1)
    loss, g = mx.value_and_grad(lambda p: (p["w"] * p["u"]).sum())(params)
    velocity = tree_map(lambda v, g: 0.9 * v + g, velocity, g)
    params = tree_map(lambda p, v: p - 0.1 * v, params, velocity)
""",
    "momentum by hand, and an op of something else between": """
params = {"w": mx.ones(3), "u": mx.ones(3), "v": mx.ones(2)}
velocity = tree_map(mx.zeros_like, params)
for i in range(4):
    mark(i + 1)
    loss, g = mx.value_and_grad(lambda p: (p["w"] * p["u"]).sum())(params)
    velocity = tree_map(lambda v, g: 0.9 * v + g, velocity, g)
    seen = x * 2
    params = tree_map(lambda p, v: p - 0.1 * v, params, velocity)
""",
    "accumulated, momentum and a function of the program's by hand": """
def scaled(v):
    return v / (mx.linalg.norm(v) + 1e-6) if v.ndim == 2 else v
velocity = tree_map(mx.zeros_like, net.parameters())
for i in range(5):
    mark(i + 1)
    total = None
    for part in range(2):
        loss, g = grad(net, x + part, y)
        total = g if total is None else tree_map(lambda a, b: a + b, total, g)
    g = tree_map(lambda a: a / 2, total)
    velocity = tree_map(lambda v, g: 0.9 * v + g, velocity, g)
    net.update(tree_map(lambda p, v: p - 0.05 * scaled(v), net.parameters(), velocity))
""",
    "data first, logs last": """
for i in range(4):
    mark(i + 1)
    batch = x[mx.random.permutation(4)]
    loss, g = grad(net, batch, y)
    norm = sum(mx.sum(v * v) for v in g.values())
    opt.update(net, g)
    average = 0.9 * loss + norm
""",
    "clipped and accumulated": """
for i in range(3):
    mark(i + 1)
    total = None
    for part in range(2):
        loss, g = grad(net, x[2 * part : 2 * part + 2], y[2 * part : 2 * part + 2])
        total = g if total is None else tree_map(mx.add, total, g)
    total, norm = optim.clip_grad_norm(total, 1.0)
    opt.update(net, total)
""",
    "by hand": """
w = mx.zeros((3, 2))
by_hand = mx.value_and_grad(lambda w: mx.mean((x @ w - y) ** 2))
for i in range(3):
    mark(i + 1)
    loss, g = by_hand(w)
    size = mx.sqrt(mx.sum(g * g))
    w = w - 0.1 * g / size
""",
    "two optimizers in one turn": """
def train_one():
    loss, g = grad(net, x, y)
    opt.update(net, g)


def train_two():
    loss, g = grad2(other, x, y)
    opt2.update(other, g)


for i in range(3):
    mark(i + 1)
    train_one()
    train_two()
""",
    "two optimizers by turns": """
for i in range(4):
    mark(i + 1)
    if i % 2:
        loss, g = grad2(other, x, y)
        opt2.update(other, g)
    else:
        loss, g = grad(net, x, y)
        opt.update(net, g)
""",
    "average and evaluation in the same turn": """
average = tree_map(lambda p: p, net.parameters())
for i in range(3):
    mark(i + 1)
    loss, g = grad(net, x, y)
    opt.update(net, g)
    average = tree_map(lambda a, p: 0.9 * a + 0.1 * p, average, net.parameters())
    if i % 2:
        seen = loss_fn(net, x, y)
""",
    "a function a step": """
def step(k):
    mark(k)
    loss, g = grad(net, x, y)
    opt.update(net, g)
    return loss_fn(net, x, y) if k == 2 else loss


for k in (1, 2, 3):
    step(k)
""",
    "no loop": """
mark(1)
loss, g = grad(net, x, y)
opt.update(net, g)
mark(2)
loss, g = grad(net, x, y)
opt.update(net, g)
""",
    "while and continue": """
i = 0
while True:
    i += 1
    if i > 3:
        break
    mark(i)
    loss, g = grad(net, x, y)
    if i == 2:
        opt.update(net, g)
        seen = loss * 2
        continue
    opt.update(net, g)
    seen = loss * 3
""",
    "epochs of batches": """
step = 0
for epoch in range(2):
    for batch in range(2):
        step += 1
        mark(step)
        loss, g = grad(net, x[2 * batch : 2 * batch + 2], y[2 * batch : 2 * batch + 2])
        opt.update(net, g)
""",
    "compiled": """
from functools import partial

state = [net.state, opt.state]


@partial(mx.compile, inputs=state, outputs=state)
def one(x, y):
    loss, g = grad(net, x, y)
    opt.update(net, g)
    return loss


for i in range(3):
    mark(i + 1)
    loss = one(x, y)
""",
    "gradients without an update": """
mark(1)
for i in range(3):
    loss, g = grad(net, x, y)
""",
}


def counted(source: str) -> tuple[nnrepl.Trace | Any, list[tuple[int, int]]]:
    """The recording of a program, and where it said that which of its steps begins."""
    marks: list[tuple[int, int]] = []
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(PREPARED, "prepared.py", "exec"), space)
    with nnrepl.recording() as recorded:
        space["mark"] = lambda number: marks.append((len(recorded.tape), number))
        exec(compile(source, "program.py", "exec"), space)
    return recorded, marks


@pytest.mark.parametrize("name", PROGRAMS)
def test_steps_are_those_that_the_program_counts(name: str) -> None:
    recorded, marks = counted(PROGRAMS[name])
    steps = recorded.tape.steps
    assert len(steps) == marks[-1][1]
    assert [step.number for step in steps] == [number for _, number in marks]
    starts = [0, *(position for position, _ in marks[1:])]
    assert [step.start for step in steps] == starts
    assert [step.end for step in steps] == [*starts[1:], len(recorded.tape)]


def test_what_is_read_of_an_optimizers_own_tensors_is_no_update() -> None:
    """They are made of gradients alone, and yet by the optimizer, which has done with them."""
    recorded, _ = counted("""
mark(1)
for i in range(2):
    loss, g = grad(net, x, y)
    opt2.update(net, g)
    largest = mx.abs(opt2.state["weight"]["v"]).max()
""")
    read = [op for op in recorded.tape.ops if op.name in ("abs", "max")]
    assert [op.phase for op in read] == ["forward"] * 4


def test_they_are_the_same_found_bit_by_bit() -> None:
    source = PROGRAMS["average and evaluation in the same turn"]
    whole, _ = counted(source)
    differentiated: list[tuple[bool, bool]] = []

    def mark(number: int) -> None:
        tape = recorded.tape
        start = tape.steps[-1].start if len(tape.steps) else 0
        calls = [pass_ for pass_ in tape.passes if pass_.kind == "gradient" and pass_.end > start]
        differentiated.append((tape.steps.differentiated(), bool(calls)))

    space: dict[str, Any] = {"mark": mark}
    exec(compile(PREPARED, "prepared.py", "exec"), space)
    with nnrepl.recording() as recorded:
        exec(compile(source.replace("mx.eval", "mark(0); mx.eval"), "program.py", "exec"), space)
    assert [step.start for step in recorded.tape.steps] == [step.start for step in whole.tape.steps]
    assert set(differentiated) == {(True, True), (False, False)}


def test_ops_are_addressed_within_their_step() -> None:
    recorded, _ = counted(PROGRAMS["plain"])
    tape = recorded.tape
    second = tape.steps[1]
    tape.stand(second.start)
    assert tape.at(1) is tape.ops[second.start]
    assert (tape.at(3).label, tape.at(3, 1).label) == ("#3", "1#3")
    assert tape.ops[second.end].label == "3#1"
    with pytest.raises(IndexError):
        tape.at(len(second) + 1)
    with pytest.raises(IndexError):
        tape.at(1, 9)
    assert [pass_.kind for pass_ in second.passes] == ["gradient", "update"]
    assert second.loss is not None
    assert [pass_.title for pass_ in second.updates] == ["SGD"]


def test_what_is_changed_before_the_first_op_of_a_function_stands_in_it() -> None:
    """The line is the first one of the function, whose variable it changes: its op is one of step 1."""
    trace = nnrepl.trace(lambda w, x: (w * x).sum(), mx.array([1.0]), mx.array([2.0]), wrt=0)
    session = OpenSession(trace)
    session.run("x[0] = 7")
    assert [step.start for step in session.tape.steps] == [0]
    assert [op.label for op in session.tape.ops[:2]] == ["#1", "#2"]


def test_of_many_steps_those_around_the_cursor_are_listed() -> None:
    """Twelve before and twelve after it; all of them if asked."""
    w = mx.ones(2)
    with nnrepl.recording() as tape:
        for _ in range(40):
            w = w - 0.1 * mx.grad(lambda w: (w * w).sum())(w)
    session = OpenSession(tape)

    def listed(line: str) -> tuple[list[int], list[int], str]:
        console = Console(width=100, no_color=True)
        with console.capture() as capture:
            console.print(session.run(line))
        rows = re.findall(r"^(▶?) +(\d+) +\d+ +1 ", capture.get(), re.MULTILINE)
        here = [int(number) for mark, number in rows if mark]
        return [int(number) for _, number in rows], here, "".join(re.findall(r"\d+ of \d+ steps", capture.get()))

    for step, first, last in ((1, 1, 13), (20, 8, 32), (40, 28, 40)):
        session.run(f"goto step {step}")
        assert listed("info steps") == (list(range(first, last + 1)), [step], f"{last - first + 1} of 40 steps")
    assert listed("info steps all") == (list(range(1, 41)), [40], "")
