"""The state of a session: what may follow what, and what reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nnrepl.session.goals import At, Never
from nnrepl.session.hooks import Stop
from nnrepl.session.state import Course, Going, Over, Replaying, Waiting


def test_a_run_a_stop_a_run_along_the_tape_and_the_end() -> None:
    course = Course()
    assert isinstance(course.now, Over)
    course.begin(At(0))
    course.rest(Stop("first op", 0))
    assert course.now == Waiting(Stop("first op", 0))
    wanted = At(9)
    course.follow(At(3), wanted)
    assert course.caught_up()
    assert isinstance(course.now, Going)
    assert course.now.goal is wanted
    assert course.end(5) is wanted
    course.rest(Stop("end of program", 5))
    assert course.now == Over(Stop("end of program", 5))


def test_without_a_wish_the_program_waits_where_it_has_caught_up() -> None:
    course = Course()
    course.follow(At(3), None)
    assert not course.caught_up()
    course.rest(Stop("", 3))
    assert isinstance(course.now, Waiting)


def test_a_wish_on_the_way_along_the_tape_is_kept_for_afterwards() -> None:
    course = Course()
    course.follow(At(3), None)
    first, second = At(5), Never()
    course.give(first)
    course.give(second)
    assert isinstance(course.now, Replaying)
    assert course.now.then is first


def test_interrupting_what_runs_holds_over_what_has_been_done_again_and_ends_with_the_stop() -> None:
    course = Course()
    assert not course.interrupt()  # nothing runs: Ctrl-C is the prompt's
    course.follow(At(3), Never())
    assert course.interrupt()
    course.caught_up()
    assert isinstance(course.now, Going)
    assert course.now.interrupted
    assert not course.interrupt()  # the second one is the program's own
    course.rest(Stop("interrupted", 1))
    course.give(Never())
    assert not course.now.interrupted


def test_a_new_run_forgets_how_the_last_one_ended_and_a_cell_does_not() -> None:
    course = Course()
    course.begin(Never())
    course.error = ValueError()
    course.end(1)
    course.give(Never())
    course.end(2)
    assert course.error is not None
    course.begin(Never())
    assert course.error is None


@pytest.mark.parametrize(
    "move",
    [
        lambda course: course.begin(Never()),
        lambda course: course.follow(Never(), None),
        lambda course: course.end(0),
        lambda course: course.redirect(Never()),
    ],
)
def test_what_cannot_follow_is_refused(move: Callable[[Course], object]) -> None:
    course = Course()
    course.follow(At(3), None)
    with pytest.raises(AssertionError):
        move(course)
