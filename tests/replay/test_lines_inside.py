"""A change inside of a call that MLX runs by itself (`vmap`, `jvp`, a nested `grad`) is a line of its function: that
call has it, with the gradients around it, and no other call has."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.session.errors import UserError
from tests.support import OpenSession, assert_last_pass_is, loaded

PROGRAM = """\
import mlx.core as mx
cfg, seen = {"k": 2.0}, [0, 0]
def inner(h, s):
    z = h * s
    y = mx.tanh(z) * cfg["k"]  # y
    return (y * z).sum()
def each(h, n=3):
    a = h * h
    for k in range(n):
        a = a + k * h  # a
    return mx.sin(a)
def f(w):
    u = w * 2
    g = mx.grad(inner)(u, 3.0)
    v = mx.vmap(lambda h: each(h, 2) + each(h))(mx.stack([u, g]))
    p, t = mx.jvp(each, (u,), (g,))
    q = mx.vmap(mx.grad(lambda h: inner(h, 0.5) + inner(h + 1, 0.5)))(mx.stack([t[0], u]))
    (_,), (r,) = mx.vjp(lambda h: [inner(h, 2.0)], [u], [mx.array(1.5)])
    return (g * v[0]).sum() + (v[1] * p[0] * t[0]).sum() + q.sum() + (r * r).sum()
"""
LINES = [
    ("y", 1, "z = z * 2"), ("y", 2, "z = z * 2"), ("y", 3, "z = z * 2"), ("y", 4, "z = z * 2"),
    ("y", 1, "z[0] = 1.5"),
    ("y", 1, "z, h = h, z"),
    ("y", 2, "s = 7.0"), ("y", 1, "cfg['k'] = 5.0"), ("y", 1, "for n in range(2): z = z + n * h"),
    ("a", 1, "a = a * 3"), ("a", 2, "a = a * 3"), ("a", 5, "if k: a = mx.exp(a) * h"), ("a", 4, "h = h * 0.5"),
    ("a", 3, "a += h; k = 4"), ("a", 7, "a = a * 3"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "nth", "line"), LINES, ids=[f"{where} {nth} {line}" for where, nth, line in LINES])
def test_its_twin(place: str, nth: int, line: str, tmp_path: Path) -> None:
    program = loaded(tmp_path / f"nested_{abs(hash((place, nth, line)))}.py", PROGRAM)
    lines = PROGRAM.splitlines()
    number = next(at for at, text in enumerate(lines) if text.endswith(f"# {place}"))
    indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
    which = "ya".index(place)
    told = [f"seen[{which}] += 1", f"if seen[{which}] == {nth}:", f"    {line}"]
    written = [*lines]
    written[number:number] = [indent + text for text in told]
    twin = loaded(tmp_path / "twin.py", "\n".join(written) + "\n")
    w = mx.array([0.1, 0.2])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    inner = [op for op in session.tape.ops if op.inner and op.of is None]
    at = [op for op in inner if session.names.source(op).line == number + 1]
    begins = [op for op in at if op.operation.name == ("tanh" if place == "y" else "multiply")]
    session.run(f"goto {begins[nth - 1].label}")
    here = session.op
    session.run(line)
    assert here is not None
    assert session.op is not None
    assert (session.op.name, session.op.lasti) == (here.name, here.lasti)
    expected = mx.value_and_grad(twin.f)(w)
    assert_last_pass_is(session, expected)
    session.run("goto end")
    session.run(f"goto {session.tape.ops[-1].label}")
    session.run("undo")
    assert_last_pass_is(session, mx.value_and_grad(loaded(tmp_path / "again.py", PROGRAM).f)(w))
    session.run("redo")
    session.run("goto #1")
    session.run("goto end")
    assert_last_pass_is(session, expected)
    assert program.cfg == {"k": 2.0}


def test_another_change_behind_it_stands_on_it(tmp_path: Path) -> None:
    """The call is one of the tape then, and its function runs by itself."""
    program = loaded(tmp_path / "nested_more.py", PROGRAM)
    text = PROGRAM.replace(
        "    y = mx.tanh", "    seen[0] += 1\n    if seen[0] == 1: z = z * 2; cfg['k'] = 3.0\n    y = mx.tanh"
    )
    text = text.replace("    p, t = ", "    v = v * 0.5\n    p, t = ")
    twin = loaded(tmp_path / "twin.py", text)
    w = mx.array([0.1, 0.2])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    for line in (
        "until nested_more.py:5",
        "if h.size: z = z * 2; cfg['k'] = 3.0",
        "until nested_more.py:16",
        "v = v * 0.5",
    ):
        session.run(line)
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))


def test_what_the_function_then_raises_is_said(tmp_path: Path) -> None:
    """Its own error, and none of ours."""
    program = loaded(tmp_path / "nested_raises.py", PROGRAM)
    session = OpenSession(nnrepl.trace(program.f, mx.array([0.1, 0.2]), wrt=0))
    session.run("until nested_raises.py:5")
    with pytest.raises(UserError, match=r"refuses that .ValueError: Invalid type str"):
        session.run("z = 'a'")
    assert len(session.changes.timelines) == 1


def test_what_is_refused(tmp_path: Path) -> None:
    """Where MLX works out gradients by itself no line of Python runs, and a tracer has no numbers."""
    program = loaded(tmp_path / "nested_refused.py", PROGRAM)
    session = OpenSession(nnrepl.trace(program.f, mx.array([0.1, 0.2]), wrt=0))
    before = session.tape
    backward = next(op for op in session.tape.ops if op.inner and op.of is not None)
    session.run(f"goto {backward.label}")
    with pytest.raises(UserError, match=r"inside of .* which MLX runs by itself"):
        session.run("z = z * 2")
    session.run("goto start")
    session.run("until nested_refused.py:10")
    with pytest.raises(UserError, match="fails where the program runs again"):
        session.run("k = a.sum().item(); a = a * k")
    assert session.tape is before


TWICE = """\
import mlx.core as mx
def inner(p, q):
    z = p * q
    z = mx.tanh(z)
    return (z * z).sum()
def within(p, q):
    return mx.checkpoint(inner)(p * p, q)
def block(h):
    h = h * 1.1
    return h * mx.grad(within if h.size > 2 else inner)(h * 0.3, h)
def f(w):
    return (mx.checkpoint(block)(w * 2) * w).sum()
"""


@pytest.mark.parametrize("size", [2, 3], ids=["around", "around and within"])
def test_all_runs_of_a_checkpoint_have_it(size: int, tmp_path: Path) -> None:
    """Also those that MLX makes by itself, for the nested gradient and for the gradient of that."""
    program = loaded(tmp_path / "nested_twice.py", TWICE)
    twin = loaded(tmp_path / "twin.py", TWICE.replace("    z = mx.tanh", "    z = z * 2\n    z = mx.tanh"))
    w = mx.array([0.1, 0.2, 0.3][:size])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    session.run("until nested_twice.py:4")
    session.run("z = z * 2 if w.size else z")
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))
