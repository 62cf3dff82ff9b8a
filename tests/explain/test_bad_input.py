"""What is empty, NaN all over, or was never finished: a true answer, and no clean bill for what was not looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import pytest
from rich.console import Console

import nnrepl
from nnrepl.explain.check import check_pass
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.loss import verdict, why_loss
from nnrepl.explain.why import why
from nnrepl.record import batches
from nnrepl.session.births import first_bad
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import claims
from nnrepl.view.finite_differences import check_view
from nnrepl.view.theme import DARK
from tests.support import OpenSession


def shown(session: OpenSession) -> str:
    pass_ = session.tape.passes[-1]
    console = Console(width=200, color_system=None)
    console.push_theme(DARK)
    with console.capture() as capture:
        console.print(check_view(check_pass(session, pass_, list(pass_.wrt))))
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
    assert ("none is 0" in answer.headline) != bad
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
    (said,) = claims.say_first(verdict(predicted, real, 1e-6))
    assert ("says nothing:" in said) != math.isfinite(predicted)


def test_a_pass_without_gradients_is_not_checked_in_silence() -> None:
    def loss(w: mx.array) -> mx.array:
        return (w @ mx.ones((3, 3))).sum()

    with nnrepl.recording() as recorded, pytest.raises(ValueError, match="matmul"):
        mx.value_and_grad(loss)(mx.ones((2, 2)))
    pass_ = recorded.tape.passes[-1]
    with pytest.raises(UserError, match="step 1 ended with ValueError before it had a gradient"):
        check_pass(TapeSession(recorded.tape, recorded.names), pass_, [])
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


@pytest.mark.parametrize("bad", [mx.nan, mx.inf, 0.5])
def test_of_numbers_that_are_none_nothing_is_said_about_their_size(bad: float) -> None:
    session = OpenSession(nnrepl.trace(lambda w: mx.square(w).sum(), mx.array([bad, 0.25]), wrt=0))
    for question in ("grad(w) == 0", "grad(w) is tiny", "grad(w)"):
        answer = why(session, question)
        text = " ".join([answer.headline, *answer.reasons, *answer.also])
        assert ("norm" in text) == (bad == 0.5), text
        assert ("came in as" in text) == (bad != 0.5), text


@pytest.mark.parametrize("complex_", [True, False])
def test_a_complex_leaf_is_not_held_against_differences(complex_: bool) -> None:
    c = mx.array([1 + 2j, 0.5 - 1j]) if complex_ else mx.array([1.0, 0.5])
    session = OpenSession(nnrepl.trace(lambda c: mx.abs(c * c).sum(), c, wrt=0))
    assert ("c is complex" in shown(session)) == complex_
    assert ("✓" in shown(session)) != complex_


def test_a_gradient_that_is_a_sum_is_checked_by_its_parts() -> None:
    def loss(w: mx.array) -> mx.array:
        h = w * 2
        return (mx.sin(h) + mx.cos(h)).sum()

    session = OpenSession(nnrepl.trace(loss, mx.array([1.0, 2.0]), wrt=0))
    session.run("goto end")
    with pytest.raises(UserError, match="adds gradients up; check what it adds: #8, #9"):
        session.run("check grad(h)")
    assert "✓" in str(session.run("check #8"))


def test_why_alone_says_what_there_was_to_look_at() -> None:
    def said(fn: Callable[..., mx.array], wrt: int | None) -> str:
        return why(OpenSession(nnrepl.trace(fn, mx.ones((2, 2)), wrt=wrt)), "").headline

    assert "No gradient was taken" in said(lambda w: (w @ w).sum(), None)
    assert "Of 1 gradient none is 0" in said(lambda w: (w @ w).sum(), 0)
    assert "None reaches w: why grad(w)" in said(lambda w: mx.stop_gradient(w).sum(), 0)
    with nnrepl.recording() as recorded:
        pass
    assert why(TapeSession(recorded.tape, recorded.names), "").headline.startswith("Nothing has been recorded")


def test_a_large_tensor_is_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [0.0, 2.0, mx.nan, -3.0, mx.inf, 0.0, 1.0]

    def stat() -> Stat:
        session = OpenSession(nnrepl.trace(lambda w: w * 1, mx.array(numbers), wrt=None))
        look, value = Look(session), session.tape.ops[0].outputs[0]
        assert look.finite([value]) == {value: False}
        assert first_bad(look, value) == 2
        assert first_bad(look, value, "inf") == 4
        return look.stat(value)

    whole = stat()
    monkeypatch.setattr(batches, "PIECE", 2)
    monkeypatch.setattr("nnrepl.explain.look.PIECE", 2)
    monkeypatch.setattr("nnrepl.session.births.PIECE", 2)
    parts = stat()
    assert replace(parts, norm=0) == replace(whole, norm=0)
    assert parts.norm == pytest.approx(whole.norm)


def test_unsigned_numbers_and_large_ones_are_told_apart() -> None:
    from nnrepl.timeline.compare import distances
    from nnrepl.view.diff import _signed

    a, b = mx.array([2**24 + 1, 5], mx.int32), mx.array([2**24, 5], mx.int32)
    (found,) = distances([(a, b)])
    assert (found.same, found.absolute) == (False, 1.0)
    assert (_signed(mx.array([1], mx.uint32)) - _signed(mx.array([2], mx.uint32))).tolist() == [-1]
    assert (_signed(mx.array([False])) - _signed(mx.array([True]))).tolist() == [-1]
