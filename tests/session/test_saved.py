"""Breakpoints in a file: what is written comes back, and a broken file is said and changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from nnrepl.session.saved_stops import Keeper, dumped, load
from nnrepl.session.stops import Breakpoint, Catch, Stops, Watch
from tests.support import ROOT


def some() -> Stops:
    stops = Stops()
    first = stops.add(Breakpoint("matmul", condition='z1.max() > 10 and name != "x"'))
    first.commands = ["silent", "p z1", "continue"]
    stops.add(Breakpoint("train.py:31", temporary=True)).enabled = False
    stops.add(Watch("grad(w).max()")).ignore = 3
    stops.add(Catch("nan"))
    return stops


def test_what_is_written_comes_back() -> None:
    fresh = Stops()
    assert load(fresh, dumped(some())) == 4
    assert dumped(fresh) == dumped(some())


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[{"kind": "breakpoint"}]', '[{"kind": "catch", "text": "flies"}]', "\x00"]
)
def test_a_broken_file_is_said_and_changes_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stops.json"
    path.write_text(text)
    stops = Stops()
    assert "no breakpoints were restored" in Keeper(stops, path).restore()
    assert len(stops) == 0


def test_a_place_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    stops = Stops()
    keeper = Keeper(stops, tmp_path / "file" / "stops.json")
    assert keeper.save() == ""
    stops.add(Catch("nan"))
    assert "are not kept for next time" in keeper.save()
    assert keeper.save() == ""


def test_in_a_terminal_they_are_there_again_next_time(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "TERM": "xterm",
    }

    def session() -> pexpect.spawn:
        arguments = ["-m", "nnrepl", "examples/simple_nn.py"]
        child = pexpect.spawn(
            sys.executable, arguments, env=env, cwd=str(ROOT), encoding="utf-8", dimensions=(40, 100), timeout=120
        )
        child.expect("nnrepl\\)")
        return child

    first = session()
    first.send("break matmul\r")
    first.expect("ops? in this step")
    first.send("q\r")
    first.expect(pexpect.EOF)
    second = session()
    assert "1 breakpoint, watch or catch from last time" in str(second.before)
    second.send("c\r")
    second.expect("breakpoint 1")
    second.send("clear\r")
    second.expect("Deleted")
    second.send("q\r")
    second.expect(pexpect.EOF)
    third = session()
    assert "from last time" not in str(third.before)
    third.close(force=True)
