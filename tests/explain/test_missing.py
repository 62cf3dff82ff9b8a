"""Why there is no gradient: each reason is another answer, and every command gives the same one."""

from __future__ import annotations

import re

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.session.errors import UserError
from tests.support import OpenSession

SAID = {
    "frozen": "frozen in the model",
    "asked": "nobody asked",
    "unused": "used",
    "behind": "used",
    "data": "only used as",
    "cut": "stop_gradient",
    "edit": "edit of|cut by the edit",
    "zero": "is 0|[0 0 0]",
    "alive": "norm|[",
}
"""What an answer about a tensor says, and no answer about one of the others."""

TABLE = {
    "unused": "not used",
    "behind": "not used",
    "cut": "cut at #",
    "fixed": "cut at #",
    "edit": "cut by an edit",
    "zero": "0, all of it",
}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ice = nn.Linear(3, 3)
        self.ice.freeze()
        for name in ("alive", "unused", "behind", "w_cut", "w_first", "zero", "fixed"):
            self[name] = mx.array([0.5, 1.5, 2.5])

    def __call__(self, x: mx.array, scale: mx.array, rows: mx.array) -> mx.array:
        x = self.ice(x * self.alive) * scale
        lost = self.behind * 3  # noqa: F841
        early = self.w_first * 2
        x = x + mx.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])[rows] + early
        return x + mx.stop_gradient(self.w_cut * 2) + self.zero * 0 + mx.zeros_like(self.fixed * 2)


@pytest.fixture(scope="module")
def session() -> OpenSession:
    model = Model()
    args = mx.ones((3, 3)), mx.ones((3,)), mx.array([0, 1, 1])
    found = OpenSession(nnrepl.trace(lambda x, scale, rows: model(x, scale, rows).sum(), *args, wrt=model))
    for line in ("until early", "step", "early = mx.ones((3,))", "goto end"):
        found.run(line)
    return found


NAMES = {"frozen": "ice.weight", "asked": "scale", "data": "rows", "cut": "w_cut", "edit": "w_first"}


def asked(session: OpenSession, line: str) -> str:
    try:
        return " ".join(str(session.run(line)).split())
    except UserError as error:
        return str(error)


def has(text: str, cause: str) -> bool:
    return any(word in text for word in SAID[cause].split("|"))


@pytest.mark.parametrize("cause", [cause for cause in SAID if cause != "alive"])
def test_each_command_gives_the_same_reason(session: OpenSession, cause: str) -> None:
    name = NAMES.get(cause, cause)
    lines = ["why grad({})", "p grad({})"]
    if cause != "zero":
        lines += ["why grad({}) is none", "why grad({}) == 0", "explain grad({})", "check grad({})"]
        lines += ["what {}", "stats grad({})", "hist grad({})"]
    others = [other for other in SAID if SAID[other] != SAID[cause] and other not in ("alive", "unused", "behind")]
    for line in lines:
        text = asked(session, line.format(name))
        assert has(text, cause), (line, text)
        assert cause not in ("frozen", "asked") or "no gradient flows" not in text, (line, text)
        wrong = [other for other in others if has(text, other)]
        assert not wrong, (line, wrong, text)


def test_tables_give_the_reason_in_a_word(session: OpenSession) -> None:
    for command in ("info parameters", "info gradients"):
        rows = {row.split()[0].removeprefix("∂L/∂"): row for row in str(session.run(command)).splitlines() if row}
        for cause, word in TABLE.items():
            told = word if command == "info parameters" or cause != "zero" else " 0"
            assert told in rows[NAMES.get(cause, cause)], (command, rows[NAMES.get(cause, cause)])
            others = {other for other in TABLE.values() if other not in (word, "0, all of it")}
            assert not any(other in rows[NAMES.get(cause, cause)] for other in others), rows[NAMES.get(cause, cause)]
        assert "none" not in rows["alive"]


def test_health_groups_by_the_same_reasons(session: OpenSession) -> None:
    found = str(session.run("health"))
    for line in ("unused gets no", "w_cut gets no", "w_first gets no", "∂L/∂zero is 0"):
        assert line in found, found
    assert "alive never" not in found
    assert "are frozen: used by the pass" in " ".join(found.split())


def test_what_later_steps_differentiate_is_no_answer_about_this_one() -> None:
    """Two weights in turn: why tells of the step in which one stands, as p does."""
    with nnrepl.recording() as recorded:
        a, b = mx.ones((2, 2)) * 0.5, mx.ones((2, 2))
        for turn in (0, 1, 0):
            grad = mx.grad(lambda a, b: mx.sum(mx.tanh(a) @ b), argnums=turn)(a, b)
            a, b = (a, b - 0.1 * grad) if turn else (a - 0.1 * grad, b)
    found = OpenSession(recorded)
    for place, name in (("step 1 tanh", "b"), ("step 2 tanh", "a"), ("step 3 tanh", "b")):
        found.run(f"goto {place}")
        for line in (f"why grad({name})", f"p grad({name})"):
            assert "nobody asked" in asked(found, line), (place, line, asked(found, line))


def test_a_failed_pass_and_no_pass_are_two_other_reasons() -> None:
    def loss(w: mx.array) -> mx.array:
        raise ValueError("no more")

    with nnrepl.recording() as recorded, pytest.raises(ValueError, match="no more"):
        mx.value_and_grad(loss)(mx.ones((2, 2)))
    failed = OpenSession(recorded)
    failed.run("goto end")
    forward = OpenSession(nnrepl.trace(lambda w: (w * 2).sum(), mx.ones((2,)), wrt=None))
    forward.run("goto end")
    for line in ("p grad(w)", "why grad(w)", "explain grad(w)", "check grad(w)"):
        assert "ended with ValueError" in asked(failed, line), line
        assert "no gradient pass" in asked(forward, line) or "No gradient was taken" in asked(forward, line), line


def test_what_goes_into_the_loss_as_places_reaches_it() -> None:
    """Where the way of a gradient ends twice, the first end still goes into the loss; another result may not."""

    def loss(w: mx.array, used: bool) -> mx.array:
        table = mx.eye(3)[mx.stop_gradient(mx.argmax(w * 2, axis=-1))]
        return (table if used else mx.eye(3)).sum() + mx.ones((3,)).sum()

    for used in (True, False):
        session = OpenSession(nnrepl.trace(loss, mx.array([[1.0, 3, 2]]), used, wrt=0))
        told = " ".join(str(session.run("why grad(w)")).split())
        assert "ends at #3 argmax" in told, told
        assert ("reach the loss either" in told) != used, told


def test_what_a_function_has_made_whose_backward_pass_runs_it_again_or_is_written() -> None:
    """Not that nobody asked: a gradient is taken of what the second run makes, or none at all."""
    ruled = mx.custom_function(lambda x: mx.tanh(x * 2))
    ruled.vjp(lambda primals, cotangent, output: cotangent)

    def again(x: mx.array) -> mx.array:
        h = x * 2
        return mx.tanh(h)

    x = mx.ones((3,))
    for fun, said in (
        (lambda x: mx.checkpoint(again)(x).sum(), r"runs once more .*\(here grad\((#\d+)\)\)"),
        (lambda x: ruled(x).sum(), r"lies inside of #\d \(custom.*\), whose gradient the program has written itself"),
    ):
        session = OpenSession(nnrepl.trace(fun, x, wrt=0))
        session.run("goto tanh")
        told = [" ".join(str(session.run(line)).split()) for line in ("p grad(#1)", "why grad(#1)")]
        assert all(re.search(said, line) for line in told), told
        second = re.search(r"here grad\((#\d+)\)", told[0])
        if second is not None:
            session.run("goto end")
            slope = str(session.run(f"p mx.allclose(grad({second[1]}), 1 - mx.tanh(mx.ones(3) * 2) ** 2).item()"))
            assert slope.strip().endswith("True")
