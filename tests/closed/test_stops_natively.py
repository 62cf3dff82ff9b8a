"""What stops a program that runs natively: what can be told from outside of its calls opens only the steps where it may
be, and stops where it stops a program that is recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.closed.test_closed import _main, captured

__all__ = ["_main"]

TRAIN = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(3)
X = mx.random.normal((24, 4)); Y = X.sum(axis=1, keepdims=True)
class Net(nn.Module):
    def __init__(self):
        super().__init__(); self.first = nn.Linear(4, 8); self.last = nn.Linear(8, 1); self.n = 0
    def __call__(self, x):
        self.n += 1
        if self.n == 9:
            x = mx.abs(x)
        return self.last(mx.tanh(self.first(x)))
model = Net(); opt = optim.SGD(3e-2, momentum=0.9)
def loss_fn(model, x, y): return ((model(x) - y) ** 2).mean()
def rare(x): return x * 2 + 1
learn = nn.value_and_grad(model, loss_fn)
for i in range(14):
    loss, grads = learn(model, X, Y)
    if i == 7: Y = rare(Y)
    opt.update(model, grads)
    mx.eval(model.parameters(), opt.state)
"""
LINES = {text.strip(): number for number, text in enumerate(TRAIN.splitlines(), 1)}
ABS, UPDATE = LINES["x = mx.abs(x)"], LINES["opt.update(model, grads)"]
COUNT = LINES["self.n += 1"]
STOPS = {
    f"break train.py:{ABS}": 1,  # a line in a branch that no recorded step has taken
    "break rare": 1,
    f"break Net.__call__ train.py:{ABS}": 1,
    f"break train.py:{UPDATE}, i == 5": 1,
    "break Net.__call__, i == 5": 1,
    "break i == 5": 1,
    "break tanh, i > 4 and i % 4 == 1": 1,
    "until i == 5": 1,
    f"until train.py:{ABS}": 1,
    "break step 8": 0,
    "tbreak 6#3": 0,
    "break mx.abs(last.weight).max() > 1.0": 1,
    "break mx.abs(grad(last.bias)).max() > 0.34": 1,
    "until mx.linalg.norm(grad(first.weight)) < 1.3": 1,
    "break last.bias.v.max() > 1.0": 2,  # and the step before it, for what it was there
    "break loss < 1.5": 1,
    "break tanh, loss < 1.5": 1,
    "break first, mx.abs(grad(last.bias)).max() > 0.34": 1,
}
"""Each with how many steps have to be opened for the first stop."""
SHORT = """
import mlx.core as mx
w = mx.ones((2, 2))
def loss_fn(w, x): return (x @ w).square().mean()
for i in range(6):
    x = mx.full((3, 2), 1.5 if i in (0, 4) else 0.5)
    loss, g = mx.value_and_grad(loss_fn)(w, x)
    w = w - 0.1 * g
    mx.eval(w)
"""


def said(native: str, file: Path, *lines: str) -> str:
    commands = [part for line in (f"config native {native}", *lines) for part in ("-c", line)]
    return captured("--batch", *commands, str(file))


def stops_in(shown: str) -> list[str]:
    """What is said at each stop, but for how long its pass is, which is not known while that is being recorded, and
    for numbers that nobody has asked for."""
    shown = re.sub(r"^(step \d+ · \w+ \d+)( of \d+)?( .*|)$", r"\1\3", shown, flags=re.MULTILINE)
    lines = [re.sub(r"\s+", " ", line) for line in shown.splitlines()]
    return [line for line in lines if re.match(r"step \d+ ·|▶ \d+|breakpoint|i = ", line)]


@pytest.mark.parametrize("stop", STOPS)
def test_it_stops_where_a_recorded_program_stops(stop: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    lines = ("goto step 3", stop, *(["continue"] * (not stop.startswith("until"))), "p i")
    shown = {native: said(native, tmp_path / "train.py", *lines) for native in ("on", "off")}
    assert stops_in(shown["on"]) == stops_in(shown["off"])
    opened = re.findall(r"^opening (steps? [\d to]*\d)", shown["on"], re.MULTILINE)
    assert len([step for step in opened if step != "step 2"]) == STOPS[stop], shown["on"]


@pytest.mark.parametrize(
    "lines",
    [
        ("goto step 3", "break i % 3 == 1", "ignore 1 3", "continue", "p i", "info break"),
        ("goto step 3", "break Net.__call__, i % 3 == 1", "continue 3", "p i"),
        ("continue", "goto step 3", f"break train.py:{ABS}", "continue", "p i", "reverse-continue", "where"),
        ("goto step 3", f"break train.py:{ABS}", "commands 1", "p i", "end", "continue", "continue", "p i"),
        ("goto step 3", "break rare", "condition 1 i == 8", "continue", "p i"),
        ("goto step 3", f"break train.py:{UPDATE}, loss < 1.5", "continue", "p i"),
        ("goto step 3", "break rare", "break loss < 1.5", "continue", "p i", "continue", "p i"),
        ("goto step 3", f"tbreak train.py:{ABS}", "continue", "info break", "continue", "p i"),
        ("goto step 3", f"break train.py:{COUNT}, i == 5", "continue", "p i", "continue", "p i"),  # it makes no op
    ],
)
def test_what_goes_with_a_stop_goes_with_it_natively(lines: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    shown = {native: said(native, tmp_path / "train.py", *lines) for native in ("on", "off")}
    assert stops_in(shown["on"]) == stops_in(shown["off"])


def test_a_variable_of_what_nnrepl_calls_itself_is_none_of_the_programs(tmp_path: Path) -> None:
    """`os.path.dirname` has an `i`, which tells how long a path is: that of the program is never more than 13."""
    (tmp_path / "train.py").write_text(TRAIN)
    shown = said("on", tmp_path / "train.py", "goto step 3", "break tanh, i > 20", "continue", "info steps")
    assert "14" in shown
    assert "opening step" not in shown.replace("opening step 2:", "")


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_module_is_entered_in_an_update_too(native: str, tmp_path: Path) -> None:
    """Which weight an update works on is known only after it."""
    (tmp_path / "train.py").write_text(TRAIN)
    stops = stops_in(said(native, tmp_path / "train.py", "goto step 3", "break first", *(["continue"] * 4)))
    found = [stop for stop in stops if stop.startswith("step")]
    assert [re.sub(r"( \w+ \d+) .*", r"\1", stop) for stop in found] == [
        "step 3 · backward 7", "step 3 · update 2", "step 3 · update 7", "step 4 · forward 1"
    ]  # fmt: skip


def test_nothing_is_printed_that_lies_behind_the_stop(tmp_path: Path) -> None:
    """A stop between two calls is made there, and not where the next call ends."""
    program = TRAIN.replace("def rare(x)", "def score(): return mx.abs(model(X) - Y).mean()\ndef rare(x)")
    (tmp_path / "train.py").write_text(f"{program}    if i % 6 == 5: print('the score is', score().item())\n")
    lines = ("goto step 3", "break score", "continue", "p i", "continue", "p i")
    shown = {native: said(native, tmp_path / "train.py", *lines) for native in ("on", "off")}
    order = {native: re.findall("^(i = .*|the score is)", text, re.MULTILINE) for native, text in shown.items()}
    assert order["on"] == order["off"] == ["i = 5", "the score is", "i = 11"]


def test_what_follows_an_update_that_stops_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(f"{TRAIN}    score = model.last.bias + 1\n    print('after', i)\n")
    lines = ("goto step 3", "break mx.abs(last.weight).max() > 1.0", "continue", "p i")
    shown = {native: said(native, tmp_path / "train.py", *lines) for native in ("on", "off")}
    order = {native: re.findall("^(i = .*|after .*)", text, re.MULTILINE) for native, text in shown.items()}
    assert order["on"] == order["off"]
    assert order["on"][-1] == f"i = {len(order['on']) - 1}"


def test_a_temporary_stop_behind_is_there_until_its_step_is_open(tmp_path: Path) -> None:
    program = TRAIN.replace("def rare(x)", "def score(): return mx.abs(model(X) - Y).mean()\ndef rare(x)")
    (tmp_path / "train.py").write_text(f"{program}    if i % 6 == 5: print('the score is', score().item())\n")
    lines = ("continue", "goto step 8", "tbreak i == 5", "reverse-continue", "p i", "info breakpoints")
    shown = {native: said(native, tmp_path / "train.py", *lines) for native in ("on", "off")}
    assert stops_in(shown["on"]) == stops_in(shown["off"])
    assert all("\ni = 5\nThere are no breakpoints" in text for text in shown.values()), shown["on"]


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("before", ["goto step 3", "goto step 2", "next step"])
def test_the_loss_is_watched_wherever_one_stands(before: str, native: str, tmp_path: Path) -> None:
    """It is new in each step, behind the op that makes it, also where the tape already knows what is called so."""
    (tmp_path / "train.py").write_text(TRAIN.replace("return ((model(x)", "x = x * 1; return ((model(x)"))
    shown = said(native, tmp_path / "train.py", before, "p i", "watch loss", *(["continue", "p i", "where"] * 2))
    start, first, second = (int(found) for found in re.findall(r"^i = (\d+)", shown, re.MULTILINE))
    assert (first, second) == (start, start + 1)
    assert len(re.findall(r"^step \d+ · backward 1 ", shown, re.MULTILINE)) == 2


RARE = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(3)
X = mx.random.normal((24, 4)); Y = X[:, :2] * 2
class Count:
    n = 0
count = Count()
class Net(nn.Module):
    def __init__(self):
        super().__init__(); self.first = nn.Linear(4, 8); self.last = nn.Linear(8, 2)
    def __call__(self, x):
        count.n += 1
        return self.last(mx.tanh(self.first(x)))
model = Net(); opt = optim.SGD(0.0); count.n = 0
def loss_fn(model, x, y): return ((model(x) - y) ** 2).mean()
learn = nn.value_and_grad(model, loss_fn)
for i in range(18):
    opt.learning_rate = 0.02 if i % 8 == 5 else 0.0
    y = Y / 0.0 if i == 15 else Y
    if i == 11: y = model(X)
    loss, grads = learn(model, X, y)
    opt.update(model, grads)
    mx.eval(model.parameters(), opt.state)
"""
"""Its weights change in two steps, its gradients are 0 in one, ∞ in another."""


@pytest.mark.parametrize(
    ("stop", "at"), [("watch last.bias", 6), ("catch inf", 15), ("catch zero-grad", 11), ("break count.n == 9", 8)]
)
def test_what_is_seen_where_calls_end_stops_there(stop: str, at: int, tmp_path: Path) -> None:
    """And what has been told is not told again when further steps are opened."""
    (tmp_path / "train.py").write_text(RARE)
    lines = ("goto step 3", stop, "continue", "p i", "continue", "p i")
    more: dict[str, tuple[str, ...]] = {"on": ("info steps all",), "off": ()}
    shown = {native: said(native, tmp_path / "train.py", *lines, *also) for native, also in more.items()}
    stops = stops_in(shown["off"])
    assert stops_in(shown["on"])[: len(stops)] == stops
    assert f"i = {at}" in stops
    assert "All steps are recorded" not in shown["on"]
    counts = [int(ops) for ops in re.findall(r"^(?:▶|  )\s+\d+ +(\d+) +\d +\w+", shown["on"], re.MULTILINE)]
    assert sum(ops < 8 for ops in counts) >= 3, shown["on"]  # those that nothing was seen of stay closed


def test_what_has_to_be_recorded_for_a_stop_is_said(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    for stop, told in (
        ("catch inf", False),
        ("catch zero-grad", False),
        ("catch sync", True),
        ("break erfinv", True),
        ("break model.n == 9", True),
        ("watch first.weight", False),
        ("break rare", False),
        ("break i == 5", False),
        ("watch loss", False),
    ):
        shown = said("on", tmp_path / "train.py", "goto step 3", stop)
        assert ("All steps are recorded for it" in shown) == told, stop
        assert "All steps are recorded" not in said("off", tmp_path / "train.py", "goto step 3", stop)


def test_in_a_compiled_step_nothing_is_missed(tmp_path: Path) -> None:
    """Natively no Python runs in it."""
    compiled = TRAIN.replace(
        "for i in", "state = [model.state, opt.state]\n@mx.compile\ndef nothing(x): return x\nfor i in"
    )
    step = "def step(x, y):\n    loss, grads = learn(model, x, y)\n    opt.update(model, grads)\n    return loss\n"
    compiled = compiled.replace("for i in", f"{step}step = mx.compile(step, inputs=state, outputs=state)\nfor i in")
    compiled = compiled.replace("    loss, grads = learn(model, X, Y)\n    if", "    loss = step(X, Y)\n    if")
    compiled = compiled.replace("(Y)\n    opt.update(model, grads)", "(Y)").replace("if self.n == 9", "if False")
    (tmp_path / "train.py").write_text(compiled)
    for stop in ("break Net.__call__, i == 5", "break loss < 1.5", "break rare"):
        lines = ("goto step 3", stop, "continue", "p i")
        shown = {native: said(native, tmp_path / "train.py", *lines) for native in ("on", "off")}
        assert stops_in(shown["on"]) == stops_in(shown["off"]), stop


def test_on_a_timeline_that_runs_on_nothing_stops_where_the_user_has_been(tmp_path: Path) -> None:
    """The program is led there again first: what is opened after that lies ahead."""
    lines = ("goto step 3 backward", "x = x * 1", "continue", "timeline 1", "break loss_fn, x[0, 0] > 0.9",
             "continue", "p i")  # fmt: skip
    (tmp_path / "train.py").write_text(SHORT)
    shown = {native: said(native, tmp_path / "train.py", *lines) for native in ("on", "off")}
    assert stops_in(shown["on"]) == stops_in(shown["off"])
    assert shown["on"].endswith("i = 4\n")


GENERATES = """
import mlx.core as mx
w = mx.eye(4) * 0.5
x = mx.ones((4,))
for i in range(8):
    x = mx.tanh(w @ x)
    mx.eval(x)
"""


def test_a_loss_is_watched_in_a_program_that_has_no_steps(tmp_path: Path) -> None:
    """It is closed in stretches, and never has one: that is a watch like any other."""
    (tmp_path / "generate.py").write_text(GENERATES)
    shown = {native: said(native, tmp_path / "generate.py", "continue", "watch loss") for native in ("on", "off")}
    assert shown["on"].splitlines()[-1] == shown["off"].splitlines()[-1] == "watch 1  loss"
