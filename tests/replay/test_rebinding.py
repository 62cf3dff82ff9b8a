"""`k = k * 2` gives one name another tensor, `k *= 2` changes the tensor: who else holds it sees the one and not the
other. Each line against the same function with the line written in it."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from tests.support import OpenSession, assert_last_pass_is, assert_same_bits, loaded

PROGRAM = """\
import copy
from collections import deque
import mlx.core as mx
import mlx.nn as nn
class Held: pass
class Slots:
    __slots__ = ("k",)
held, cache, once, slots, queue = Held(), {}, [], Slots(), deque(maxlen=1)
layer = nn.Linear(2, 2)
layer.update({"weight": mx.eye(2) + 1, "bias": mx.array([0.5, -0.5])})
def turns(x):
    yield x
    yield x * 3
def inner(x):
    u = layer(x)  # in inner
    return u + x
def norm(x):
    total = x.sum()
    y = x / total  # in norm
    return y * 1
def f(w):
    k = w * 3
    held.k = k
    cache["k"] = k
    keep, pair = [k], (k, 1)
    again = lambda: k * 0.5
    slots.k, copied, turn = k, copy.copy(k), turns(k)
    queue.append(k)
    next(turn)
    a = k + 1  # a
    b = k + cache["k"]  # b
    c = held.k * 2 + keep[0] + pair[0]  # c
    d = k + norm(k)  # d
    e = norm(cache["k"]) + again()  # e
    s = k * slots.k + queue[0] * copied + next(turn)  # s
    return (a * b * c * d * e + s + inner(s)).sum()
"""
LINES = [
    ("a", "k = k * 2"), ("b", "k = k * 2"), ("c", "k = k * 2"), ("d", "k = k * 2"), ("e", "k = k * 2"),
    ("b", 'cache["k"] = cache["k"] * 2'), ("e", 'cache["k"] = k - 1'), ("c", "held.k = held.k * 2"),
    ("b", "held.k = held.k * 2"), ("c", "keep[0] = keep[0] * 2"), ("a", "k = held.k.sum(keepdims=True)"),
    ("s", "k = k * 2"), ("s", "k *= 2"),
    ("s", "copied *= 2"), ("s", "copied[0] = 5"), ("s", "k = k.astype(mx.bfloat16)"), ("in inner", "x = x * 2"),
    ("b", "k *= 2"), ("c", "k[0] = 5"), ("d", 'cache["k"] *= 2'), ("in norm", "x = x * 2"), ("in norm", "x *= 2"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "line"), LINES, ids=map(" ".join, LINES))
def test_who_sees_it(place: str, line: str, tmp_path: Path) -> None:
    program = loaded(tmp_path / f"plain_{abs(hash((place, line)))}.py", PROGRAM)
    number = next(at for at, text in enumerate(PROGRAM.splitlines(), 1) if text.endswith(f"# {place}"))
    text = PROGRAM.splitlines()[number - 1]
    written = line if not place.startswith("in ") else f"if not once: once.append(1); {line}"
    twin = loaded(tmp_path / "twin.py", PROGRAM.replace(text, f"    {written}\n{text}"))
    w = mx.array([1.0, 2.0])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    session.run(f"goto {Path(program.__file__).name}:{number}")
    session.run(line)
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))


COMPILED = """\
import functools
import mlx.core as mx
cache, calls = {"k": None}, []
def mixed(x, k):
    z = x * k
    return z + cache["k"]
@functools.partial(mx.compile, inputs=cache)
def step(x):
    k = cache["k"]
    a = k
    h = x + 1  # here
    b = k
    y = mixed(h, k) + a * 0.5 + b
    return (y * cache["k"] + mx.maximum(k, a) * k.sum()) * 0.1
def f(x):
    cache["k"] = mx.sin(x) + 1.5
    for _ in range(3):
        x = step(x)
    return x
"""


@pytest.mark.parametrize("line", ["k = k * 2", "k *= 2", "k[0] = 3", "h = h * 1", "k = mx.sin(k)"])
def test_who_sees_it_where_a_compiled_function_is_repeated(line: str, tmp_path: Path) -> None:
    """In its third call, in which no Python runs."""
    program = loaded(tmp_path / f"compiled_{abs(hash(line))}.py", COMPILED)
    place = "    b = k\n" if line.startswith("h") else "    h = x + 1"
    written = f"    calls.append(1)\n    if len(calls) == 3: {line}\n{place}"
    twin = loaded(
        tmp_path / "twin.py",
        COMPILED.replace("@functools.partial(mx.compile, inputs=cache)\n", "").replace(place, written),
    )
    x = mx.array([0.25, 0.5])
    expected = twin.f(x)
    session = OpenSession(nnrepl.trace(program.f, x))
    number = next(at for at, text in enumerate(COMPILED.splitlines(), 1) if text.endswith("# here"))
    op = [op for op in session.tape.ops if op.source.line == number][2]
    session.run(f"goto {op.label}")
    if line.startswith("h"):
        session.run("step")
    session.run(line)
    assert_same_bits(expected, session.tape.ops[-1].outputs[0].array)
