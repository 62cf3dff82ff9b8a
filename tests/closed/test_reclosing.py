"""Steps that have been opened are closed again, and opened again to the same numbers."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from nnrepl.session import reclosing
from tests.closed.programs import HEAD, PROGRAMS
from tests.closed.test_closed import BITS, QUIET, TOLD, _main, plainly, play

__all__ = ["_main"]


@pytest.mark.parametrize("name", ["adam", "iterators", "two", "by_hand"])
def test_steps_are_opened_closed_and_opened_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclosing, "_MOST", 2)
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS[name])
    printed, told = plainly(HEAD + TOLD + PROGRAMS[name])
    steps = 12 if len(told) == 12 else 10
    each = len(told) // steps
    order = random.Random(name).choices(range(2, steps), k=9)
    lines = [line for step in order for line in (f"goto step {step}", "until backward", f"p {BITS}")]
    shown = play(tmp_path / "train.py", "continue", *lines, "info steps all")
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[(step - 1) * each] for step in order]
    ops = [int(ops) for ops in re.findall(r"^(?:▶|  )\s+\d+ +(\d+) +\d +\w+", shown, re.MULTILINE)]
    assert sum(count > 8 for count in ops) <= 4, shown  # the first, and those that are kept
    assert re.sub(r"^(native on|opening .*)\n", "", shown, flags=re.MULTILINE).startswith(printed)


def test_a_step_that_was_changed_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclosing, "_MOST", 1)
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS["adam"])
    lines = ("continue", "goto step 3", "step 3", "z = z * 2", "continue", "goto step 6", "goto step 8", "goto step 10",
             "goto step 3 tanh", "p z.sum().item()", "timelines")  # fmt: skip
    shown = play(tmp_path / "train.py", *lines)
    assert "cannot" not in shown
    assert re.search(r"z = z \* 2", shown), shown


def test_a_run_before_is_let_go(tmp_path: Path) -> None:
    """What ended it brings its frames along, and with them its recorder."""
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS["by_hand"])
    count = "p sum(type(one).__name__ == 'Recorder' for one in __import__('gc').get_objects())"
    again = [f"goto step {step}" for step in (3, 9, 5, 7, 4, 8)]
    shown = play(
        tmp_path / "train.py", "continue", *again, "__import__('gc').unfreeze()", "__import__('gc').collect()", count
    )
    assert int(shown.split()[-1]) <= 3, shown
