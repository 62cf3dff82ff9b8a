"""What is empty, NaN all over, or was never finished: a true answer, and no clean bill for what was not looked at."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest
from rich.console import Console

import nnrepl
from nnrepl.explain.check import check_pass
from nnrepl.explain.loss import verdict, why_loss
from nnrepl.explain.why import why
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.view.finite_differences import check_view
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
    assert "w is empty" in why(session, "").headline
    assert "nothing to check: w is empty" in shown(session)
    assert "✓" not in shown(session)


@pytest.mark.parametrize("bad", [True, False])
def test_where_all_is_nan_nothing_is_compared_and_nothing_agrees(bad: bool) -> None:
    w = mx.full((2, 2), mx.nan) if bad else mx.array([[0.1, 0.2], [0.3, 0.4]])
    session = OpenSession(nnrepl.trace(lambda w: mx.tanh(w @ w).sum(), w, wrt=0))
    assert ("nothing to compare" in shown(session)) == bad
    assert ("✓" in shown(session)) != bad
    answer = why(session, "")
    assert ("none is 0 that" in answer.headline) != bad
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
    session = TapeSession(recorded.tape, recorded.names)
    answer = why(session, "")
    assert ("ended with ValueError (test_bad_input.py:" in answer.headline) == fails
    if fails:
        assert answer.headline == why(session, "error").headline
        assert "no more" in answer.headline
        assert " sum" in answer.reasons[0]


@pytest.mark.parametrize("grows", [True, False])
def test_a_loss_that_is_no_number_is_not_shared_out(grows: bool) -> None:
    """An infinite weight takes part, so nothing can be said of the slope; a finite one is predicted by it."""
    w = mx.array([mx.inf if grows else 1.0])
    with nnrepl.recording() as recorded:
        for _ in range(2):
            _, gradient = mx.value_and_grad(lambda w: (w * w).sum())(w)
            w = w - 0.01 * gradient
    answer = why_loss(OpenSession(recorded))
    told = " ".join([answer.headline, *answer.reasons])
    assert ("cannot be shared out" in told) == grows
    assert ("why nan" in told) == grows
    assert ("The weights account for" in told) != grows
    assert ("curved" in told, "predicts it well" in told) == (False, not grows)


@pytest.mark.parametrize(("predicted", "real"), [(math.nan, 1.0), (math.inf, 1.0), (math.inf, math.inf), (0.1, 5.0)])
def test_a_slope_that_is_not_finite_predicts_nothing(predicted: float, real: float) -> None:
    assert ("says nothing" in verdict(predicted, real)) != math.isfinite(predicted)


def test_a_pass_without_gradients_is_not_checked_in_silence() -> None:
    def loss(w: mx.array) -> mx.array:
        return (w @ mx.ones((3, 3))).sum()

    with nnrepl.recording() as recorded, pytest.raises(ValueError, match="matmul"):
        mx.value_and_grad(loss)(mx.ones((2, 2)))
    part = recorded.tape.passes[-1]
    with pytest.raises(UserError, match="step 1 ended with ValueError before it had a gradient"):
        check_pass(TapeSession(recorded.tape, recorded.names), part, [])
    session = OpenSession(nnrepl.trace(lambda w: mx.stop_gradient(w).sum(), mx.ones((2,)), wrt=0))
    with pytest.raises(UserError, match="no gradient flows to a parameter in step 1"):
        check_pass(session, session.tape.passes[-1], [])


@pytest.mark.parametrize("text", ["h[1]", "grad(h)[1]"])
def test_an_element_is_told_how_it_is_asked_about(text: str) -> None:
    def loss(x: mx.array) -> mx.array:
        h = x * 2
        return h.sum()

    session = OpenSession(nnrepl.trace(loss, mx.array([1.0, 2.0]), wrt=0))
    session.goto("end")
    name = text.removesuffix("[1]")
    with pytest.raises(UserError) as refused:
        session.run(f"why {text}")
    assert str(refused.value).endswith(f"asked about as a whole: explain {name} at [1]")
    session.run(f"explain {name} at [1]")
