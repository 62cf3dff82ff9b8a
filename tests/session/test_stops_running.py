"""Stops while a program runs: in processes of their own, as a person would use them."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import pytest

from nnrepl.record.verify import same_bits
from nnrepl.session.search import Search
from tests.session import programs
from tests.session.test_stops import net_session
from tests.support import nnrepl_cli


def play(tmp_path: Path, program: str, *lines: str, arguments: tuple[str, ...] = ()) -> str:
    """What the shell shows for some lines on a program, without a terminal."""
    file = tmp_path / "train.py"
    file.write_text(program)
    result = nnrepl_cli(*arguments, str(file), stdin="\n".join((*lines, "q")) + "\n")
    assert not result.stderr, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("program", "op", "place", "origins"),
    [
        (programs.BORN_FORWARD, "multiply", "train.py:13", ["picked[1, 0] = 0", "= -inf, made in #10 log from"]),
        (programs.BORN_BACKWARD, "vjp of sqrt", "train.py:12", ["∂L/∂norms[1] = 0", "[1] = 0"]),
        (programs.BORN_IN_UPDATE, "divide", "train.py:13", ["[0, 1] = 0"]),
    ],
    ids=["forward", "backward", "update"],
)
def test_catch_nan_on_programs_from_outside(
    tmp_path: Path, program: str, op: str, place: str, origins: list[str]
) -> None:
    screen = play(tmp_path, program, "catch nan", "c", "back 3", "c", "goto end", "rc")
    found = re.findall(r"becomes nan in #\d+ (.+?) \(", screen)
    assert found[:2] == [op] * 2  # as it runs, and again on the tape
    assert len(found) == 3  # and in reverse
    assert place in screen
    for origin in origins:
        assert origin in screen


def test_a_nan_that_the_data_brings_along_is_told_as_such(tmp_path: Path) -> None:
    screen = play(tmp_path, programs.BROUGHT_ALONG, "catch nan", "c", arguments=("--stop-at-entry",))
    screen = " ".join(screen.split())
    assert "rows[1, 1] is nan (1 of 4 elements) before anything was run" in screen
    assert "#1 matmul is the first to use it" in screen


def test_catch_inf_then_nan_in_a_loop(tmp_path: Path) -> None:
    screen = play(tmp_path, programs.OVERFLOW, "catch inf", "c", "p w")
    assert "becomes inf in #" in screen
    assert "[2] = 100" in screen


def test_catch_shape_and_exceptions_that_are_handled(tmp_path: Path) -> None:
    screen = play(tmp_path, programs.STRETCHED, "catch shape", "catch exception", "c", "c")
    assert "(4, 1)" in screen
    assert "stretch each other to (4, 4)" in screen
    assert "catch 2  exception\nValueError in #" in screen


def test_across_passes_while_the_program_runs_and_back(tmp_path: Path) -> None:
    screen = play(
        tmp_path, programs.LOOP, "break layers.1, number == 2", "tbreak loss", "watch layers.0.weight", "clear 1 2 3",
        "break forward layers.1", "c 3", "info passes", "rc", "rc", "clear", "break update", "c", "c",
        "clear", "catch sync", "c",
    )  # fmt: skip
    assert len(re.findall(r"^breakpoint 4  forward layers.1", screen, re.MULTILINE)) == 4
    assert "breakpoint 5  update" in screen
    assert "by mx.eval at train.py:32" in screen


def test_watching_a_parameter_stops_once_for_each_update(tmp_path: Path) -> None:
    screen = play(tmp_path, programs.LOOP, "watch layers.0.weight", *["c"] * 7)
    assert len(re.findall(r"layers.0.weight changed in (?:\d+)?#\d+ subtract", screen)) == 5
    assert "the program has ended meanwhile" in screen


def test_conditions_across_passes_stop_at_the_op_while_the_program_waits(tmp_path: Path) -> None:
    screen = play(tmp_path, programs.LOOP, "break loss, loss < 0.3", "c", "p number", "p loss", "s", "p loss")
    assert "breakpoint 1  loss, loss < 0.3" in screen


def test_lines_stop_once_for_each_time_they_run(tmp_path: Path) -> None:
    screen = play(tmp_path, programs.LOOP, "break forward train.py:13", *["c"] * 6)
    stopped = re.findall(r"^breakpoint 1 .*\nstep \d+ · forward ", screen, re.MULTILINE)
    assert len(stopped) == 2 + 3 + 1  # the program stands at the first already


def test_command_lists_from_a_pipe_and_from_a_file(tmp_path: Path) -> None:
    lines = ["break loss", "commands 1", "silent", "p out", "continue", "end", "c"]
    screen = play(tmp_path, programs.LOOP, *lines)
    assert len(re.findall(r"^out", screen, re.MULTILINE)) == 5
    script = tmp_path / "commands.nn"
    script.write_text("\n".join(lines) + "\n")
    file = tmp_path / "train.py"
    result = nnrepl_cli("--batch", "-x", str(script), str(file))
    assert len(re.findall(r"^out", result.stdout, re.MULTILINE)) == 5
    assert result.returncode == 0, result.stderr


def test_a_failing_line_ends_a_command_list(tmp_path: Path) -> None:
    screen = play(tmp_path, programs.LOOP, "break loss", "commands", "p nonsense", "continue", "end", "c", "p 1 + 1")
    assert screen.count("nothing here is called nonsense") == 1
    assert screen.rstrip().endswith("(nnrepl) q")


def test_breakpoints_survive_a_restart(tmp_path: Path) -> None:
    screen = play(
        tmp_path, programs.LOOP, "break loss", "catch nan", "c", "restart", "info b", "c", "disable 1", "restart", "c"
    )
    listed = screen[screen.index("(nnrepl) restart") :]
    assert "breakpoint 1  loss" in listed
    assert "catch 2  nan" in listed
    assert screen.count("\nbreakpoint 1  loss\n") == 2
    assert "The program has ended" in screen


def test_without_stops_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    session = net_session()
    monkeypatch.setattr(Search, "first", lambda *_: pytest.fail("it looked"))
    session.run("continue")
    session.run("reverse-continue")
    assert same_bits(mx.array(1.0), mx.array(1.0)).item()


ASKS = """\
import mlx.core as mx


def loss_fn(w):
    a = w * 2
    breakpoint()
    b = a + 1
    return b.sum()


for number in range(2):
    x = mx.ones((2,)) * number
    breakpoint()
    y = x - 1
    loss, grad = mx.value_and_grad(loss_fn)(y)
"""


def test_breakpoint_in_the_program_stops_under_nnrepl(tmp_path: Path) -> None:
    screen = play(
        tmp_path, ASKS, "c", "p number", "c", "c", "p number", "w = w * 1", "c", "c", arguments=("--stop-at-entry",)
    )
    stops = re.findall(r"^breakpoint\(\)\n(?:.*\n)*?▶ +(\d+) ", screen, re.MULTILINE)
    assert stops[:3] == ["14", "7", "14"]
    assert "(Pdb)" not in screen
    assert "The program has ended" in screen


TRAINS = """import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

net, opt = nn.Linear(2, 1), optim.Adam(0.1)
step = nn.value_and_grad(net, lambda net, x: (net(x) ** 2).mean())


def one(x):
    loss, grads = step(net, x)
    opt.update(net, grads)
    return loss


def fit(times):
    x = mx.ones((3, 2))
    for number in range(times):
        loss = one(x * number)
        mx.eval(loss, net.parameters(), opt.state)
        print("turn", number)


fit(3)
fit(2)
"""


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize(
    ("place", "came"),
    [("fit", "0 1 2 stop 0 1"), ("one", "0 stop 1 stop 2 stop 0 stop 1"), ("18", "0 stop 1 stop 2 stop 0 stop 1")],
)
def test_a_call_that_trains_is_entered_once_whatever_passes_begin_in_it(
    tmp_path: Path, native: str, place: str, came: str
) -> None:
    """Its forward pass, its backward pass and its update entered it again."""
    stops = came.count("stop")
    screen = play(
        tmp_path, TRAINS, f"config native {native}", f"break {place}", *("c",) * (stops + 1), *("rc",) * stops
    )
    ahead, _, back = screen.partition("(nnrepl) c\n")[2].partition("The program has ended")
    seen = re.findall(r"^(?:turn (\d)|breakpoint 1  .*)$", ahead, re.MULTILINE)
    assert [turn or "stop" for turn in seen] == came.split()
    assert len(re.findall("^breakpoint 1  ", back, re.MULTILINE)) == stops


@pytest.mark.parametrize("native", ["on", "off"])
def test_next_goes_over_a_line_that_calls_a_function_that_trains(tmp_path: Path, native: str) -> None:
    """It stopped at the forward pass, the backward pass and the update within; so did going back."""
    lines = ("break fit", f"config native {native}", "c", "clear", "n", "n", "rn", "rn")
    shown = [answer for answer in play(tmp_path, TRAINS, *lines).split("(nnrepl) ") if re.match("c\n|r?n\n", answer)]
    stood = [re.search(r"▶ (\d+) ", answer) for answer in shown]
    assert [at and at[1] for at in stood] == ["16", "18", "18", "18", "16"]


CLASS = (
    TRAINS[: TRAINS.index("def one(x)")]
    + """class Trainer:
    def __init__(self):
        self.rate, self.history = 0.5, []

    def one(self, x):
        loss, grads = step(net, x)
        opt.update(net, grads)
        return loss

    def fit(self):
        for number in range(4):
            loss = self.one(mx.ones((3, 2)) * number)
            self.history.append(loss.item())
            print("turn", number)


Trainer().fit()
"""
)
UPDATES = CLASS[: CLASS.index("        opt.update")].count("\n") + 1


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("place", [str(UPDATES), "Trainer.one", f"Trainer.one {UPDATES}"])
def test_python_stands_in_the_function_whose_line_was_named(tmp_path: Path, native: str, place: str) -> None:
    """The op comes from the optimizer, or from a layer, whose `self` is another."""
    asked = ("p self.rate, len(self.history)", "args", "up", "p number")
    lines = (f"config native {native}", f"break {place}, len(self.history) == 2", "c", *asked, "clear", "until step 4",
             f"goto {place}", "p len(self.history)", "s", "p len(self.history)")  # fmt: skip
    screen = play(tmp_path, CLASS, *lines)
    assert re.findall(r"^turn (\d)", screen.partition("p self.rate")[0], re.MULTILINE) == ["0", "1"]
    assert "self.rate = 0.5\nlen(self.history) = 2\n" in screen
    assert re.search(r"^\(nnrepl\) args\nself +Trainer +\nx +\(3, 2\) float32", screen, re.MULTILINE)
    assert "in Trainer.fit\n" in screen
    assert "number = 2\n" in screen
    assert screen.count("len(self.history) = 3\n") == 1  # `s` goes into the layer or the optimizer
