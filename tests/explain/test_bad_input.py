"""What is empty, NaN all over, or was never finished: a true answer, and no clean bill for what was not looked at."""

from __future__ import annotations

import mlx.core as mx
import pytest
from rich.console import Console

import nnrepl
from nnrepl.explain.check import check_pass
from nnrepl.explain.why import why
from nnrepl.session.session import Session
from nnrepl.view.check import check_view
from nnrepl.view.theme import DARK
from tests.support import OpenSession


def shown(session: OpenSession) -> str:
    part = session.tape.passes[-1]
    console = Console(width=200, color_system=None)
    console.push_theme(DARK)
    with console.capture() as capture:
        console.print(check_view(check_pass(session, part, list(part.wrt))))
    return capture.get()


def test_nothing_is_said_of_an_empty_gradient_but_that_it_is_empty() -> None:
    session = OpenSession(nnrepl.trace(lambda w: (w * 2).sum(), mx.zeros((0, 3)), wrt=0))
    for question in ("grad(w)", "w", "grad(w) == 0", "grad(w) is tiny", "w is nan"):
        assert "is empty" in why(session, question).headline
    assert "No gradient is 0" in why(session, "").headline
    assert "nothing to check: w is empty" in shown(session)
    assert "✓" not in shown(session)


@pytest.mark.parametrize("bad", [True, False])
def test_where_all_is_nan_nothing_is_compared_and_nothing_agrees(bad: bool) -> None:
    w = mx.full((2, 2), mx.nan) if bad else mx.array([[0.1, 0.2], [0.3, 0.4]])
    session = OpenSession(nnrepl.trace(lambda w: mx.tanh(w @ w).sum(), w, wrt=0))
    assert ("nothing to compare" in shown(session)) == bad
    assert ("✓" in shown(session)) != bad
    answer = why(session, "")
    assert ("No gradient is 0" in answer.headline) != bad
    assert ("came in as NaN" in answer.headline) == bad


@pytest.mark.parametrize("fails", [True, False])
def test_a_pass_that_the_program_itself_ended_is_told(fails: bool) -> None:
    def loss(w: mx.array) -> mx.array:
        h = (w @ w).sum()
        if fails:
            raise ValueError("no more")
        return h

    with nnrepl.recording() as recorded:
        try:
            mx.value_and_grad(loss)(mx.ones((2, 2)))
        except ValueError:
            pass
    session = Session(recorded.tape, recorded.names)
    answer = why(session, "")
    assert ("ended with ValueError (test_bad_input.py:" in answer.headline) == fails
    if fails:
        assert answer.headline == why(session, "error").headline
        assert "no more" in answer.headline
        assert " sum" in answer.reasons[0]
