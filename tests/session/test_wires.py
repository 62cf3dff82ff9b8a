"""Wires: what a condition, a line or a function waits for in a program that runs natively, and what is known of it."""

from __future__ import annotations

import sys
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest

from nnrepl.session.call_ends import _at
from nnrepl.session.entered import InFunction, SourceLine
from nnrepl.session.parsed import parse
from nnrepl.session.wires import EntryWire, LineWire, Trips, TruthWire, asks_variables_only, variable
from nnrepl.tape import UNBOUND

scale = 7


def frame_of(i: Any, name: str = "late") -> FrameType:
    unset: int
    if i is None:
        unset = 1
    here = sys._getframe()
    assert lambda: (i, name, unset)
    return here


@pytest.mark.parametrize(
    ("condition", "only"),
    [
        ("i == 3", True), ("-i < 3 and not (k or j * 2 > 1)", True), ("i in (1, 2) if k else i in [3]", True),
        ("3 > 2", False), ("#12 > i", False), ("∂L/∂z1 > i", False), ("f(i)", False), ("i.real > 1", False),
        ("i[0] > 1", False), ("(k := i) > 1", False), ("[k for k in i]", False), ("grad(i) > 0", False),
    ],
)  # fmt: skip
def test_a_condition_on_variables_alone_is_told_when_one_is_set(condition: str, only: bool) -> None:
    assert asks_variables_only(parse(condition)) is only


@pytest.mark.parametrize(
    ("condition", "i", "trips"),
    [
        ("i == 3", 3, True), ("i == 3", 4, False), ("i < 'a'", 3, True), ("i == scale", 7, True), ("i > 3", [1], True),
        ("i is None", None, True), ("i == missing", 3, False), ("name == 'late'", 3, True), ("i == unset", 1, False),
        ("i == 2.5", 2.5, True), ("len == 3", 3, False),
    ],
)  # fmt: skip
def test_a_condition_is_asked_of_what_the_variables_hold(condition: str, i: Any, trips: bool) -> None:
    """What is set and no number may become another between two lines; what raises is said where it is asked."""
    assert TruthWire(parse(condition)).trips(frame_of(i), 1) is trips


def test_a_variable_is_that_of_the_innermost_call_of_the_programs_own() -> None:
    held: list[Any] = []

    def innermost() -> None:
        held.extend(variable(sys._getframe(), name) for name in ("step", "scale", "hidden", "none_such"))

    library = compile("def call(inner):\n    hidden = 1; inner()", "/lib/site-packages/mlx/x.py", "exec")
    space: dict[str, Any] = {"scale": "the library's"}
    exec(library, space)

    def outer(step: int) -> None:
        space["call"](innermost)

    outer(5)
    assert held == [5, 7, UNBOUND, UNBOUND]
    space["seen"] = lambda: held.append(variable(sys._getframe(1), "hidden"))
    exec(compile("def own():\n    hidden = 2; seen()", "/lib/site-packages/mlx/x.py", "exec"), space)
    space["own"]()
    assert held[-1] == 2  # of the frame that is asked itself, whosever it is


SOURCE = """
def first(x):
    y = (x *
         2)
    return y

def second(x):
    z = x
    def inner(): return z + 1
    return inner

for i in range(3):
    first(i)
"""


def code_of(name: str, file: str = "/here/train.py") -> CodeType:
    whole = compile(SOURCE, file, "exec")
    return next((part for part in whole.co_consts if isinstance(part, CodeType) and part.co_name == name), whole)


def test_at_which_lines_it_is_worth_a_look() -> None:
    def lines(wire: Any, name: str, file: str = "/here/train.py") -> list[int]:
        return sorted(wire.lines(code_of(name, file)))

    within = LineWire(SourceLine("train.py:4", "train.py", 4))
    assert lines(within, "first") == [3, 4]  # the statement begins above
    assert lines(within, "first", "/here/other.py") == lines(within, "second") == []
    assert lines(LineWire(SourceLine("train.py:8", "train.py", 8)), "second") == [8]  # no op is made there
    assert {within.key, LineWire(SourceLine("train.py:8", "train.py", 8)).key} == {"train.py:4", "train.py:8"}
    function = EntryWire(InFunction("first", "first"))
    assert (lines(function, "first"), lines(function, "second"), function.key) == ([0], [], "first")
    assert lines(TruthWire(parse("z > 1")), "second") == lines(TruthWire(parse("w > z")), "second") != []
    assert lines(TruthWire(parse("y > 1")), "second") == []
    assert {2, 12, 13} <= {*lines(TruthWire(parse("i > 1")), "<module>")}


def tape_of(*steps: tuple[int, int]) -> Any:
    """A tape that has steps from one position to another, as far as wires look at it."""
    return SimpleNamespace(steps=[SimpleNamespace(start=start, end=end) for start, end in steps])


def known(tape: Any, trips: Trips, key: str = "k") -> list[bool]:
    return [trips.may(key, tape, number) for number in range(1, len(tape.steps) + 1)]


def test_a_step_may_be_the_one_where_the_wire_was_tripped_or_where_that_is_not_known() -> None:
    tape = tape_of((0, 10), (10, 20), (20, 30), (30, 40))
    trips = Trips()
    assert known(tape, trips) == [True] * 4
    trips.begin(["k", "other"], 10)
    assert known(tape, trips) == [True, False, False, False]
    trips.note("k", 20)
    trips.note("k", 20)
    assert known(tape, trips) == [True, False, True, False]
    trips.end(["k", "nobody's"], 30)
    assert known(tape, trips) == [True, False, True, True]
    trips.begin(["k"], 30)
    assert known(tape, trips) == [True, False, True, False]  # it goes on without a gap
    trips.end(["k"], 40)
    assert known(tape, trips) == [True, False, True, False]  # up to the end of the last step
    trips.end(["k"], 32)
    trips.begin(["k"], 35)
    assert known(tape, trips) == [True] * 4
    assert known(tape, trips, "other") == [True, False, False, False]


def test_what_is_tripped_between_two_calls_counts_for_the_step_after_too() -> None:
    tape, trips = tape_of((0, 10), (10, 20), (20, 30), (30, 40)), Trips()
    trips.begin(["k"], 0)
    trips.note("k", 12, between=True)
    assert known(tape, trips) == [False, True, True, False]


def test_the_first_step_is_that_before_which_there_is_none() -> None:
    tape, trips = tape_of((5, 10), (10, 20)), Trips()
    trips.begin(["early", "true", "false"], 0)
    trips.note("early", 0, between=True)
    assert known(tape, trips, "early") == [True, False]
    for key, truth in (("true", True), ("false", False)):
        trips.say(key, 4, truth)
        assert known(tape, trips, key) == [truth, truth]
    trips.say("false", 9, True)  # at the last op of the step before: what is asked there is asked before the next
    trips.say("false", 10, False)
    assert known(tape, trips, "false") == [True, True]


def test_what_has_become_true_holds_until_it_becomes_false() -> None:
    tape, trips = tape_of((0, 10), (10, 20), (20, 30), (30, 40), (40, 50)), Trips()
    trips.begin(["k"], 0)
    for position, truth in ((0, False), (12, True), (15, True), (28, False), (29, False), (50, True)):
        trips.say("k", position, truth)
    assert known(tape, trips) == [False, True, True, False, False]


def test_what_was_known_on_a_tape_is_known_where_its_steps_have_moved_to() -> None:
    old, moved = Trips(), {0: 0, 10: 10, 20: 25, 25: 27, 30: 40}
    for key in ("k", "said", "mine"):
        old.begin([key], 10)
    old.note("k", 20)
    old.note("k", 25, between=True)
    old.say("said", 10, False)
    old.say("said", 20, True)
    trips = Trips()
    trips.begin(["mine"], 0)
    trips.carry(old, 30, moved.__getitem__)
    tape = tape_of((0, 10), (10, 25), (25, 27), (27, 40), (40, 50))
    assert known(tape, trips) == [True, False, True, True, True]
    assert known(tape, trips, "said") == [True, False, True, True, True]
    assert known(tape, trips, "mine") == [False] * 5

    late = Trips()
    late.begin(["k"], 20)
    late.move(lambda at: at + 5)
    assert known(tape_of((22, 25), (25, 30)), late) == [True, False]
    late.end(["k"], 30)
    late.move(lambda at: at + 5)
    assert known(tape_of((30, 35), (30, 36)), late) == [False, True]
    trips.move(lambda at: at + 100 if at >= 25 else at)
    assert known(tape_of((0, 10), (10, 25), (125, 127), (127, 140), (140, 150)), trips) == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert known(tape_of((0, 10), (10, 25), (125, 127)), trips, "said") == [True, False, True]
    assert not trips.may("said", tape_of((0, 10), (10, 125)), 2)
    assert known(tape_of((0, 1000)), trips, "mine") == [False]  # what is known to the end stays so


def test_an_attribute_is_read_without_asking_the_programs_code() -> None:
    class Asked:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    thing, inner = Asked(), SimpleNamespace(rate=2)
    vars(thing)["inner"] = inner
    assert _at(thing, "thing.inner.rate") == 2
    assert _at(thing, "thing") is thing
    assert _at(thing, "thing.other.rate") is UNBOUND
    assert _at({"rate": 2}, "thing.rate") is UNBOUND
