"""why and health: the cause behind the op at which it shows: what made a tensor large, took its numbers out of MLX,
or made it 0 in an earlier step; each beside a program in which it is not so."""

from __future__ import annotations

import re
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

import nnrepl
from nnrepl.explain.answer import Cause
from nnrepl.explain.health import health
from nnrepl.explain.look import Look
from nnrepl.explain.sizes import attended
from nnrepl.explain.why import why
from nnrepl.session.session import TapeSession
from nnrepl.tape import GRADIENT_PASS
from tests.support import OpenSession

W = mx.array([[0.5, -1.0, 2.0], [2.0, 0.25, 1.0], [-0.75, 1.5, 0.3]])
X = mx.sin(mx.arange(12)).reshape(4, 3)
Fn = Callable[[mx.array], mx.array]


def ask(fn: Fn, question: str = "grad(w)", of: mx.array = W) -> Cause:
    return why(OpenSession(nnrepl.trace(fn, of, wrt=0)), question)


def text(answer: Cause) -> str:
    return " ".join([answer.headline, *answer.reasons, *answer.also, answer.advice])


def findings(fn: Fn) -> str:
    report = health(OpenSession(nnrepl.trace(fn, W, wrt=0)))
    return " | ".join(f"{one.kind}: {one.text}" for one in report.findings)


def recurrence(w: mx.array, factor: float) -> mx.array:
    h = mx.ones((2, 3))
    for _ in range(30):
        h = h @ (w * factor)
    return (h * h).mean()


LARGE: dict[str, tuple[Fn, Fn]] = {
    "a saturated tanh": (
        lambda w: mx.tanh((X @ w) * 1e6).sum(),
        lambda w: mx.tanh(X @ w).sum(),
    ),
    "a saturated softmax": (
        lambda w: (mx.softmax((X @ w) * 1e6, axis=-1) * X).sum(),
        lambda w: (mx.softmax(X @ w, axis=-1) * X).sum(),
    ),
    "a norm": (
        lambda w: (mx.fast.rms_norm((X @ w) * 1e12, None, 1e-5) * X).sum(),
        lambda w: (mx.fast.rms_norm(X @ w, None, 1e-5) * X).sum(),
    ),
    "an overflow": (
        lambda w: mx.square((X @ w) * 1e25).sum(),
        lambda w: mx.square(X @ w).sum(),
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_made_numbers_large_is_named(name: str) -> None:
    fault, sound = LARGE[name]
    answer = text(ask(fault, "nan" if name == "an overflow" else "grad(w) is tiny"))
    assert "times as large" in answer, answer
    assert " * 1" in answer.partition("in size: ")[2]
    assert "times as" not in text(ask(sound))


def test_an_op_that_is_flat_says_its_rule_and_a_norm_what_made_it_so() -> None:
    """So large that its square is infinite, a row has no slope in a norm; with two zeros a product has none."""
    flat = text(ask(lambda w: (mx.fast.rms_norm((X @ w) * 1e25, None, 1e-5) * X).sum()))
    assert "passes nothing on to #2, whatever comes in (its local factor is (came − stretch · unit) / r" in flat
    assert "makes it 1e+25 times as large" in flat
    zeros = text(ask(lambda w: mx.prod((X @ w) * mx.array([0.0, 0, 1]), axis=-1).sum()))
    assert re.search(r"passes nothing on to #\d, whatever comes in \(its local factor is Π other #\d\)\. ", zeros)
    assert "times as large" not in zeros


def test_numbers_that_grow_from_step_to_step_of_a_recurrence_are_said_to() -> None:
    answer = text(ask(lambda w: recurrence(w, 10.0), "nan"))
    assert "is passed 30 times" in answer or "is passed 29 times" in answer, answer
    assert "times as large" not in text(ask(lambda w: recurrence(w, 0.3)))


@pytest.mark.parametrize("samples", [2, 40])
def test_what_a_layer_of_a_library_takes_back_itself_makes_no_gradient_large(samples: int) -> None:
    """A batch norm of two samples divides by what is small and takes away nearly all of what then comes back: all in
    all it grew the gradient by nothing like what one of its ops did."""
    mx.random.seed(1)
    layers = [part for _ in range(6) for part in (nn.Linear(3, 3, bias=False), nn.BatchNorm(3), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(3, 1))
    x = mx.random.normal((samples, 3))
    session = OpenSession(nnrepl.trace(lambda model, x: 1e3 * (model(x) ** 2).sum(), model, x, wrt=model))
    answer = text(why(session, "grad(layers.0.weight) is huge"))
    how, over = re.findall(r"(grew|shrank) by a factor of (\S+) over", answer)[0]
    named = [float(number) for number in re.findall(r"grows it by a factor of (\S+) altogether", answer)]
    assert all(number <= 1000 * (float(over) if how == "grew" else 1.0) for number in named), answer


def test_small_values_are_named_where_they_shrink_a_gradient() -> None:
    def scores(w: mx.array, factor: float) -> mx.array:
        q, v = (X @ w)[None, None], (X * factor)[None, None]
        out = mx.fast.scaled_dot_product_attention(q, X[None, None], v, scale=1.0)
        return (out * mx.arange(3)).sum()

    answer = text(ask(lambda w: scores(w, 1e-9), "grad(w) is tiny"))
    assert "times as small" in answer, answer
    assert "times as small" not in text(ask(lambda w: scores(w, 1.0), "grad(w) is tiny"))


def test_what_leaves_mlx_and_comes_back_is_named() -> None:
    def away(w: mx.array) -> mx.array:
        h = mx.tanh(X @ w)
        return (mx.array(np.array(h)) * 2).sum() + w.sum() * 0

    def stays(w: mx.array) -> mx.array:
        h = mx.tanh(X @ w)
        return (h * mx.array(np.array([[1.0, 2.0, 3.0], [4, 5, 6], [7, 8, 9], [1, 2, 4]]))).sum()

    assert "cut gradient: #" in findings(away)
    assert "takes in as data the very numbers of h" in findings(away)
    assert "very numbers" not in findings(stays)
    alone = ask(lambda w: (mx.array(np.array(mx.tanh(X @ w))) * 2).sum())
    assert "through numpy" in text(alone)


@pytest.mark.parametrize("when", [0, 1, None])
def test_since_when_a_weight_is_0(when: int | None) -> None:
    """It is 0 from the start, or since the program multiplied it with 0 after the first step, or never."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    if when == 0:
        model.layers[1].weight = mx.zeros((1, 4))
    with nnrepl.recording() as recorded:
        step = nn.value_and_grad(model, lambda m: m(X).sum() + (0.0 if when else 1.0))
        for number in range(3):
            _, grads = step(model)
            grads["layers"][1]["weight"] = grads["layers"][1]["weight"] * (0.0 if when is not None else 1.0)
            optim.SGD(0.1).update(model, grads)
            if when == 1 and number == 0:
                model.layers[1].weight = model.layers[1].weight * 0
    session = TapeSession(recorded.tape, recorded.names)
    session.cursor = [pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS][-1].start
    said = text(why(session, "grad(layers.0.weight)"))
    assert ("is a parameter that is 0" in said) == (when == 0), said
    assert ("is 0 since" in said) == (when == 1), said
    if when == 1:
        assert "* 0 (test_causes.py:" in said


def test_why_of_a_sound_gradient_says_that_it_is() -> None:
    """A mean over many rows makes each element small; the other gradients are as small."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 40))
    targets = mx.zeros((64,), mx.int32)
    rows = mx.sin(mx.arange(192)).reshape(64, 3)
    trace = nnrepl.trace(lambda m: nn.losses.cross_entropy(m(rows), targets, reduction="mean") * 1e-3, model, wrt=model)
    for path in ("layers.0.weight", "layers.2.bias"):
        answer = why(OpenSession(trace), f"grad({path})")
        assert answer.headline.startswith("Nothing is wrong"), answer.headline
        assert not answer.advice


def test_what_rounding_leaves_of_a_sum_is_said_to_be_that() -> None:
    def shifted(w: mx.array) -> mx.array:
        y = mx.sin(mx.arange(150)).reshape(50, 3) + w[0]
        return ((y - y.mean(axis=0, keepdims=True)) ** 3).sum()

    assert "is rounding" in ask(shifted, "grad(w) is tiny").headline
    assert "is rounding" not in ask(lambda w: (w**3).sum() * 1e-8, "grad(w) is tiny").headline


def test_an_infinity_behind_a_nan_is_told_by_health_too() -> None:
    said = findings(lambda w: (X @ (w + mx.inf)).sum())
    assert "makes NaN out of infinite ones; the ∞ came in so:" in said
    assert "w + ∞ (test_causes.py:" in said


@pytest.mark.parametrize("left", [0.0, 1e-4])
def test_a_sum_that_cancels_and_leaves_something_is_not_called_rounding(left: float) -> None:
    signs = mx.where(mx.arange(50) % 2 == 0, 1.0, -1.0)[:, None] * mx.sin(mx.arange(3) + 1) + left

    def loss(w: mx.array) -> mx.array:
        return ((mx.zeros((50, 3)) + w[0]) * signs).sum()

    answer = ask(loss, "grad(w) is tiny") if left else ask(loss)
    assert "cancel" in text(answer)
    assert "is rounding" not in text(answer)


@pytest.mark.parametrize("on_purpose", [True, False])
def test_a_row_of_minus_infinity_is_a_mask_only_where_somebody_made_it_as_one(on_purpose: bool) -> None:
    def scores(w: mx.array) -> mx.array:
        low = mx.where(w > 100, w, -mx.inf) if on_purpose else (-mx.abs(w) - 1) / (w - w)
        return mx.softmax(low, axis=-1).sum()

    headline = ask(scores, "nan").headline
    assert ("softmax(" in headline) == on_purpose, headline
    assert ("/" in headline.partition("makes")[0]) != on_purpose, headline


@pytest.mark.parametrize(("factor", "small"), [(1e-7, True), (1e-3, False)])
def test_a_gradient_is_small_beside_the_others_too(factor: float, small: bool) -> None:
    """It is large enough for its own weight, which is small, and far below the gradient of the other one."""
    weights = {"a": W, "b": W * 1e-4}
    trace = nnrepl.trace(lambda p: p["a"].sum() + p["b"].sum() * factor, weights, wrt=0)
    kinds = [one.kind for one in health(OpenSession(trace)).findings]
    assert ("vanishing gradients" in kinds) == small


def test_rows_that_have_become_the_same_are_followed_to_the_op_that_made_them_so() -> None:
    x = mx.sin(mx.arange(12)).reshape(4, 3)

    def centred(w: mx.array, far: float) -> mx.array:
        h = mx.clip(x * w, far, 1e9)
        return (h - h.mean(axis=0)).square().sum()

    answer = text(ask(lambda w: centred(w, 1e6), "grad(w)", mx.ones((3,))))
    assert "All 4 rows are the same since h = clip(" in answer, answer
    same = text(ask(lambda w: (x * w - x * w).square().sum(), "grad(w)", mx.ones((3,))))
    assert "gives 0 everywhere" in same
    assert "rows are the same" not in same
    one = text(ask(lambda w: (lambda h: (h - h.mean(axis=0)).square().sum())(x[:1] * w), "grad(w)", mx.ones((3,))))
    assert "rows are the same" not in one


def test_zeros_are_followed_to_where_they_began_through_a_stopped_gradient() -> None:
    """What is held fixed for the loss, a teacher's answer, may have become 0 long before."""
    answer = text(ask(lambda w: (X @ w * mx.stop_gradient(mx.sin(X @ w) * 0 / 3)).sum()))
    assert " * 0 gives 0 everywhere" in answer, answer
    assert "stop_gradient(" not in answer


@pytest.mark.parametrize("near", [2, 0])
def test_an_infinity_that_becomes_a_whole_number_is_told_unless_none_is_taken(near: int) -> None:
    """The buckets of relative positions take ln 0 for position 0, and leave it out."""
    far = mx.arange(6)

    def loss(w: mx.array) -> mx.array:
        buckets = mx.minimum((mx.log(far.astype(mx.float32)) * 3).astype(mx.int16), 7)
        return w[mx.where(far < near, far, mx.maximum(buckets, 0))].square().sum()

    report = health(OpenSession(nnrepl.trace(loss, mx.ones((8, 2)), wrt=0)))
    assert ["non-finite" for one in report.findings if "log(" in one.text] == ([] if near else ["non-finite"])


def test_an_attention_to_equal_values_says_that_the_shares_make_no_difference() -> None:
    x = mx.sin(mx.arange(24)).reshape(1, 1, 6, 4)

    def loss(w: mx.array, values: mx.array, at: int) -> mx.array:
        asked = [x, x * 0.5]
        asked[at] = asked[at] * w
        out = mx.fast.scaled_dot_product_attention(*asked, values, scale=0.5)
        return (out * x * x).sum()

    for at in (0, 1):
        said = text(ask(lambda w: loss(w, mx.full(x.shape, 0.3), at), "grad(w) is tiny", mx.ones((4,))))  # noqa: B023
        assert "cancel" in said, said
        assert "is the same at every position" in said
        other = text(ask(lambda w: loss(w, x, at), "grad(w) is tiny", mx.ones((4,))))  # noqa: B023
        assert "cancel" not in other, other
        assert "every position" not in other


def test_the_shares_of_an_attention_of_one_tensor_to_itself_are_its_own() -> None:
    """Queries, keys and values are one tensor: the shares are still those of queries and keys."""
    x = mx.sin(mx.arange(20)).reshape(1, 1, 5, 4)
    session = OpenSession(nnrepl.trace(lambda w: (lambda h: mx.fast.scaled_dot_product_attention(h, h, h, scale=0.5))
                                          (x * w).sum(), mx.ones((4,)), wrt=0))  # fmt: skip
    op = next(op for op in session.tape.ops if op.name.startswith("fast."))
    shares = attended(Look(session), op)
    assert shares is not None
    assert mx.allclose(shares, mx.softmax(0.5 * x @ x.swapaxes(-1, -2), axis=-1), atol=1e-6)


def test_zeros_that_the_program_makes_are_a_note_while_others_learn() -> None:
    def loss(w: mx.array, v: mx.array, factor: mx.array) -> mx.array:
        return ((W @ w) * factor + W @ v).square().sum()

    for factor, level in ((mx.zeros, "note"), (mx.ones, "")):
        found = health(OpenSession(nnrepl.trace(lambda w, v: loss(w, v, factor((3, 3))), W, W, wrt=[0, 1]))).findings  # noqa: B023
        levels = [one.level for one in found if one.kind == "zero gradient"]
        assert levels == ([level] if level else []), found


class Low(nn.Module):
    """A layer with a correction of low rank, as LoRA has it."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.a, self.b = W, mx.full((3, 3), start)
        self.last = nn.Linear(3, 3)

    def __call__(self, x: mx.array) -> mx.array:
        return self.last(x) * 100 + x @ self.a @ self.b


def low(start: float, rate: float) -> list[TapeSession]:
    """Two steps of it, each with the cursor in its gradient pass."""
    model, optimizer = Low(start), optim.SGD(rate)
    with nnrepl.recording() as recorded:
        for _ in range(2):
            _, grads = nn.value_and_grad(model, lambda: (model(X) - 1).square().mean())()
            optimizer.update(model, grads)
            mx.eval(model.parameters())
    found = []
    for pass_ in recorded.tape.passes:
        if pass_.kind == GRADIENT_PASS:
            found.append(TapeSession(recorded.tape, recorded.names))
            found[-1].cursor = pass_.start
    return found


def test_what_stands_behind_a_weight_that_begins_at_0_is_no_fault() -> None:
    first, second = low(0.0, 1e-9)
    assert "Of 8 gradients ∂L/∂a is 0, which health does not take for a fault" in why(first, "").headline
    said = text(why(first, "grad(a)"))
    assert "b is a parameter that is 0" in said
    assert "an update that follows it can make b something else than 0" in said
    for session in (first, second):
        assert [one.kind for one in health(session).warnings if "gradient" in one.kind and "huge" not in one.kind] == []


def test_what_stands_behind_a_weight_that_is_tiny_for_another_reason_is_told() -> None:
    session = low(1e-9, 1e-9)[1]
    assert "vanishing gradients" in [one.kind for one in health(session).warnings]


def test_zeros_that_stay_are_told_by_why_alone() -> None:
    answer = why(OpenSession(nnrepl.trace(lambda w: ((w * 0) ** 2).sum() + w[0, 0] * 0, W, wrt=0)), "")
    assert "is 0" in answer.headline
