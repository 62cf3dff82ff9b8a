"""What is kept from the gradient, numbers out of all proportion, terms that are lost in a sum, the other of two models,
a hinge that has been learned: each beside sound twins."""

from __future__ import annotations

import inspect

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.explain.health import health
from nnrepl.explain.health.report import Finding
from nnrepl.explain.why import why
from tests.explain.programs import Branched, Change, X, four_steps
from tests.support import OpenSession


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


def test_a_weight_itself_may_be_kept_out() -> None:
    trace = nnrepl.trace(lambda m: mx.square(m(X) * mx.stop_gradient(m.bias)).mean(), nn.Linear(3, 4), wrt=0)
    said = [one.text for one in health(OpenSession(trace)).findings if one.kind == "kept out"]
    assert len(said) == 1
    assert "bias learns on other ways only" in said[0]


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


def played(critic_fault: bool) -> list[Finding]:
    """Train a critic twice for each update of its generator (WGAN-GP): each update makes a step of its own, and the
    generator's is the last. Its scores have no targets: one mean is to grow, the other to fall."""
    mx.random.seed(4)
    generator, critic = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))
    optimizers = [optim.Adam(1e-3), optim.Adam(1e-3)]

    def critic_loss(m: nn.Module, real: mx.array, fake: mx.array) -> mx.array:
        slope = mx.grad(lambda between: m(between).sum())((real + fake) / 2)
        penalty = mx.square(mx.sqrt(mx.square(slope).sum(axis=-1) + 1e-8) - 1).mean()
        scores = m(fake).mean() - m(real).mean()
        return (mx.clip(scores, 50, 60) if critic_fault else scores) + 10 * penalty * (0 if critic_fault else 1)

    def generator_loss(m: nn.Module, noise: mx.array) -> mx.array:
        return -critic(m(noise)).mean()

    critic_step = nn.value_and_grad(critic, critic_loss)
    generator_step = nn.value_and_grad(generator, generator_loss)
    with nnrepl.recording() as tape:
        for _ in range(2):
            for _ in range(2):
                _, grads = critic_step(critic, X + 2, mx.stop_gradient(generator(X)))
                optimizers[0].update(critic, grads)
                mx.eval(critic.parameters(), optimizers[0].state)
            _, grads = generator_step(generator, X)
            optimizers[1].update(generator, grads)
            mx.eval(generator.parameters(), optimizers[1].state)
    session = OpenSession(tape)
    session.run("goto end")
    report = health(session)
    assert report.pass_.title == "played.generator_loss"
    return report.findings


def test_a_critic_whose_updates_are_steps_of_their_own_is_looked_at_from_the_generator_s() -> None:
    (cancels,) = played(False)  # the last bias moves both means alike
    assert (cancels.level, cancels.kind) == ("note", "zero gradient")
    assert "opposite and cancel" in cancels.text
    said = [one for one in played(True) if one.level != "note"]
    assert any(one.kind == "zero gradient" and "the VJP of clip" in one.text for one in said)


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


def masked(kept_as_weight: bool, learned: bool = False) -> list[Finding]:
    """Three heads with a mask each, as a parameter or under a name with an underscore; or a gate that is learned, of
    which only a condition is made."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(3, 3)
            mask = mx.tril(mx.ones((4, 4)))
            if kept_as_weight:
                self.tril = mx.random.normal((4, 4)) if learned else mask
            else:
                self._tril = mask

        def __call__(self, x: mx.array) -> mx.array:
            scores = self.q(x) @ x.T
            tril = self.tril if kept_as_weight else self._tril
            return mx.softmax(mx.where(tril > 0, scores, -mx.inf if not learned else -5.0), axis=-1) @ x

    mx.random.seed(3)
    heads = nn.Sequential(Head(), Head(), Head())
    return health(OpenSession(nnrepl.trace(lambda m: mx.square(m(X)).mean(), heads, wrt=heads))).findings


def test_a_mask_that_is_kept_as_a_parameter_is_one_note() -> None:
    assert masked(False) == []
    (found,) = masked(True)
    assert found.level == "note"
    assert 'freeze(keys=["tril"])' in found.text
    assert "layers.2.tril" in found.text
    (gate,) = masked(True, learned=True)
    assert gate.level == "warning"
    assert "freeze" not in gate.text


def test_a_mask_that_the_setup_writes_is_no_answer_of_why() -> None:
    model = nn.Linear(3, 4)

    def ask(factor: float | None) -> str:
        with nnrepl.recording() as tape:
            mask = mx.triu(mx.full((4, 4), -mx.inf), k=1)
            mask = mask if factor is None else mask * factor
            _, grads = nn.value_and_grad(model, lambda m: mx.softmax(m(X) @ m(X).T + 0 * X[:1, :1]).max())(model)
            optim.SGD(0.1).update(model, grads)
        session = OpenSession(tape)
        session.run("goto end")
        return str(session.run("why"))

    assert "has -∞ in its call" not in ask(None)
    assert "has -∞ in its call" in ask(2.0)


def test_what_an_evaluation_masks_is_no_alarm() -> None:
    model = nn.Linear(3, 4)
    mask = mx.array([True, False, True, True])

    def evaluate(broken: bool) -> list[Finding]:
        with nnrepl.recording() as tape:
            _, grads = nn.value_and_grad(model, lambda m: mx.square(m(X)).mean())(model)
            optim.SGD(0.1).update(model, grads)
            scores = mx.where(mask, model(X), -mx.inf)
            mx.eval(scores if broken else mx.softmax(scores, axis=-1))
        session = OpenSession(tape)
        session.run("goto end")
        return [one for one in health(session).findings if one.kind == "non-finite"]

    assert evaluate(False) == []
    assert len(evaluate(True)) == 1


def test_units_that_like_rows_switch_off_are_no_dead_units() -> None:
    def dead(model: nn.Module, x: mx.array) -> list[Finding]:
        session = OpenSession(nnrepl.trace(lambda m: mx.square(m(x)).mean(), model, wrt=model))
        return [one for one in health(session).findings if one.kind == "dead units"]

    mx.random.seed(2)
    model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 2))
    model.layers[0].bias = mx.where(mx.arange(64) < 38, -3.0, 3.0)
    alike = mx.random.normal((32, 3)) * 0.1
    assert dead(model, alike) == []  # 38 of 64 are off for all, the others on for all
    assert len(dead(nn.Sequential(*model.layers[:2], model.layers[2]), mx.random.normal((32, 3)))) == 0
    model.layers[0].bias = mx.where(mx.arange(64) < 60, -30.0, 0.0)
    assert len(dead(model, mx.random.normal((32, 3)))) == 1


def test_a_zero_that_stays_zero_is_told() -> None:
    """A head that is 0 and never updated keeps the layer below from learning; one that has just begun does not."""

    def warnings(updated: bool, steps: int) -> list[str]:
        mx.random.seed(1)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        model.layers[1].weight = mx.zeros((2, 4))
        optimizer = optim.SGD(0.1)
        step = nn.value_and_grad(model, lambda m: mx.square(m(X) - 1).mean())
        with nnrepl.recording() as tape:
            for _ in range(steps):
                _, grads = step(model)
                if not updated:
                    del grads["layers"][1]["weight"]
                optimizer.update(model, grads)
                mx.eval(model.parameters())
        session = OpenSession(tape)
        session.run("goto end")
        return [one.text for one in health(session).warnings if one.kind == "zero gradient"]

    assert any("layers.0.weight" in one for one in warnings(False, 5))
    assert warnings(False, 2) == []
    assert warnings(True, 5) == []


@pytest.mark.parametrize(("far", "more"), [(True, 0), (False, 0), (False, 1e8)])
def test_why_nan_tells_the_step_in_which_the_loss_leapt(far: bool, more: float) -> None:
    """From 10^8 to 10^13 is no leap, though 10^13 would be one at first."""

    def loss(w: mx.array, turn: int) -> mx.array:
        h = X @ w
        h = h * 1e25 if far and turn >= 1 else h + (more * 1e5 if turn == 2 else more)
        return mx.abs(h).mean() / (0 if not far and turn == 3 else 1)

    session = OpenSession(four_steps(loss))
    session.run("goto end")
    also = " ".join(why(session, "nan").also)
    assert ("Before that the loss was finite, but" in also) == far, also
    assert ("in step 2" in also and "h * 1e+25" in also) == far, also


@pytest.mark.parametrize("learned", [True, False])
def test_what_has_been_learned_has_little_left_to_learn(learned: bool) -> None:
    """The gradient of weights whose answers are sure is tiny: a fault only where it has never been anything else."""
    sure, open_ = mx.ones((3, 2)) * mx.array([40.0, -40.0]), mx.ones((3, 2)) * mx.array([0.5, -0.5])
    with nnrepl.recording() as tape:
        step = mx.value_and_grad(lambda w: nn.losses.cross_entropy(mx.abs(X) @ w, mx.zeros((4,), mx.int32)).mean())
        for w in (open_ if learned else sure, sure):
            mx.eval(step(w * 0.4))
    session = OpenSession(tape)
    session.run("goto end")
    found = [one.level for one in health(session).findings if one.kind in ("vanishing gradients", "zero gradient")]
    assert found == (["note"] if learned else ["warning"])


@pytest.mark.parametrize("stepped", [True, False])
def test_a_step_behind_what_passes_nothing_is_told_as_well(stepped: bool) -> None:
    def loss(w: mx.array) -> mx.array:
        gap = X @ w
        gap = gap // 1 if stepped else gap * 2
        return mx.maximum(gap - 50, 0).mean()

    session = OpenSession(nnrepl.trace(loss, mx.array([1.0, -2.0, 0.5]), wrt=0))
    (text,) = [one.text for one in health(session).findings if one.kind == "zero gradient"]
    assert ("would pass nothing either" in text and "gap // 1" in text) == stepped, text


def kept(what: str, private: bool) -> tuple[list[str], list[str], str]:
    """What health finds, of faults and of tables, and what why says, after an update with weight decay, where a layer
    keeps a table as an attribute."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.under = nn.Linear(3, 4), f"_{what}" if private else what
            angles = mx.arange(4)[:, None] * mx.array([1.0, 0.3])
            self[self.under] = {
                "mask": mx.triu(mx.full((4, 4), -mx.inf), k=1),
                "positions": mx.arange(4).astype(mx.float32),
                "sines": mx.tile(mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1), (2, 1)),
                "bias": mx.array([0.0, 1.0, 2.0, 4.0]),
            }[what]

        def __call__(self, x: mx.array) -> mx.array:
            h, table = self.q(x), self[self.under]
            if what == "mask":
                return mx.softmax(h @ h.T + table, axis=-1) @ h
            return mx.tanh(h + table[:4])

    mx.random.seed(4)
    model, optimizer = nn.Sequential(Layer(), nn.Linear(4, 3), Layer()), optim.AdamW(0.01, weight_decay=0.1)
    with nnrepl.recording() as tape:
        step = nn.value_and_grad(model, lambda m: mx.square(m(X) - 0.5).mean())
        for _ in range(3):
            optimizer.update(model, step(model)[1])
            mx.eval(model.parameters(), optimizer.state)
    session = OpenSession(tape)
    session.run("goto end")
    found = health(session)
    tables = [one.text for one in found.findings if one.kind == "trained table"]
    return [one.kind for one in found.warnings], tables, str(session.run("why nan"))


@pytest.mark.parametrize("what", ["mask", "positions", "sines", "bias"])
def test_a_table_that_is_trained_as_an_attribute_is_one_note(what: str) -> None:
    warnings, tables, said = kept(what, private=False)
    assert warnings == []
    assert len(tables) == (what != "bias")
    assert all(f"layers.0.{what} and layers.2.{what} have gradients" in text for text in tables)
    assert ("came in" in said) == (what == "mask"), said
    assert "has -∞ in its call" not in said


def test_a_table_under_an_underscore_is_not_told() -> None:
    assert kept("mask", private=True)[:2] == ([], [])
