"""What is empty, NaN all over, or was never finished: a true answer, and no clean bill for what was not looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import pytest
from rich.console import Console

import nnrepl
from nnrepl.explain.check import check_op, check_pass
from nnrepl.explain.explained import explain
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


def test_a_gradient_of_nothing_is_not_checked_without_a_word() -> None:
    session = OpenSession(nnrepl.trace(lambda w: (w[:0] @ w).sum() + w.sum(), mx.ones((2, 2)), wrt=0))
    op = next(op for op in session.tape.ops if op.name == "vjp of matmul")
    if op.outputs[0].size:
        assert check_op(session, op).checked
    session = OpenSession(nnrepl.trace(lambda w: mx.exp(mx.tanh(w[:0])).sum() + w.sum(), mx.ones((2, 2)), wrt=0))
    op = next(op for op in session.tape.ops if op.name == "vjp of exp")
    with pytest.raises(UserError, match="is empty"):
        check_op(session, op)


def test_what_explain_says_of_nothing_and_of_nan_is_so() -> None:
    session = OpenSession(nnrepl.trace(lambda w: mx.softmax(w[:0] @ w).sum() + w.sum(), mx.ones((2, 2)), wrt=0))
    assert any("is empty" in note for note in explain(session, "#2").notes)
    for factor in (1.0, mx.nan):
        session = OpenSession(nnrepl.trace(lambda w, f=factor: mx.softmax(w * f, axis=0).sum(), mx.ones((2, 2)), wrt=0))
        told = [note for note in explain(session, "#2").notes if "add up to 1" in note]
        assert bool(told) == (factor == 1)


@pytest.mark.parametrize("index", ["1.5", "[1]", "x", "[0, 0, 0]", "[a, 0]", "[9, 0]", "1;2", "[]"])
def test_an_element_that_is_none_is_refused_in_one_line(index: str) -> None:
    session = OpenSession(nnrepl.trace(lambda w: (w * 2).sum(), mx.ones((2, 3)), wrt=0))
    with pytest.raises(UserError, match=r"^(an element is written at|#1 has shape)"):
        explain(session, f"#1 at {index}")
    assert explain(session, "#1 at -1, 0").element == "#1[1,0]"


def test_what_is_added_up_is_told_without_what_the_parts_were_made_of() -> None:
    session = OpenSession(nnrepl.trace(lambda w: (w @ w).sum() + (w * 2).sum(), mx.ones((2, 2)), wrt=0))
    found = explain(session, "grad(w)")
    assert found.op is not None
    assert found.op.operation.kind == "accumulate"
    assert "w" not in [symbol.name for symbol in found.symbols]
    assert not any("The sum runs over" in note for note in found.notes)


def refused(session: OpenSession, line: str) -> str:
    with pytest.raises(UserError) as raised:
        session.run(line)
    return str(raised.value)


def test_what_cannot_be_told_of_an_op_gets_one_line() -> None:
    def loss(w: mx.array) -> mx.array:
        a, b = mx.split(w, 2)
        inner = mx.vmap(lambda row: mx.exp(row))(w)
        h = mx.tanh(a * b + a)
        return inner.sum() + mx.linalg.norm(h) + h.sum()

    with nnrepl.recording() as recorded:
        mx.value_and_grad(loss)(mx.array([[1.0, 2.0], [3.0, 4.0]]))
        with pytest.raises(ValueError, match="matmul"):
            mx.ones((2, 3)) @ mx.ones((2, 3))
    session = OpenSession(recorded)
    by_name = {op.name: op.label for op in reversed(session.tape.ops)}
    failed, added, split = by_name["matmul"], by_name["accumulate"], by_name["split"]
    assert refused(session, f"explain {failed}") == (
        f"{failed} matmul raised ValueError and has no result; why error tells more"
    )
    assert refused(session, f"into {failed}") == f"{failed} matmul raised ValueError; why error tells more"
    assert refused(session, f"why {failed}") == f"{failed} matmul has no result"
    assert refused(session, f"primitives {failed}") == f"{failed} matmul raised ValueError; it has no graph"
    assert "has no VJP on the tape" in refused(session, f"check {failed}")
    assert refused(session, f"into {added}").startswith(f"{added} adds two gradients: there is nothing inside")
    assert "lies in a vmap, and is done for each sample" in refused(session, f"into {by_name['exp']}")
    assert "nnrepl's table has no formula for vmap of" in refused(session, "into vmap")
    assert refused(session, f"into {by_name['tanh']}") == (
        f"tanh is a textbook op already; explain {by_name['tanh']} shows its numbers"
    )
    assert ["b[0,1]" in str(session.run(f"explain {split}{slot}")) for slot in ("", ".1", ".2")] == [False, True, False]
    assert refused(session, "health nothing=1").startswith("health has no threshold nothing; it has dead, ")
    assert refused(session, "health dead=x") == "a threshold is set with a number: health dead=0.5"
    session.run("goto end")
    assert refused(session, "explain").startswith("the cursor stands after the last op; explain #3, or a name,")
    assert refused(session, "explain update w").startswith("no update of w is on the tape")


@pytest.mark.parametrize("line", ["explain", "graph", "verify", "into", "check"])
def test_of_nothing_nothing_is_told(line: str) -> None:
    session = OpenSession(nnrepl.trace(lambda: None))
    assert refused(session, line).startswith("nothing has been recorded yet")
    assert "Nothing has been recorded yet: step to the first op, then ask why." in str(session.run("why"))
