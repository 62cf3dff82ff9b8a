"""Places that the program has still to come to: it runs on to them, and a typing error moves nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.session.test_places import CALL, LINE, PROGRAM, STEP
from tests.session.test_stops_running import play
from tests.support import plain_python

PRINTING = PROGRAM + '    print("turn", number)\n\n\ndef later(x):\n    return x * 3\n\n\nlast = later(mx.ones((2,)))\n'
AFTER = len(PRINTING.splitlines())


def turns(screen: str) -> int:
    """How many turns of its loop the program has made."""
    return len(re.findall(r"^turn \d+$", screen, re.MULTILINE))


@pytest.mark.parametrize(
    ("line", "made", "where"),
    [
        (f"goto train.py:{CALL}", 0, rf"▶ {LINE['        scores = self.inner(x)']} "),
        (f"goto {STEP}", 0, rf"train.py:{STEP} · 1 of 1 in this step\nsetup 7 of 8"),
        ("goto step 3", 2, r"step 3 · forward 1 "),
        ("until step 2 layers.1 softmax", 1, r"step 2 layers\.1 softmax · 1 of 2"),
        ("goto 3#2", 2, r"step 3 · forward 2 "),
        ("until later", 3, r"later · 1 of 1"),
        ("goto later", 3, r"▶ \d+ +return x \* 3"),
        (f"goto {AFTER - 3}", 3, r"▶ \d+ +return x \* 3"),
        ("goto last", 3, r"last · 1 of 1"),
        ("until number == 2", 2, r"step 3 · forward 1 "),
        ("until update", 0, r"step 1 · update 1"),
        ("until step 2 update", 1, r"step 2 · update 1"),
        ("until loss < 100 if number == 1", 0, r"is missing|does not parse|no op"),
    ],
)
def test_it_runs_on_to_a_place_and_no_further(tmp_path: Path, line: str, made: int, where: str) -> None:
    screen = play(tmp_path, PRINTING, line)
    assert turns(screen) == made
    assert re.search(where, screen.partition("(nnrepl) ")[2]), screen


@pytest.mark.parametrize("command", ["goto", "until", "break", "tbreak"])
def test_a_typing_error_moves_nothing(tmp_path: Path, command: str) -> None:
    wrong = ["lator", "layers.2", "train.py:1", "train.py:999", "tain.py:5", "train.py:lator", "grad(nope)", "nope < 3",
             "step 2 layers.9", "softmx", "number ==", "layers.1.nope", "#0", "step 0"]  # fmt: skip
    screen = play(tmp_path, PRINTING, *(f"{command} {place}" for place in wrong), "where", "c")
    before, _, after = screen.partition("(nnrepl) where")
    assert turns(before) == 0
    answers = before.split("(nnrepl) ")[2:]
    assert len(answers) == len(wrong) - 1 or all(answers)
    assert all("Traceback" not in answer for answer in answers)
    assert "breakpoint 1" not in before
    assert turns(after) == 3


def test_after_the_end_another_timeline_runs_on_as_before_it(tmp_path: Path) -> None:
    """The numbers are those of plain runs: one as it is, one with the learning rate changed in the third turn."""
    printing = PROGRAM.replace("    mx.eval(net.parameters())\n", "    print('loss', loss.item())\n")
    printing = printing.replace("range(3)", "range(6)")
    twin = printing.replace("    opt.update", "    opt.learning_rate = 0.1 if number < 2 else 2.0\n    opt.update")
    plain, changed = (losses(plain_python("-c", source).stdout) for source in (printing, twin))
    screen = play(
        tmp_path, printing, "until step 3", "opt.learning_rate = 2.0", "c", "timelines", "diff 1 2", "timeline 1", "c",
        "diff 1 2", "timelines", "restart", "p number",
    )  # fmt: skip
    first, _, second = screen.partition(") timeline 1\n")
    assert losses(first) == changed
    assert losses(second) == plain[2:]
    assert "what is still to come takes it as it is now" in " ".join(first.split())
    assert re.search(r"1  as it is .* to step 3 · ", first)
    assert not re.search(r"[4-6] are closed: of them losses", first), "timeline 1 has not got that far"
    assert re.search(r"no value differs: \d+ ops compared", first)
    assert "timeline 1, then until step 6, runs it on" in " ".join(first.split())
    assert "first difference: " in second
    assert "until step 6" not in second
    assert "restart would leave 2 timelines behind" in second


SILENT = PRINTING.replace("    mx.eval(net.parameters())\n", "    opt.update(net, grads)\n    seen = str(loss.shape)\n")


@pytest.mark.parametrize(
    ("lines", "made", "where"),
    [
        (["goto {seen}"], 1, r"{seen} makes no op; this is the next one\n+step 2 · forward 1 "),
        (["until {turn}"], 1, r"{turn} makes no op; this is the next one\n+step 2 · forward 1 "),
        (
            ["break {turn}", "c", "c"],
            2,
            r"breakpoint 1  .* · hit 2 times\n.*{turn} makes no op.*\n+step 3 · forward 1 ",
        ),
        (["tbreak {turn}", "c", "c"], 3, r"The program has ended"),
        (["break {turn}", "c", "c", "rc"], 2, r"hit 3 times\n.*\n+step 2 · forward 1 "),
        (["break {turn}, number == 2", "c"], 2, r"this is the next one, where number == 2 is asked\n+step 3 · "),
        (["goto {last}"], 3, r"{last} makes no op; none came after it"),
        (["c", "goto {turn}"], 3, r"no op has come from {turn}; the nearest that made some: train.py:\d+"),
    ],
)
def test_a_line_that_makes_no_op_stops_at_the_next_one(tmp_path: Path, lines: list[str], made: int, where: str) -> None:
    program = SILENT + 'print("over", last.shape)\n'
    numbered = {text.strip(): f"train.py:{number}" for number, text in enumerate(program.splitlines(), 1)}
    at = {
        "seen": numbered["seen = str(loss.shape)"],
        "turn": numbered['print("turn", number)'],
        "last": numbered['print("over", last.shape)'],
    }
    screen = play(tmp_path, program, *(line.format(**at) for line in lines))
    assert turns(screen) == made
    assert re.search(where.format(**at), screen.partition("(nnrepl) ")[2]), screen


RARE = PRINTING.replace("    mx.eval(net.parameters())\n", "    if number != 1:\n        far = mx.exp(loss)\n")


@pytest.mark.parametrize(
    ("lines", "made", "where"),
    [
        (["until step 2", "goto update"], 1, r"step 2 · update 1"),  # this step's, which comes next
        (["until step 2", "goto exp"], 2, r"exp was not in step 2; this is the last one before\nstep 1 · "),
        (["until step 3", "goto exp"], 2, r"exp · 1 of 1 in this step\nstep 1 · "),  # the step before had none
        (["until step 2", "goto start", "goto update"], 1, r"step 1 · update 1"),
        (["until step 3", "until step 3 update", "goto softmax"], 2, r"step 3 · forward "),  # this step's is there
        (["until step 2", "goto step 1"], 1, r"step 1 · forward "),
    ],
)
def test_goto_looks_to_the_end_of_this_step_for_what_the_step_before_had(
    tmp_path: Path, lines: list[str], made: int, where: str
) -> None:
    screen = play(tmp_path, RARE, *lines)
    assert turns(screen) == made
    assert re.search(where, screen.rpartition("(nnrepl) goto")[2]), screen


def losses(screen: str) -> list[str]:
    """The losses that a program has printed."""
    return re.findall(r"^loss (\S+)$", screen, re.MULTILINE)
