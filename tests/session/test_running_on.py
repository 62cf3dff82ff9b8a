"""Places that the program has still to come to: it runs on to them, and a typing error moves nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.session.test_places import CALL, LINE, PROGRAM, STEP
from tests.session.test_stops_running import play

PRINTING = PROGRAM + '    print("turn", number)\n\n\ndef later(x):\n    return x * 3\n\n\nlast = later(mx.ones((2,)))\n'
AFTER = len(PRINTING.splitlines())


def turns(screen: str) -> int:
    """How many turns of its loop the program has made."""
    return len(re.findall(r"^turn \d+$", screen, re.MULTILINE))


@pytest.mark.parametrize(
    ("line", "made", "where"),
    [
        (f"goto train.py:{CALL}", 0, rf"▶ {LINE['        scores = self.inner(x)']} "),
        (f"goto {STEP}", 0, rf"train.py:{STEP} · 1 of 2 in this step"),
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
