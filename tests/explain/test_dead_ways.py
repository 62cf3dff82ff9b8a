"""Ways on which nothing comes back, while the weights are still taught on others, and what only looks like a fault:
each fault beside sound twins."""

from __future__ import annotations

import inspect

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_map

import nnrepl
from nnrepl.explain.health import health
from nnrepl.explain.health.report import Finding
from nnrepl.explain.look import Look
from nnrepl.explain.outside import detours
from nnrepl.explain.why import why
from tests.explain.programs import Branched, Change, X
from tests.support import OpenSession


def found(branch: Change) -> list[Finding]:
    model = Branched(branch)
    return health(
        OpenSession(nnrepl.trace(lambda m: nn.losses.huber_loss(m(X), 1 - X[:, :2]).mean(), model, wrt=model))
    ).findings


FLAT: list[Change] = [
    lambda h: mx.floor(h),
    lambda h: (h + 3) // 1,
    lambda h: mx.tanh(h + 90),
    lambda h: mx.softmax(h[..., None], axis=-1)[..., 0],
    lambda h: mx.sign(h),
]
CUT: list[Change] = [
    lambda h: mx.clip(h + 90, -1, 1),
    lambda h: mx.where(h == 12345, h, 0.1),
]
SOUND: list[Change] = [
    lambda h: mx.sign(h) * mx.sqrt(mx.abs(h)),
    lambda h: h - mx.floor(h),
    lambda h: h + mx.stop_gradient(mx.round(h) - h),
    lambda h: mx.clip(h, -1, 1),
    lambda h: mx.where(mx.abs(h) < 50, h, mx.exp(-mx.abs(h))),
    lambda h: mx.softmax(h, axis=-1),
    lambda h: h * 0 + h,
]


@pytest.mark.parametrize("number", range(len(FLAT) + len(CUT)))
def test_a_way_that_is_flat_is_named_with_its_line(number: int) -> None:
    fault = (FLAT + CUT)[number]
    said = [one for one in found(fault) if one.kind == "zero gradient"]
    line = f"test_dead_ways.py:{inspect.getsourcelines(fault)[1]}"
    assert [line in one.text for one in said] == [True], said
    assert said[0].level == ("warning" if fault in FLAT else "note")


def test_a_line_that_is_flat_in_every_turn_of_a_loop_is_told_once() -> None:
    def branch(h: mx.array) -> mx.array:
        total = h * 0.1
        for turn in range(5):
            total = total + mx.floor(h + turn / 8)
        return total

    said = [one.text for one in found(branch) if one.kind == "zero gradient"]
    assert len(said) == 1, said
    assert "4 other ops of that line give 0 as well" in said[0]


@pytest.mark.parametrize("fires", [True, False])
def test_what_gets_a_gradient_of_0_does_not_learn_on_other_ways(fires: bool) -> None:
    """A net that spikes, whose threshold is a step, or a slope."""

    def loss(w: mx.array) -> mx.array:
        level, total = mx.zeros((X.shape[0], 2)), mx.array(0.0)
        for _ in range(3):
            level = 0.8 * level + X @ w
            spikes = (level > 0.1).astype(mx.float32) if fires else mx.sigmoid(level)
            level = level * (1 - mx.stop_gradient(spikes))
            total = total + spikes.mean()
        return total

    w = mx.cos(mx.arange(6.0)).reshape(3, 2)
    kinds = {one.kind for one in health(OpenSession(nnrepl.trace(loss, w, wrt=0))).findings}
    assert kinds == ({"zero gradient"} if fires else {"kept out"})


@pytest.mark.parametrize("branch", SOUND)
def test_what_learns_in_another_way_or_is_kept_from_learning_is_no_fault(branch: Change) -> None:
    assert found(branch) == []


def test_one_number_that_left_mlx_is_a_cut_and_no_term_that_was_left_out() -> None:
    def loss(w: mx.array, outside: bool) -> mx.array:
        term = mx.mean(mx.abs(X @ w))
        term = mx.array(np.array(term)) if outside else term
        return mx.mean(mx.square(X @ w)) + term

    w = mx.cos(mx.arange(6.0)).reshape(3, 2)
    for outside in (True, False):
        report = health(OpenSession(nnrepl.trace(loss, w, outside, wrt=0)))
        assert [one.kind for one in report.findings] == (["cut gradient"] if outside else [])


def accumulated(lazy: bool) -> None:
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(1e-2)
    step = nn.value_and_grad(model, lambda m, x: mx.square(m(x)).mean())
    total = None
    for turn in range(24):
        _, grads = step(model, X)
        total = grads if total is None else tree_map(lambda a, b: a + b, total, grads)
        if turn % 4 == 3:
            optimizer.update(model, total)
            total = None
            if not lazy:
                mx.eval(model.parameters())


@pytest.mark.parametrize("evaluated", ["in the turn around", "at the end"])
def test_what_waits_for_the_turn_of_a_loop_further_out_is_no_growing_graph(evaluated: str) -> None:
    """A sampler of five steps, whose last is evaluated by the training step around it, or by what follows them all."""

    def sampled(x: mx.array) -> mx.array:
        for _ in range(5):
            x = x - 0.1 * mx.grad(lambda x: mx.sin(x).sum())(x)
        return x

    with nnrepl.recording() as tape:
        model, loss = mx.array([0.3, 0.2]), mx.grad(lambda w, x: (x[:, :2] * w).sum())
        for _ in range(3):
            x = sampled(X)
            model = model - 0.1 * loss(model, x)
            if evaluated == "in the turn around":
                mx.eval(model)
        mx.eval(x, model)
    session = OpenSession(tape)
    session.run("goto end")
    kinds = [one.kind for one in health(session).findings]
    assert ("growing graph" in kinds) == (evaluated == "at the end"), kinds


@pytest.mark.parametrize("lazy", [True, False])
def test_gradients_that_are_added_up_until_an_update_are_no_growing_graph(lazy: bool) -> None:
    with nnrepl.recording() as tape:
        accumulated(lazy)
    kinds = [one.kind for one in health(OpenSession(tape)).findings]
    assert ("growing graph" in kinds) == lazy, kinds


def test_a_gradient_is_large_because_what_a_square_takes_is() -> None:
    def loss(w: mx.array, large: float, how: Change) -> mx.array:
        h = (X @ w) * large
        return mx.sum(how(h + 1))

    w = mx.cos(mx.arange(6.0)).reshape(3, 2)
    for how in (mx.square, lambda h: h * h, lambda h: h**3):
        for large in (1e9, 2.0):
            session = OpenSession(nnrepl.trace(loss, w, large, how, wrt=0))
            text = " ".join(why(session, "grad(w) is huge").reasons)
            assert ("makes it 1e+09 times as large" in text) == (large > 2), text


def test_a_limit_on_what_is_learned_otherwise_is_no_dead_layer() -> None:
    def loss(m: nn.Linear, kept: bool) -> mx.array:
        q = m(X)[:, 0]
        far = mx.maximum(mx.abs(q) - 50.0, 0).mean()
        return far + (mx.mean(mx.square(q)) if kept else 0)

    for kept in (True, False):
        mx.random.seed(1)
        model = nn.Linear(3, 2)
        found = health(OpenSession(nnrepl.trace(loss, model, kept, wrt=model))).findings
        assert {one.level for one in found} == {"note" if kept else "warning"}, found


def test_rows_that_a_mask_has_emptied_are_no_labels_outside() -> None:
    labels = mx.array([0, 2, 1, 0])

    def loss(m: nn.Linear, padded: bool) -> mx.array:
        hot = (mx.where(mx.arange(4) < 3, labels, labels if padded else 7)[:, None] == mx.arange(3)).astype(mx.float32)
        table = hot * (mx.arange(4) < 3)[:, None] if padded else hot * 1.0
        return -mx.sum(table * nn.log_softmax(m(X))) / 3

    for padded in (True, False):
        model = nn.Linear(3, 3)
        found = health(OpenSession(nnrepl.trace(loss, model, padded, wrt=model))).findings
        assert [one.kind for one in found] == ([] if padded else ["no answer"])


def test_the_first_step_of_a_warm_up_is_no_idle_update() -> None:
    for rate, steps, level in ((0.0, 1, "warning"), (optim.linear_schedule(0.0, 0.1, 3), 1, "note"),
                               (optim.linear_schedule(0.05, 0.1, 3), 1, "")):  # fmt: skip
        model, optimizer = nn.Linear(3, 2), optim.SGD(rate)
        step = nn.value_and_grad(model, lambda m: mx.square(m(X)).mean())
        with nnrepl.recording() as tape:
            for _ in range(steps):
                optimizer.update(model, step(model)[1])
                mx.eval(model.parameters())
            step(model)
        found = [one for one in health(OpenSession(tape)).findings if one.kind == "idle update"]
        assert [one.level for one in found] == ([level] if level else []), (rate, found)


def _turned(steps: int) -> OpenSession:
    """Train quaternions that begin as (1, 0, 0, 0), by a loss that asks for products of their parts alone."""

    def loss(q: mx.array) -> mx.array:
        r, x, y, z = (q / mx.sqrt(mx.sum(q * q, -1, keepdims=True)))[:, :4].T
        rows = mx.stack([1 - 2 * (y * y + z * z), 2 * x * y, 2 * x * z, 2 * y * z], -1)
        return mx.mean(mx.square(rows - 0.5) * mx.exp(r)[:, None])

    def train() -> None:
        q = mx.zeros((5, 4)) + mx.array([1.0, 0.0, 0.0, 0.0])
        opt = optim.SGD(0.5)
        for _ in range(steps):
            params = {"q": q}
            q = opt.apply_gradients({"q": mx.grad(loss)(q)}, params)["q"]

    return OpenSession(nnrepl.trace(train))


def test_ways_that_one_cause_kills_are_one_finding() -> None:
    said = [one.text for one in health(_turned(1)).findings if one.kind == "zero gradient"]
    assert len([text for text in said if "q is 0 as it came in" in text]) == 1, said
    assert any("opposite and cancel" in text for text in said), said


def test_what_began_as_zeros_at_the_places_that_count_was_not_made_zero_by_an_update() -> None:
    session = _turned(3)
    session.goto("end")
    said = [one.text for one in health(session).findings]
    assert any("q is 0 as it came in at the 5 places" in text for text in said), said
    assert not any(" since " in text for text in said), said


@pytest.mark.parametrize(
    ("read", "is_used", "left"),
    [("h", True, True), ("", True, False), ("other", True, False), ("h, too late", True, False), ("", False, True)],
)
def test_few_numbers_have_left_mlx_only_where_they_were_read_in_between(read: str, is_used: bool, left: bool) -> None:
    """Or were made for nothing else: the same few numbers may come from anywhere."""
    w = mx.array([1.1, 2.2])
    known = mx.sin(w).tolist()

    def loss(w: mx.array) -> mx.array:
        h, other = mx.sin(w), mx.cos(w)
        if read in ("h", "other"):
            (h if read == "h" else other).tolist()
        out = (mx.array(known) * w).sum() + other.sum() + (h.sum() if is_used else 0.0)
        if read == "h, too late":
            h.tolist()
        return out

    session = OpenSession(nnrepl.trace(loss, w, wrt=0))
    found = [one.value.name for one in detours(Look(session), session.tape.passes[-1])]
    assert found == ["h"] * left


HALF = mx.array([[1.0, 0.0]] * 3)


def _heads(m: dict[str, mx.array], join: Change) -> mx.array:
    """Two heads, of which one counts, behind products in which both take part."""
    h = mx.stack([X[:3, :2] @ m["a"], X[:3, :2] @ m["b"]], axis=1)
    return join(mx.einsum("bmc,cd->bmd", h, m["up"]))


JOINED: list[Change] = [
    lambda z: (z.sum(-1) * HALF).sum(),
    lambda z: (mx.logsumexp(z, axis=-1) * HALF).sum(),
    lambda z: mx.take_along_axis(z.sum(-1), mx.zeros((3, 1), mx.int32), axis=1).sum(),
    lambda z: ((z + mx.zeros((4, 3, 2, 2))).mean((0, -1)) * HALF).sum(),
]


@pytest.mark.parametrize("join", JOINED)
def test_a_part_that_does_not_count_is_followed_through_sums_of_products_to_what_left_it_out(join: Change) -> None:
    """Of the sums of a product only those count from which the gradient was made: others may well cancel."""
    model = {name: mx.random.normal((2, 2), key=mx.random.key(at)) for at, name in enumerate(("a", "b", "up"))}
    session = OpenSession(nnrepl.trace(lambda m: _heads(m, join), model, wrt=0))
    line = f"test_dead_ways.py:{inspect.getsourcelines(join)[1]}"
    assert mx.all(mx.grad(lambda m: _heads(m, join))(model)["b"] == 0)
    answer = why(session, "grad(m.b) == 0")
    said = " ".join([answer.headline, *answer.reasons])
    assert line in said
    assert "einsum" not in said
    zero = [one.text for one in health(session).findings if one.kind == "zero gradient"]
    assert [line in text for text in zero] == [True], zero


def test_a_tensor_of_a_loop_is_told_by_its_op_and_what_is_proposed_asks_for_that_one() -> None:
    """A name that a loop gives anew is another turn's where the cursor stands."""

    def loss(w: mx.array) -> mx.array:
        h, turns = X @ w, []
        for _ in range(3):
            h = mx.sin(h)
            turns.append(h)
        return (mx.stack(turns) * mx.array([1.0, 1.0, 0.0])[:, None, None]).sum()

    session = OpenSession(nnrepl.trace(loss, mx.ones((3, 2)), wrt=0))
    (one,) = [one for one in health(session).findings if one.kind == "zero gradient"]
    last = [op for op in session.tape.ops if op.name == "sin" and op.pass_.wrt][2]
    assert one.text.startswith(f"∂L/∂h@{last.label[1:]} is 0")
    assert one.command == f"why grad({last.label}) == 0"
    for at, typed in ((0, last.label), (last.position - 1, last.label), (last.position + 1, "h")):
        session.cursor = at
        assert " is 0: it became 0 at " in str(session.run(one.command))
        assert f"explain {typed} shows" in " ".join(str(session.run(f"why {last.label}")).split())
