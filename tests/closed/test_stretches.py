"""Programs that make no gradient calls run natively as stretches, which are opened to the bits of plain MLX."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.session import closed
from nnrepl.session.errors import UserError
from tests.closed.test_closed import BITS, QUIET, TOLD, _main, captured, plainly, play  # noqa: F401
from tests.support import OpenSession

MODEL = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from functools import partial
mx.random.seed(3)
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.names, self.key, self.out = nn.Embedding(16, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 16)
    def __call__(self, tokens, cache):
        x = self.names(tokens); keys = self.key(x)
        if cache: keys = mx.concatenate([cache[0], keys], 1)
        cache[:] = [keys]
        return self.out(mx.softmax(x @ keys.swapaxes(1, 2), -1) @ keys)
model = Reader(); mx.eval(model.parameters())
"""
TOKENS = """
cache, token, found = [], mx.array([[1, 2, 3]]), []
for i in range(14):
    z = model(token, cache)[:, -1]; seen(z)
    token = mx.random.categorical(z)[:, None]
    found.append(token.item())
    if i % 5 == 0: print(i, found[-1], z.max().item())
print(found)
"""
SAMPLED = """
@partial(mx.compile, inputs=mx.random.state, outputs=mx.random.state)
def pick(z, heat): return mx.random.categorical(z / heat)
for i in range(14):
    z = model(mx.random.randint(0, 16, (1, 3 + i // 6)), [])[:, -1]; seen(z)
    token = pick(z, 0.5 if i < 8 else 0.75)
    print(i, token.item())
"""
"""A compiled function gets arguments of a new kind in the middle of it: MLX traces it then."""
EVALUATED = """
for i in range(10):
    batch = mx.random.randint(0, 16, (2, 5))
    z = nn.losses.cross_entropy(model(batch, []), batch); seen(z)
    loss = z.mean()
    print(i, loss.item())
"""
TRAINED = """
def loss_fn(model, batch): return nn.losses.cross_entropy(model(batch, []), batch).mean()
learn = nn.value_and_grad(model, loss_fn); opt = optim.Adam(1e-2)
for k in range(8):
    loss, grads = learn(model, mx.random.randint(0, 16, (2, 5))); opt.update(model, grads)
    mx.eval(model.state, opt.state)
    print(k, loss.item())
"""
PULLED = """
for k in range(4):
    [out], [pull] = mx.vjp(lambda x: model.out(x), [mx.random.normal((2, 8))], [mx.ones((2, 16))])
    print(out.sum().item(), pull.sum().item())
"""
EVOLVED = """
opt = optim.Adam(0.05)
theta = mx.random.normal((5,))
for k in range(5):
    noise = mx.random.normal((4, 5))
    found = -(theta + 0.1 * noise).square().sum(1)
    theta = opt.apply_gradients({"t": -(found @ noise)}, {"t": theta})["t"]
    mx.eval(theta, opt.state)
    print(k, found.mean().item())
"""
"""An optimizer, and no gradient call."""
PROGRAMS = {
    "tokens": TOKENS,
    "sampled": SAMPLED,
    "evaluated": EVALUATED,
    "then trained": EVALUATED + TRAINED.replace("range(8)", "range(3)"),
    "then pulled back": EVALUATED + PULLED,
    "then evolved": EVALUATED + EVOLVED,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_opened_stretch_is_the_plain_program(name: str, tmp_path: Path) -> None:
    text = PROGRAMS[name]
    printed, told = plainly(MODEL + TOLD + text)
    (tmp_path / "run.py").write_text(MODEL + QUIET + text)
    line = 1 + (MODEL + QUIET + text)[: (MODEL + QUIET + text).index("seen(z)\n")].count("\n") + 1
    lines = [
        part for i in (9, 4) for part in ("goto start", f"tbreak run.py:{line}, i == {i}", "continue", f"p {BITS}")
    ]
    shown = play(tmp_path / "run.py", "continue", "info passes all", *lines)
    assert shown.startswith("native on\n" + printed)
    assert re.search(r"^▶? +2 +run · turns? \d", shown, re.MULTILINE), shown
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[9], told[4]], shown
    assert shown.count("opening") == 2 * 2  # where it is, a first run along the tape tells


def test_an_edit_in_an_opened_stretch_is_the_program_with_that_line(tmp_path: Path) -> None:
    text = MODEL + QUIET + TOKENS
    changed = text.replace("seen(z)\n    token", "seen(z)\n    if i == 7: z = z * -2.0\n    token")
    printed, _ = plainly(changed.replace(QUIET, TOLD))
    (tmp_path / "run.py").write_text(text)
    line = 1 + text[: text.index("    token = ")].count("\n")
    shown = play(tmp_path / "run.py", "continue", "goto start", f"break run.py:{line}, i == 7", "continue",
                 "z = z * -2.0", "clear 1", "continue", "p found")  # fmt: skip
    assert printed.splitlines()[-1] in shown.splitlines(), shown
    assert printed.splitlines()[-1] != plainly(text.replace(QUIET, TOLD))[0].splitlines()[-1]


def test_a_program_that_fails_in_a_stretch_is_opened_where_it_fails(tmp_path: Path) -> None:
    text = MODEL + QUIET + TOKENS.replace("    found.append", "    if i == 9: z @ z\n    found.append")
    (tmp_path / "run.py").write_text(text)
    lines = [part for line in ("config native on", "continue", "p i", "p z.shape") for part in ("-c", line)]
    shown = captured("--plain", *lines, str(tmp_path / "run.py"))
    assert re.search(r"^i = 9$", shown, re.MULTILINE), shown
    assert "if i == 9: z @ z" in shown


@pytest.mark.parametrize("trains", [False, True])
def test_an_interrupt_stops_a_native_program_which_can_go_on(trains: bool, tmp_path: Path) -> None:
    """At the op behind the next evaluation, or where the next step begins."""
    text = TRAINED if trains else TOKENS
    last, when, name = ("    print(k, loss", "k == 3", "k") if trains else ("    if i % 5", "i == 8", "i")
    once = f"    if {when} and not hasattr(sys, 'told'): sys.told = 1; os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "run.py").write_text(MODEL + QUIET + "import os, signal, sys\n" + text.replace(last, once + last))
    commands = ("config native on", "continue", f"p ({name},)", "where", "continue", f"p ({name},)")
    lines = [part for line in commands for part in ("-c", line)]
    run = [sys.executable, "-m", "nnrepl", "--plain", *lines, str(tmp_path / "run.py")]
    shown = subprocess.run(run, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    assert re.findall(r"\((\d+),\)", shown) == (["5", "7"] if trains else ["10", "13"]), shown
    assert "The program has ended" in shown
    if trains:
        assert re.search(r"^step 6 · forward 1", shown, re.MULTILINE), shown


BY_HAND = """
import mlx.core as mx
mx.random.seed(3)
x, y = mx.random.normal((6, 4)), mx.random.normal((6, 2))
def train(turns):
    w, v = mx.random.normal((4, 8)) * 0.5, mx.random.normal((8, 2)) * 0.5
    for i in range(turns):
        h = mx.maximum(x @ w, 0)
        e = h @ v - y
        if i % 10 == 0: print(i, (e * e).mean().item())
        z = (e @ v.T) * (h > 0); seen(z)
        v = v - 0.01 * (h.T @ e)
        w = w - 0.01 * (x.T @ z)
        mx.eval(w, v)
    return w.sum().item()
"""
"""Backpropagation by hand: no Module, no gradient call."""


def test_turns_of_training_by_hand_are_opened_one_by_one(tmp_path: Path) -> None:
    text = BY_HAND + "print(train(31))\n"
    printed, told = plainly(TOLD + text)
    (tmp_path / "run.py").write_text(QUIET + text)
    line = 1 + (QUIET + text)[: (QUIET + text).index("        v = v - 0.01")].count("\n")
    turns = (29, 7)
    lines = [
        part
        for i in turns
        for part in ("clear", "goto start", f"break run.py:{line}, i == {i}", "continue", f"p {BITS}")
    ]
    shown = play(tmp_path / "run.py", "info passes", "plot loss", *lines)
    assert shown.startswith(printed)
    assert "stretches of the program are closed" in shown
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[i] for i in turns], shown
    assert shown.count("opening") == 2 * len(turns)  # where it is, a first run along the tape tells


def test_turns_before_an_optimizer_that_is_given_no_gradients_are_opened_and_its_updates_end_steps(
    tmp_path: Path,
) -> None:
    text = BY_HAND + "print(train(9))\nimport mlx.optimizers as optim\n" + EVOLVED
    told = plainly(TOLD + text)[1]
    (tmp_path / "run.py").write_text(QUIET + text)
    line = 1 + (QUIET + text)[: (QUIET + text).index("        v = v - 0.01")].count("\n")
    shown = play(tmp_path / "run.py", "continue", "info steps", "goto setup#1", f"break run.py:{line}, i == 7",
                 "continue", f"p {BITS}", "clear", "goto step 4", "p (k,)", "opt.learning_rate = 0.5",
                 "continue")  # fmt: skip
    assert re.findall(r"^▶? +([1-9])  .*Adam", shown, re.MULTILINE) == ["1", "2", "3", "4", "5"], shown
    assert "came after" not in shown  # the last step is over: it has updated
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[7]], shown
    assert "(k,) = (3,)" in shown
    twin = text.replace("    theta = opt.apply", "    if k == 3: opt.learning_rate = 0.5\n    theta = opt.apply")
    assert shown.splitlines()[-1:] == plainly(TOLD + twin)[0].splitlines()[-1:], shown


def test_an_edit_in_an_opened_turn_is_the_program_with_that_line(tmp_path: Path) -> None:
    text = QUIET + BY_HAND + "print(train(31))\n"
    printed, _ = plainly(
        text.replace(QUIET, TOLD).replace("        v = v -", "        if i == 21: z = z * -2.0\n        v = v -")
    )
    (tmp_path / "run.py").write_text(text)
    line = 1 + text[: text.index("        v = v - 0.01")].count("\n")
    shown = play(tmp_path / "run.py", "goto start", f"break run.py:{line}, i == 21", "continue", "z = z * -2.0",
                 "clear 1", "continue")  # fmt: skip
    assert printed.splitlines()[-2:] == shown.splitlines()[-2:], shown


def test_the_user_stands_at_the_first_forward_pass_after_such_training(tmp_path: Path) -> None:
    """What reads a parameter of a Module ends the stretch, and what makes one."""
    made = "import mlx.nn as nn\nmx.random.seed(1)\nlast = nn.Linear(2, 3)\n"
    for text in (
        "import mlx.core as mx\n" + made + BY_HAND + "print(train(9))\n",
        BY_HAND + "print(train(9))\n" + made,
    ):
        text += "print(last(y).sum().item())\n"
        printed, _ = plainly(TOLD + text)
        (tmp_path / "run.py").write_text(QUIET + text)
        shown = play(tmp_path / "run.py", "info passes", "continue", "goto setup#45", "p i", "info passes")
        assert f"{printed.splitlines()[1]}\nnative on\n" in shown
        assert re.search(r"^ +0  setup · turns 3 to 9, .* setup#\d+ to setup#\d+", shown, re.MULTILINE), shown
        assert re.search(r"^▶ +1  run +run.py:\d+ +1  #1", shown, re.MULTILINE), shown
        assert printed.splitlines()[-1] in shown
        assert re.search(r"^i = [46]$", shown, re.MULTILINE), shown


def test_why_nan_looks_into_the_turns_of_such_training(tmp_path: Path) -> None:
    text = (
        "import mlx.core as mx\nw = mx.array([1.0, 2.0])\n"
        "for i in range(30):\n    w = w - 0.01 * mx.log(w - 0.1 * i)\n    mx.eval(w)\n"
    )
    (tmp_path / "run.py").write_text(text)
    assert "There is no logarithm of a negative number." in play(tmp_path / "run.py", "why nan")


def test_no_command_opens_what_is_open(tmp_path: Path) -> None:
    """Of a turn of the setup nothing is asked that steps are asked for: `explain` opened step 0 without end."""
    loop = "for i in range(30):\n    w = w - 0.01 * mx.exp(w)\n    loss = w.sum()\n    mx.eval(w, loss)\n"
    (tmp_path / "run.py").write_text(f"import mlx.core as mx\nw = mx.array([1.0, 2.0])\n{loop}")
    lines = ("explain", "info gradients", "p grad(w)", "plot loss", "check", "why loss", "health")
    shown = play(tmp_path / "run.py", "continue", *lines)
    assert "opening the losses of " not in shown  # a line over the steps goes through no turn
    assert "a fault of nnrepl's" not in shown, shown
    assert not re.search(r"-\d{9}", shown), shown
    session = OpenSession(nnrepl.trace(lambda x: x * 2, mx.ones(2)))
    with pytest.raises(UserError, match="a fault of nnrepl's"):
        closed.open_steps(session, [0])


def test_a_curve_says_nothing_of_what_ran_natively_before_the_first_step(tmp_path: Path) -> None:
    text = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim, numpy as np
model = nn.Linear(4, 2); mx.eval(model.parameters())
opt, data = optim.SGD(0.1), np.ones((40, 4), np.float32)
def batches(x):
    order = mx.array(np.arange(40))
    for start in range(0, 40, 10):
        yield x[order[start : start + 10]], x[order[start : start + 10]]
step = nn.value_and_grad(model, lambda x: (model(x) ** 2).mean())
for x, _ in batches(data):
    loss, grads = step(mx.array(x))
    opt.update(model, grads)
    mx.eval(model.state)
"""
    (tmp_path / "run.py").write_text(text)
    shown = play(tmp_path / "run.py", "info passes", "continue", "plot loss")
    assert "setup · closed" in shown
    assert "(step 4)" in shown
    assert not re.search("(is|are) closed", shown), shown
