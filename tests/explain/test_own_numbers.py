"""What is kept from the gradient, numbers out of all proportion, terms that are lost in a sum, the other of two models,
a hinge that has been learned: each beside sound twins."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.explain.health import health
from nnrepl.explain.health.report import Finding
from tests.support import OpenSession

X = mx.sin(mx.arange(12.0)).reshape(4, 3) + 0.1
Change = Callable[[mx.array], mx.array]


class Branched(nn.Module):
    """A layer, and something that is done to what it gives, beside the way on which it learns anyway."""

    def __init__(self, branch: Change) -> None:
        super().__init__()
        mx.random.seed(3)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.branch = branch

    def __call__(self, x: mx.array) -> mx.array:
        x = mx.sin(self.first(x))
        return self.second(x + self.branch(x * 2))


def found(branch: Change, term: Change = lambda y: mx.square(y).mean()) -> list[Finding]:
    model = Branched(branch)
    return health(OpenSession(nnrepl.trace(lambda m: term(m(X)), model, wrt=model))).findings


FAULTS: list[tuple[str, Change]] = [
    ("kept out", lambda h: mx.stop_gradient(h) * 3),
    ("kept out", lambda h: mx.stop_gradient(h * 2 + 1)),
    ("own number", lambda h: h * 1e12),
    ("own number", lambda h: h / 1e11),
    ("own number", lambda h: 1e-9 * h),
    ("own number", lambda h: h / mx.array(1e-10)),
    ("lost in a sum", lambda h: 5.0 + h * 1e-7 * 0.01),
]
SOUND: list[Change] = [
    lambda h: h + mx.stop_gradient(mx.round(h) - h),
    lambda h: mx.exp(h - mx.stop_gradient(h.max(axis=-1, keepdims=True))),
    lambda h: mx.stop_gradient(X @ mx.ones((3, 4))),
    lambda h: h * 1e7,
    lambda h: h * (1e-9 / (mx.abs(h) + 1)) * 1e6,
    lambda h: h + 1e-12,
    lambda h: 1 + mx.exp(h - 3),
    lambda h: h * mx.zeros((4, 4)) + 1,
    lambda h: mx.where(h > 0, h, -1e9 * mx.ones(h.shape)) * 0.001,
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_each_is_named_with_its_line(number: int) -> None:
    kind, fault = FAULTS[number]
    said = [one for one in found(fault) if one.kind == kind]
    line = f"test_own_numbers.py:{inspect.getsourcelines(fault)[1]}"
    assert [line in one.text for one in said] == [True], said
    assert said[0].level == "note"


@pytest.mark.parametrize("branch", SOUND)
def test_what_is_usual_is_not_told(branch: Change) -> None:
    kinds = {kind for kind, _ in FAULTS}
    assert [one for one in found(branch) if one.kind in kinds] == []


def test_a_term_of_the_loss_that_cannot_change_it_is_named_with_what_made_it() -> None:
    def loss(y: mx.array, factor: float) -> mx.array:
        extra = mx.abs(y).mean() * factor
        return mx.square(y).mean() + extra

    for factor in (1e-9, 0.0, 1e-3):  # a term that is 0 adds nothing, and that is no loss of digits
        said = [one.text for one in found(lambda h: h, lambda y: loss(y, factor)) if one.kind == "lost in a sum"]  # noqa: B023
        assert len(said) == (factor == 1e-9)
        assert all("extra" in one and "made by #" in one for one in said)


def trained(critic_fault: bool) -> list[Finding]:
    """Train an actor and a critic in turn, the fault in the one that is not the last."""
    mx.random.seed(4)
    actor, critic = nn.Linear(3, 2), nn.Linear(2, 1)

    def critic_loss(m: nn.Linear, x: mx.array) -> mx.array:
        y = m(mx.stop_gradient(actor(x)))
        return mx.square((mx.tanh(y + 90) if critic_fault else y) - 1).mean()

    def actor_loss(m: nn.Linear, x: mx.array) -> mx.array:
        return -mx.tanh(critic(m(x))).mean()

    critic_step, actor_step = nn.value_and_grad(critic, critic_loss), nn.value_and_grad(actor, actor_loss)
    optimizers = [optim.SGD(0.1), optim.SGD(0.1)]
    with nnrepl.recording() as tape:
        for _ in range(3):
            _, grads = critic_step(critic, X)
            optimizers[0].update(critic, grads)
            _, grads = actor_step(actor, X)
            optimizers[1].update(actor, grads)
            mx.eval(actor.parameters(), critic.parameters())
    session = OpenSession(tape)
    session.run("goto end")
    report = health(session)
    assert [pass_.title for pass_ in (report.pass_, *report.also)] == [
        "trained.actor_loss", "trained.critic_loss"]  # fmt: skip
    assert not report.others
    return report.warnings


def test_the_other_model_of_a_step_is_looked_at_as_well() -> None:
    assert trained(False) == []
    said = trained(True)
    assert {one.kind for one in said} == {"zero gradient", "saturated units"}
    assert len({(one.kind, one.op) for one in said}) == len(said)


@pytest.mark.parametrize("learned", [True, False])
def test_a_hinge_that_has_been_learned_is_no_fault(learned: bool) -> None:
    weight = {"w": mx.array([1.0, -1.0, 0.5])}
    far = 0.0 if learned else 1e4

    def loss(p: dict[str, mx.array]) -> mx.array:
        return mx.maximum(1 - X @ p["w"] - far, 0).mean()

    with nnrepl.recording() as tape:
        for _ in range(3):
            _, grads = mx.value_and_grad(loss)(weight)
            weight = {"w": weight["w"] - 500 * grads["w"]}
            weight["w"] = mx.where(X.sum() > 0, weight["w"], 50 * X[0]) if learned else weight["w"]
            mx.eval(weight)
            if learned:
                weight = {"w": mx.array([20.0, 20.0, 20.0]) + 0 * weight["w"]}
    session = OpenSession(tape)
    session.run("goto end")
    findings = health(session).findings
    dead = [one for one in findings if one.kind in ("zero gradient", "dead units")]
    assert {one.level for one in dead} <= {"note" if learned else "warning"}
    assert bool(dead) or learned


def test_a_state_that_begins_with_zeros_is_not_told_where_its_loop_goes_on() -> None:
    def loss(w: mx.array, turns: int) -> mx.array:
        state = mx.zeros((3,))
        decay = mx.sigmoid(w)
        for _ in range(turns):
            state = state * (decay * 2) + w
        return mx.square(state).mean()

    for turns in (4, 1):
        findings = health(OpenSession(nnrepl.trace(loss, mx.array([0.5, 1.0, 2.0]), turns, wrt=0))).findings
        assert bool([one for one in findings if one.kind == "zero gradient"]) == (turns == 1), findings
