"""What is typed at the prompt and changes something that is no tensor is a change like any other: what follows is what
plain Python gives with that line in the program, once; it stands on the timeline and is undone."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from tests.support import PROMPT, OpenSession, nnrepl_cli, script_python

PROGRAM = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
class Net(nn.Module):
    kind = 1
    def __init__(self):
        super().__init__()
        self.inner, self.drop, self.scale = nn.Linear(2, 3), nn.Dropout(0.5), 1.0
    def __call__(self, x):
        return self.drop(self.inner(x)) * self.scale * self.kind
model, opt, counter, kept = Net(), optim.SGD(learning_rate=0.1), 0, [1.0]
def loss_fn(model, x):
    global counter
    counter += 1
    return (model(x) * counter * sum(kept)).square().mean()
step = nn.value_and_grad(model, loss_fn)
for i in range(5):
    x = mx.ones((4, 2)) * (i + 1)  # here
    loss, g = step(model, x)
    opt.update(model, g)
    print("LOSS", i, loss.item(), counter, kept)
"""
LINES = [
    "model.eval()", "opt.learning_rate = 0.5", "counter += 10", "kept.append(2.0)", "model.scale = 3.0",
    "Net.kind = 2", "kept[0] = 0.5", "del kept[0]", "model.freeze()", "model.inner = nn.Linear(2, 3, bias=False)",
]  # fmt: skip


@pytest.mark.parametrize("lines", [LINES[:3], LINES[3:6], LINES[6:8], LINES[8:9], LINES[9:]], ids=str)
def test_lines_and_their_twins(lines: list[str], tmp_path: Path) -> None:
    """Each line in a step of its own, then all of them undone but the first."""
    path, twin = tmp_path / "program.py", tmp_path / "twin.py"
    path.write_text(PROGRAM)

    def losses(count: int) -> list[str]:
        """What the program prints with the first lines in it."""
        body = "".join(f"    if i == {number + 1}: {line}\n" for number, line in enumerate(lines[:count]))
        twin.write_text(PROGRAM.replace("    x = mx.ones", body + "    x = mx.ones"))
        return _losses(script_python(twin))

    commands = []
    for number, line in enumerate(lines):
        commands += [f"until step {number + 2}", "goto program.py:18", line]
    there = [*commands, "c", "q"]
    back = [*commands, *["undo"] * (len(lines) - 1), "c", "q"]
    for script, count in ((there, len(lines)), (back, 1)):
        found = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in script)).stdout
        assert set(losses(count)) <= set(_losses(found)), found
        assert _losses(found)[-1] == losses(count)[-1], found


def test_a_look_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    looks = [
        "model(x).sum()",
        "loss_fn(model, x)",
        "len(kept)",
        "kept.pop()",
        "print(kept.pop())",
        "mine = 3",
        "mine += 1",
    ]
    shown = nnrepl_cli(
        "--plain", str(path), stdin="\n".join(["until step 2", *looks, "kept", "mine", "counter", "timelines", "q\n"])
    ).stdout
    assert "timeline 2" not in shown
    assert "1  as it is" in shown
    assert re.findall(r"^(?:\[1.0\]|4|1)$", shown, re.MULTILINE) == ["1", "[1.0]", "4", "1"], shown


STATE = """
import mlx.core as mx, random
import numpy as np
mx.random.seed(0); random.seed(0)
kept, seen, R, N, key = {"t": mx.ones(3)}, [1.0], random.Random(4), np.random.default_rng(3), mx.random.key(1)
def make():
    count = 0
    def f(h):
        nonlocal count
        global key
        count += 1
        key, k = mx.random.split(key)
        n = mx.random.normal((3,), key=k)
        a, r = R.random(), random.random()
        return h * a + n * count + kept["t"] * r * sum(seen) + N.random()  # here
    return f
f, w = make(), mx.array([1.0, 2.0, 3.0])
def loss_fn(w):
    return f(mx.tanh(w) * mx.random.uniform()).square().sum()
for i in range(4):
    loss, g = mx.value_and_grad(loss_fn)(w)
    print("LOSS", i, loss.item())
    w = w - 0.01 * g
"""
HELD = [
    "a = 2.0", "count += 5", "seen.append(2.0)", "seen[0] += 5", "kept.clear(); kept['t'] = mx.zeros(3)", "R.seed(9)",
    "N.bit_generator.state = np.random.default_rng(8).bit_generator.state", "random.seed(3)", "mx.random.seed(3)",
    "key = mx.random.key(9)",
]  # fmt: skip


def test_what_a_call_holds(tmp_path: Path) -> None:
    """Local variables, closures, containers, generators of numbers: each line in the same call, then taken back. It
    takes effect before the line at which the cursor stands, though Python has the operands of that already."""
    path, twin = tmp_path / "state.py", tmp_path / "twin.py"
    path.write_text(STATE)
    commands = ["c"]
    for line in HELD:
        commands += ["goto step 3", "until state.py:15", line, "c", "undo"]
    shown = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in [*commands, "q"])).stdout
    answers = PROMPT.split(shown)
    plain = _losses(script_python(path))
    assert _losses(answers[1]) == plain
    for number, line in enumerate(HELD):
        twin.write_text(STATE.replace("        return h", f"        if count == 3: {line}\n        return h"))
        expected = [found for found in _losses(script_python(twin)) if found not in plain]
        found = [found for found in _losses("".join(answers[4 + 5 * number : 6 + 5 * number])) if found not in plain]
        assert expected
        assert found == expected, f"{line}: {shown}"


LOOP = """
import mlx.core as mx
kept = [5]
def layer(k, h):
    return h * 2 if k > 1 else h
def loss_fn(w):
    h = w
    for k in range(4):
        h = layer(k, h)  # here
    return (h * sum(kept)).sum()
w = mx.array([1.0, 2.0])
for i in range(3):
    loss, g = mx.value_and_grad(loss_fn)(w)
    kept.append(i)
    print("LOSS", i, loss.item())
    w = w - 0.1 * g
"""


def _compared(path: Path, lines: list[str], written: str) -> str:
    """Play lines in LOOP; what it prints for the changed call is what the twin prints. Returns the session."""
    path.write_text(LOOP)
    shown = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in [*lines, "c", "q"])).stdout
    path.write_text(LOOP.replace("        h = layer", f"        if i == 1 and k == 2: {written}\n        h = layer"))
    assert _losses(shown)[-2:] == _losses(script_python(path))[-2:], shown
    path.write_text(LOOP)
    return shown


def test_a_line_in_a_loop_waits_for_its_turn(tmp_path: Path) -> None:
    """The line at which the cursor stands has come in earlier turns, in which it made no op."""
    _compared(tmp_path / "loop.py", ["goto step 2", "kept.append(7 * k)"], "kept.append(7 * k)")


def test_several_changes_in_one_line(tmp_path: Path) -> None:
    shown = _compared(
        tmp_path / "loop.py", ["until step 2", "up", "h = h * 3; kept.append(1)"], "h = h * 3; kept.append(1)"
    )
    assert "timeline 2: h = h * 3; kept.append(1)" in shown
    assert "timeline 3" not in shown


def test_a_line_that_fails_in_the_program_leaves_everything(tmp_path: Path) -> None:
    """It can be done where the user looks, and not where the program runs again: they stand where they stood."""
    path = tmp_path / "loop.py"
    path.write_text(LOOP)
    lines = ["once = [1]", "goto step 2", "kept.append(once.pop())", "timelines", "c", "q"]
    shown = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in lines)).stdout
    assert "the tape and your changes are as they were" in " ".join(shown.split())
    assert "timeline 2" not in shown
    assert len(_losses(shown)) == 3


def test_a_parameter_after_its_pass(tmp_path: Path) -> None:
    """What was differentiated was the parameter as it was: only the update takes the change."""
    path, twin = tmp_path / "between.py", tmp_path / "twin.py"
    program = PROGRAM.replace("    opt.update", "    n = x.sum()\n    opt.update")
    path.write_text(program)
    line = "model.inner.weight = model.inner.weight * 0.5"
    twin.write_text(program.replace("    n = x", f"    if i == 2: {line}\n    n = x"))
    commands = ["until step 3", "until between.py:20", line, "c", "q"]
    shown = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in commands)).stdout
    assert _losses(shown) == _losses(script_python(twin)), shown


def test_a_draw_at_the_prompt_moves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.py"
    path.write_text(STATE)
    looks = ["R.random()", "random.random()", "mx.random.normal((2,))", "N.random()"]
    commands = ["until step 2", *looks, "until state.py:15", *looks, "c", "q"]
    shown = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in commands)).stdout
    assert "timeline" not in shown
    assert _losses(shown) == _losses(script_python(path))


def _losses(text: str) -> list[str]:
    return re.findall(r"^LOSS .*", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mx.tanh = 3", "mx.tanh cannot be set here: it is none of the program's"),
        ("del nn.Linear", "nn.Linear cannot be set here"),
        ("nn.Linear.made_up = 3", "nn.Linear.made_up cannot be set here"),
        ("os.environ['NNREPL_MADE_UP'] = '1'", "os.environ['NNREPL_MADE_UP'] cannot be set here"),
        ("log.mode = 'w'", "log.mode cannot be set here"),
        ("m = 3", "m is bool; 3 is neither True nor False"),
        ("h = (", "this does not parse: '(' was never closed"),
        ("h == ", "this does not parse: invalid syntax"),
        ("class Last:", "this does not parse: expected an indented block after class definition on line 1"),
        ("for k in range(3):\n    x = (\n", "this does not parse: '(' was never closed (line 2)"),
        ("h = yield 3", "this does not parse: 'yield' outside function"),
        ("h = made_up", "nothing here is called made_up"),
        ("h[7] = 1", "index 7 is out of range: axis 0 of h (2, 3) has the places 0 to 1"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, mx.checkpoint, mx.compile], ids=["plain", "checkpoint", "compile"])
def test_what_cannot_be_done_is_said_and_leaves_everything(wrap: Any, line: str, said: str) -> None:
    """Also what is set in a library: nothing would take it back where the program runs again. And an index that was
    refused is told once."""

    def inner(x: mx.array) -> mx.array:
        h = x * (2 if nn and os and log else 1)
        m = h > 0
        return mx.tanh(h) * m

    with Path(os.devnull).open() as log:
        before = mx.tanh, nn.Linear, dict(os.environ), vars(nn.Linear).copy(), getattr(log, "mode", "")
        session = OpenSession(nnrepl.trace(lambda x: wrap(inner)(x).sum(), mx.ones((2, 3)), wrt=0))
        session.run("goto tanh")
        with pytest.raises(nnrepl.UserError, match=f"^{re.escape(said)}(?!.*read as Python)"):
            session.run(line)
        assert before == (mx.tanh, nn.Linear, dict(os.environ), vars(nn.Linear).copy(), getattr(log, "mode", ""))
        assert "timeline" not in str(session.run("timelines")).partition("as it is")[2]
        assert "out of range" not in str(session.run("h = h * 2")) + str(session.run("goto end"))


def test_a_line_that_sets_nothing_of_the_programs_says_so() -> None:
    def f(x: mx.array) -> mx.array:
        h = x * 2
        return mx.tanh(h).sum()

    session = OpenSession(nnrepl.trace(f, mx.ones((2, 3)), wrt=0))
    session.run("goto tanh")
    assert str(session.run("h.T[0] = 1")).strip() == "that changes nothing of the program's"
    assert [str(session.run(line)).strip() for line in ("mine = [1, 2]", "mine[0] = 3", "p mine")] == [
        "",
        "",
        "mine = [3, 2]",
    ]
