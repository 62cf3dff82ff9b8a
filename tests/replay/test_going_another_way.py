"""A program that does not do again what it did: it is said, and all is as it was. Random draws are the same again."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from tests.session.test_stops_running import play
from tests.support import OpenSession, nnrepl_cli, script_python

FLAG = "NNREPL_TEST_CALLED_BEFORE"
"""Where a function remembers what nnrepl cannot put back."""


def test_a_function_that_ends_earlier_loses_no_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that the second run does not come to would be gone without a word."""
    monkeypatch.delenv(FLAG, raising=False)

    def forgetful(w: mx.array) -> mx.array:
        s = w.sum()
        if FLAG in os.environ:
            return s
        monkeypatch.setenv(FLAG, "1")
        a = s * 2
        return a + 1

    session = OpenSession(nnrepl.trace(forgetful, mx.array([1.0, 2.0])))
    session.run("goto add")
    with pytest.raises(nnrepl.UserError, match="where the tape has #2 multiply, it called nothing"):
        session.run("a = a * 5")
    assert len(session.changes.timelines) == 1
    assert str(session.run("p a")) == "a = 6"
    session.run("goto end")
    assert session.tape.ops[-1].outputs[0].array.item() == 7.0


def test_the_same_op_on_another_line_is_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FLAG, raising=False)

    def forgetful(w: mx.array) -> mx.array:
        s = w.sum()
        if FLAG in os.environ:
            a = s * 2
        else:
            monkeypatch.setenv(FLAG, "1")
            a = s * 2
        return a + 1

    session = OpenSession(nnrepl.trace(forgetful, mx.array([1.0, 2.0])))
    begins = forgetful.__code__.co_firstlineno
    session.run("goto add")
    with pytest.raises(nnrepl.UserError, match=f"line {begins + 3} instead of {begins + 6} "):
        session.run("a = a * 5")
    assert len(session.changes.timelines) == 1


def test_draws_are_the_same_again() -> None:
    """After an edit the draws before it and after it have the keys that they had, at any number of edits."""

    def noisy(w: mx.array) -> mx.array:
        first = mx.random.normal((2,))
        a = w * 2
        second = mx.random.normal((2,))
        return (a + first * second).sum()

    mx.random.seed(4)
    noise = [mx.random.normal((2,)) for _ in range(2)]
    product = (noise[0] * noise[1]).sum()
    mx.random.seed(4)
    session = OpenSession(nnrepl.trace(noisy, mx.array([1.0, 2.0]), wrt=0))
    before = [op.outputs[0] for op in session.tape.ops if op.name.endswith("normal")]
    for factor, place in ((3, "#3"), (9, "#4")):
        session.run(f"goto {place}")
        session.run("a = a * 3")  # before the second draw
        loss = session.tape.passes[-1].loss
        assert loss is not None
        assert mx.allclose(loss.array, mx.array([2.0 * factor, 4.0 * factor]).sum() + product)
        again = [op.outputs[0] for op in session.tape.ops if op.name.endswith("normal")]
        assert [value.array.tolist() for value in again] == [value.array.tolist() for value in before]
    assert len(before) == 2


def test_another_seed_is_another_way() -> None:
    """Who seeds with what cannot be put back (a clock, the system) draws other numbers: that is said, not shown."""
    seeds = []

    def noisy(w: mx.array) -> mx.array:
        a = w * 2
        seeds.append(int.from_bytes(os.urandom(4), "little"))
        mx.random.seed(seeds[-1])
        return (a * mx.random.normal((2,))).sum()

    trace = nnrepl.trace(noisy, mx.array([1.0, 2.0]))
    first = seeds[-1]
    with pytest.raises(nnrepl.UserError, match=rf"random key: seed \d+ instead of seed {first} "):
        trace.set("a", lambda a: a * 1)


LOOP = """import mlx.core as mx
mx.random.seed(0)
def loss_fn(w):
    a = w * 2
    return (a * mx.random.normal((2,))).sum()
w = mx.array([1.0, 2.0])
for i in range(3):
    loss, grad = mx.value_and_grad(loss_fn)(w)
    w = w - 0.1 * grad
    print(f"loss {loss.item():.6f}")
"""


def test_an_edit_in_a_later_step_draws_what_that_step_drew(tmp_path: Path) -> None:
    edited = LOOP.replace("    return (", "    a = a * 3 if i == 1 else a\n    return (")
    (tmp_path / "edited.py").write_text(edited)
    expected = script_python(tmp_path / "edited.py")
    screen = play(tmp_path, LOOP, "until step 2", "until random.normal", "a = a * 3", "c")
    assert "another random key" not in screen
    assert re.findall(r"^loss .*", screen, re.MULTILINE)[-2:] == expected.splitlines()[-2:]


TWICE = """\
import mlx.core as mx
w = mx.ones((3, 3)) * 0.5; x = mx.ones((2, 3))
@mx.checkpoint
def block(h, w):
    return mx.sin(h @ w)
def f(w, x):
    return block(x * 2, w).sum()
for i in range(3):
    loss, g = mx.value_and_grad(f)(w, x)
    w = w - g * 0.1
"""


def test_a_timeline_with_a_change_in_a_block_that_runs_twice_is_run_again(tmp_path: Path) -> None:
    """The change stands at the very start of the block, before any op takes what its second run is given."""
    (tmp_path / "twice.py").write_text(TWICE)
    asked = "p str(w.tolist())"
    lines = ["c", "goto step 2", "until block", "h = h * 3", "c", "undo", asked, "redo", asked, "q"]
    shown = nnrepl_cli("twice.py", stdin="\n".join(lines), cwd=tmp_path, env={"COLUMNS": "1000"}).stdout
    expected = []
    for edit in ("", "    if i == 1: h = h * 3\n"):
        held: dict[str, Any] = {}
        exec(TWICE.replace("    return mx.sin", f"{edit}    return mx.sin"), held)
        expected.append(str(held["w"].tolist()))
    assert re.findall(r"str\(w.tolist\(\)\) = '(.*)'", shown) == expected


def test_what_was_refused_is_refused_again_behind_an_edit() -> None:
    """An op that has nothing of the edit has what it had before it: also the exception that the program caught."""

    def catching(w: mx.array, x: mx.array) -> mx.array:
        h = w * 2
        try:
            r = h @ h
        except ValueError:
            r = h * 3
        return (r + x).sum()

    session = OpenSession(nnrepl.trace(catching, mx.ones((2, 3)), mx.zeros((2, 3))))
    session.run("goto matmul")
    session.run("x = x + 1")
    session.run("goto end")
    assert [op.name for op in session.tape.ops if op in session.tape.notes.errors] == ["matmul"]
    assert str(session.run("p r.sum()")) == "r.sum() = 36"
    assert session.tape.ops[-1].outputs[0].array.item() == 42.0


RAISES = f"""\
import sys
import mlx.core as mx
a = mx.ones((2,)) * 2
sys.modules.setdefault("{FLAG}", [])
if sys.modules["{FLAG}"]: raise ValueError("was here before")
b = a + 1
sys.modules["{FLAG}"].append(b.sum().item())
"""


def test_what_a_program_raises_when_it_runs_again_is_said(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text(RAISES)
    lines = ["c", "goto add", "a = a * 3", "p b", "q"]
    shown = nnrepl_cli("raises.py", stdin="\n".join(lines), cwd=tmp_path, env={"COLUMNS": "1000"}).stdout
    assert "it raised ValueError: was here before" in shown, shown
