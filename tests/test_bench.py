"""The benchmark says what became slower: of one machine against another, and not of noise."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.asking import QUESTIONS, session_of
from tests.bench.figures import YARDSTICK, Figure, compare, figure, law, load, row, save
from tests.bench.scripts import LONG, ON_A_GPU, WORKLOADS


def lines(before: list[Figure], now: list[Figure]) -> str:
    """What the comparison says, without its first line."""
    return "\n".join(compare(before, now)[1:])


def test_what_became_slower_is_said() -> None:
    before = [figure("step", [10.0, 10.1, 10.2, 10.3], "ms"), figure("memory", [5.0], "MB")]
    now = [figure("step", [20.0, 20.1, 20.2, 20.3], "ms"), figure("memory", [8.0], "MB")]
    said = lines(before, now)
    assert "SLOWER  step" in said
    assert "LARGER  memory" in said
    assert "better  step" in lines(now, before)
    assert lines(now, now) == "nothing became slower or larger"


def test_spread_that_overlaps_is_no_change() -> None:
    before = [figure("step", [10.0, 11.0, 15.0, 16.0], "ms")]
    now = [figure("step", [12.0, 13.0, 17.0, 20.0], "ms")]
    assert lines(before, now) == "nothing became slower or larger"


def test_a_slower_machine_is_not_a_slower_program() -> None:
    before = [figure("step", [10.0], "ms"), figure("ratio", [2.0], "x"), figure(YARDSTICK, [1.0], "µs")]
    now = [figure("step", [20.0], "ms"), figure("ratio", [4.0], "x"), figure(YARDSTICK, [2.0], "µs")]
    said = lines(before, now)
    assert "step" not in said
    assert "SLOWER  ratio" in said


def test_figures_that_come_and_go_are_named() -> None:
    assert "new: b" in lines([figure("a", [1.0], "ms")], [figure("b", [1.0], "ms")])
    assert "not measured: a" in lines([figure("a", [1.0], "ms")], [figure("b", [1.0], "ms")])
    many = [figure(f"f{k:02}", [1.0], "ms") for k in range(12)]
    assert "not measured: 12 figures, f00 ..." in lines(many, [figure("b", [1.0], "ms")])


def test_budgets_and_laws() -> None:
    assert figure("step", [1.0], "x", 1.05).verdict == "met"
    assert "NOT met" in row(figure("step", [1.2], "x", 1.05))
    assert law("why", [10, 1000], [1.0, 100.0]).value == 1.0
    assert law("why", [10, 1000], [1.0, 1.0]).value == 0.0


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = [figure("step", [1.0, 2.0, 3.0], "ms", 2.0, "a note")]
    save(tmp_path / "f.json", found, {"version": "x"})
    assert load(tmp_path / "f.json") == ({"version": "x"}, found)


def test_the_scripts_are_python() -> None:
    for workload in (*WORKLOADS, *ON_A_GPU, LONG):
        ast.parse(workload.source())


CALLS = {"health": 240, "catch nan": 88, "verify": 112, "diff": 128}
"""Calls of functions that a question over a whole pass may take for each op more. They are counted alike on every
machine, and what is asked of one op at a time shows in them at once."""


@pytest.mark.parametrize("name", CALLS)
def test_a_question_over_a_whole_pass_asks_of_many_ops_at_once(name: str) -> None:
    before, ask = QUESTIONS[name]
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def asked(length: int) -> tuple[int, int]:
        nonlocal calls
        session = session_of(length)
        before(session)
        calls = 0
        sys.setprofile(count)
        try:
            ask(session)
        finally:
            sys.setprofile(None)
        return calls, len(session.tape)

    asked(34)  # what is only met the first time
    (few, short), (many, long) = asked(100), asked(400)
    assert (many - few) / (long - short) < CALLS[name]
