"""Sentences that were said once where they are not so: each beside a program in which they are."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl import UserError
from nnrepl.commands.take_apart import op_of
from nnrepl.explain.explained import explain
from nnrepl.explain.health import health
from nnrepl.explain.why import why
from nnrepl.session.session import TapeSession
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS
from tests.explain.test_findings import Program, reports, rows, squares, train
from tests.support import OpenSession


def generator(faulty: bool) -> None:
    """A generator with a BatchNorm makes what its judge is trained with, outside of its own gradient call."""
    maker = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4), nn.Linear(4, 2))
    judge, optimizer = nn.Linear(2, 1), optim.SGD(1e-2)
    step = nn.value_and_grad(judge, lambda m, made: (m(made) ** 2).mean())
    for _ in range(2):
        made = maker(rows(4, 3))
        optimizer.update(judge, step(judge, made)[1])
        mx.eval(judge.parameters(), made)
    if faulty:
        mx.eval(maker(rows(4, 3)))


class Spare(nn.Module):
    """A model with a layer that may be used, and is frozen."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.last, self.spare, self.used = nn.Linear(3, 2), nn.Linear(3, 3), used
        self.spare.freeze()

    def __call__(self, x: mx.array) -> mx.array:
        return self.last(self.spare(x) if self.used else x)


def spared(faulty: bool) -> None:
    train(Spare(faulty), squares, rows(4, 3), rows(4, 2))


def masked(faulty: bool) -> None:
    """A third of a bfloat16 weight is trained, or all of it by steps that are too small."""
    mask = (mx.arange(12).reshape(3, 4) % 3 == 0).astype(mx.bfloat16)
    w, x = rows(3, 4).astype(mx.bfloat16), rows(4, 3).astype(mx.bfloat16)
    step = mx.value_and_grad(lambda w: (x @ w).square().sum())
    for _ in range(2):
        grad = step(w)[1]
        w = w - (1e-6 * grad if faulty else 0.1 * mask * grad)
        mx.eval(w)


def many(faulty: bool) -> None:
    """Each of 300,000 gradients is 2, or 2,000."""
    mx.eval(mx.value_and_grad(lambda w: (w * (2000 if faulty else 2)).sum())(mx.zeros((600, 500))))


TWINS: dict[str, tuple[str, Program]] = {
    "generator": ("wrong mode", generator), "spared": ("frozen", spared), "masked": ("lost update", masked),
    "many": ("huge gradients", many),
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_it_is_not_said_where_it_is_not_so(name: str) -> None:
    kind, program = TWINS[name]
    said = [{finding.kind for report in reports(program, faulty) for finding in report.findings} for faulty in (1, 0)]
    assert kind in said[0]
    assert kind not in said[1]


def stages(faulty: bool) -> None:
    """A layer is frozen after two steps, or before the first."""
    model, optimizer = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), optim.SGD(1e-2)
    x, y = rows(4, 3), rows(4, 2)
    for turn in range(4):
        if turn == (0 if faulty else 2):
            model.layers[0].freeze()
        optimizer.update(model, nn.value_and_grad(model, squares)(model, x, y)[1])
        mx.eval(model.parameters())


@pytest.mark.parametrize("never", [True, False])
def test_what_was_trained_before_is_not_called_never_trained(never: bool) -> None:
    (text,) = [finding.text for finding in reports(stages, never)[-1].findings if finding.kind == "frozen"]
    assert ("no pass on the tape trains them" in text) is never
    assert ("not trained by it" in text) is not never


def test_noise_is_the_same_in_the_passes_that_are_named() -> None:
    def seeded(_: bool) -> None:
        model = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 2))
        step, optimizer, x, y = nn.value_and_grad(model, squares), optim.SGD(1e-3), rows(4, 3), rows(4, 2)
        for turn in range(4):
            mx.random.seed(turn // 2)
            optimizer.update(model, step(model, x, y)[1])
            mx.eval(model.parameters())

    (text,) = [one.text for one in reports(seeded, True)[0].findings if one.kind == "repeated randomness"]
    assert "of step 2 drew the same 256 numbers: the noise is the same in both" in text
    assert "mx.random.seed" in text
    assert "compiled" not in text


def test_a_small_gradient_is_held_against_the_one_that_is_named() -> None:
    def loss(p: dict[str, mx.array]) -> mx.array:
        h = (mx.ones((4, 3)) @ p["v"] * 1e-9) @ p["w"]
        return (h + p["b"]).square().sum() + (p["b"] * 100).sum()

    p = {"v": mx.ones((3, 3)), "w": mx.eye(3) * 0.5, "b": mx.ones((3,))}
    found = health(OpenSession(nnrepl.trace(loss, p, wrt=0))).findings
    (text,) = [one.text for one in found if one.kind == "vanishing gradients"]
    assert "the largest of a weight" in text or "one of p.v itself" in text, text


def ask(fn: Callable[[mx.array], mx.array], x: mx.array, question: str) -> str:
    answer = why(OpenSession(nnrepl.trace(fn, x, wrt=0)), question)
    return " ".join([answer.headline, *answer.reasons, *answer.also, answer.advice])


@pytest.mark.parametrize("second", [100.0, 1.0])
def test_shares_over_two_axes_are_saturated_only_if_those_of_every_row_are(second: float) -> None:
    x = mx.array([[[100.0, 0.0], [0.0, 0.0]], [[second, 0.0], [0.0, 0.0]]])
    factors = mx.array([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    said = ask(lambda x: (mx.softmax(x, axis=(1, 2)) * factors).sum(), x, "grad(x)")
    assert ("in every row one share is 1" in said) is (second == 100)


def test_an_infinity_has_its_sign() -> None:
    for sign in ("", "−"):
        said = ask(lambda x: (x * 1).sum(), mx.array([1.0, -mx.inf if sign else mx.inf]), "nan")
        assert f"x[1] came in as {sign}∞" in said


def test_the_slope_of_a_power_is_told_by_its_exponent() -> None:
    for exponent, rule in ((0.0, "The slope of a⁰"), (0.5, "a power below 1 is infinite")):
        assert rule in ask(lambda x, e=exponent: (x ** mx.array(e)).sum(), mx.array([0.0, 2.0]), "nan")  # type: ignore[misc]
    along = ask(lambda p: (mx.array([-2.0, 2.0]) ** p).sum(), mx.array([2.0, 2.0]), "nan")
    assert "no logarithm of a negative number" in along


def test_an_empty_tensor_is_told_with_the_op_that_left_nothing() -> None:
    said = ask(lambda x: (x[:0] * 2).sum(), mx.ones((2, 3)), "grad(x)")
    assert "is empty, its shape is (0, 3)" in said
    assert "x[:0]" in said
    assert "passes nothing on" not in said


def test_rows_of_the_batch_are_those_of_a_matrix() -> None:
    def noted(shape: tuple[int, ...]) -> str:
        w = mx.ones(shape)
        session = OpenSession(nnrepl.trace(lambda w: (mx.ones((*shape[:-2], 5, 3)) @ w).sum(), w, wrt=0))
        return " ".join(explain(session, "grad(w)").notes)

    assert "the rows of the batch: every row that went through w" in noted((3, 4))
    assert "the 5 rows that meet each column of w" in noted((2, 3, 4))


def test_what_is_explained_is_the_largest_in_size() -> None:
    session = OpenSession(nnrepl.trace(lambda x: (x * 2).sum(), mx.array([-5.0, 4.0]), wrt=0))
    assert "The largest in size of the 2 elements is shown" in " ".join(explain(session, "#1").notes)
    session = OpenSession(nnrepl.trace(lambda x: (x * 2).sum(), mx.array([-5.0, 4.0, 5.0]), wrt=0))
    assert "One of the largest in size of the 3 elements is shown" in " ".join(explain(session, "#1").notes)
    q = mx.random.normal((1, 1, 3, 2), key=mx.random.key(3))
    attended = lambda q: mx.fast.scaled_dot_product_attention(q, q, q, scale=1.0).square().sum()  # noqa: E731
    session = OpenSession(nnrepl.trace(attended, q, wrt=0))
    assert "the largest of the last position" in " ".join(explain(session, "#1").notes)
    for asked in ("#2", "grad(q)"):  # of attention alone the last position is one of its own
        assert "The largest in size of the 6 elements is shown" in " ".join(explain(session, asked).notes)


@pytest.mark.parametrize("bad", [(1, 3), (3, 4)])
def test_a_loss_is_not_finite_since_a_step_only_if_it_stays_so(bad: tuple[int, ...]) -> None:
    given = [mx.array([1.0, mx.nan if turn in bad else 2.0]) for turn in range(5)]
    mx.eval(given)
    with nnrepl.recording() as recorded:
        for w in given:
            mx.eval(mx.value_and_grad(lambda w: (w * 2).sum())(w))
    session = TapeSession(recorded.tape, recorded.names)
    session.cursor = len(session.tape)
    said = " ".join(why(session, "nan").also)
    assert ("has not been finite since" in said) is (bad == (3, 4)), said
    assert ("2 of 5 losses on the tape are not finite" in said) is (bad == (1, 3)), said


def test_a_weight_that_an_update_made_is_not_called_made_by_nothing() -> None:
    model = nn.Linear(3, 2)
    with nnrepl.recording() as recorded:
        train(model, squares, rows(4, 3), rows(4, 2), steps=2)
    session = TapeSession(recorded.tape, recorded.names)
    first, second = (pass_ for pass_ in recorded.tape.passes if pass_.kind == GRADIENT_PASS)
    session.cursor = second.start
    title = explain(session, "weight").title
    label = title.split("explain ")[1].split(" ")[0]
    assert f"{label} subtract made it before" in title
    assert session.lookup.op(label).pass_.kind == UPDATE_PASS
    with pytest.raises(UserError, match=f"{label} subtract made it before: ask for {label}"):
        op_of(session, "weight")
    session.cursor = first.start
    assert "no op on the tape made it" in explain(session, "weight").title
    with pytest.raises(UserError, match="no op on the tape made it"):
        op_of(session, "weight")


def test_an_update_in_which_the_program_waits_is_not_called_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with nnrepl.recording() as recorded:
        train(nn.Linear(3, 2), squares, rows(4, 3), rows(4, 2), steps=2, optimizer=optim.SGD(0.0))
    session = TapeSession(recorded.tape, recorded.names)
    session.cursor = next(pass_ for pass_ in recorded.tape.passes[::-1] if pass_.kind == GRADIENT_PASS).start
    assert health(session).unseen == []
    monkeypatch.setattr(TapeSession, "running", True)
    found = health(session)
    assert found.unseen == ["the rest of the update (step 1 was looked at instead)"]
    assert "idle update" in [finding.kind for finding in found.findings]


@pytest.mark.parametrize("asleep", [True, False])
def test_a_step_that_begins_with_an_evaluation_in_training_is_not_called_sound(asleep: bool) -> None:
    def program(_: bool) -> None:
        model, optimizer = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), optim.SGD(1e-2)
        step = nn.value_and_grad(model, squares)
        for turn in range(3):
            model.train(not asleep)
            if turn == 2:
                print(model(rows(4, 3)))
            model.train()
            optimizer.update(model, step(model, rows(4, 3), rows(4, 2))[1])
            mx.eval(model.parameters())

    kinds = [finding.kind for finding in reports(program, True)[-1].warnings]
    assert kinds == ([] if asleep else ["wrong mode"])
