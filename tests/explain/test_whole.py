"""explain: cross-entropy as a whole, names that do not stand for two values; why: rules that products, means of nothing
and angles break; each number computed again, each beside a program in which it is not said."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.explain.composites import explain_call, find_call
from nnrepl.explain.explained import explain
from nnrepl.explain.why import why
from nnrepl.timeline.compare import distances
from tests.explain.school import mistakes
from tests.support import OpenSession

X = mx.array([[0.2, -1.0, 0.5], [1.0, 0.3, -0.4]])
W = mx.array([[0.5, -1.0, 2.0], [1.0, 0.25, 1.0], [-0.75, 0.5, 0.3]])
TARGETS = mx.array([2, 0])


def session(fn: Callable[[mx.array], mx.array], w: mx.array = W) -> OpenSession:
    return OpenSession(nnrepl.trace(fn, w, wrt=0))


def entropy(w: mx.array, **options: float) -> mx.array:
    logits = X @ w
    return nn.losses.cross_entropy(logits, TARGETS, reduction="mean", **options)


def numbers(text: str) -> list[float]:
    return [float(found.replace("−", "-")) for found in re.findall(r"−?\d+\.?\d*(?:e[−-]\d+)?", text)]


@pytest.mark.parametrize("place", ["[0, 0]", "[0, 2]", "[1, 0]", "[1, 1]"])
def test_the_gradient_of_logits_is_told_as_a_whole(place: str) -> None:
    found = explain(session(entropy), f"grad(logits) at {place}")
    row, column = (int(digit) for digit in re.findall(r"\d", place))
    shares = mx.softmax((X @ W)[row], axis=-1).tolist()
    assert numbers(found.whole[1].partition("= [")[2]) == pytest.approx(shares, rel=1e-3)
    expected = (shares[column] - (column == TARGETS.tolist()[row])) / 2
    assert numbers(found.whole[-1])[-1] == pytest.approx(expected, rel=1e-3)
    assert ("is not the right answer" in found.whole[2]) == (column != TARGETS.tolist()[row])
    product, factor = found.whole[4].removeprefix("= ").split(" · ")
    share, *less = numbers(product)
    assert (share - sum(less)) * numbers(factor)[0] == pytest.approx(expected, rel=1e-3)


def test_another_loss_is_not_told_as_cross_entropy() -> None:
    def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
        return (mx.logsumexp(logits, axis=-1) - logits[mx.arange(2), targets]).mean()

    assert explain(session(lambda w: cross_entropy(X @ w, TARGETS)), "grad(w)").whole == []
    assert explain(session(lambda w: (X @ w).sum()), "grad(w)").whole == []


SHARES = mx.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
ENTROPIES: dict[str, tuple[Callable[[mx.array], mx.array], mx.array]] = {
    "places": (lambda z: nn.losses.cross_entropy(z, TARGETS, reduction="sum"), mx.eye(3)[TARGETS]),
    "shares": (lambda z: nn.losses.cross_entropy(z, SHARES, reduction="mean"), SHARES),
    "smoothed": (lambda z: nn.losses.cross_entropy(z, TARGETS, label_smoothing=0.2, reduction="sum"),
                 0.8 * mx.eye(3)[TARGETS] + 0.2 / 3),
    "smoothed shares": (lambda z: nn.losses.cross_entropy(z, SHARES, label_smoothing=0.2).sum(),
                        0.8 * SHARES + 0.2 / 3),
    "weighted": (lambda z: nn.losses.cross_entropy(z, TARGETS, weights=mx.array([2.0, 0.5])).sum(),
                 mx.eye(3)[TARGETS]),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTROPIES)
def test_every_kind_of_cross_entropy_is_worked_out_in_both_directions(name: str) -> None:
    fn, wanted = ENTROPIES[name]
    logits = X @ W
    made = session(lambda z: fn(z), logits)
    call = find_call(made, "cross_entropy")
    assert call is not None
    found = explain_call(made, call)
    losses = -(wanted * mx.log(mx.softmax(logits, axis=-1))).sum(axis=-1)
    line = next(told for one in found.worked if "= −" in (told := one.lines())[0] and "ln(" in told[0])
    assert numbers(line[-1])[-1] == pytest.approx(mx.max(losses).item(), rel=1e-3)
    row = int(mx.argmax(losses).item())
    own = mx.grad(fn)(logits)[row].tolist()
    assert any(numbers(found.whole[-1])[-1] == pytest.approx(one, rel=1e-3) for one in own)
    assert mistakes(found.lines)[0] == mistakes(found.whole)[0] == []
    assert explain(made, "grad(z) at [1, 2]").whole[-1].startswith("= ")


def test_shares_that_do_not_add_up_to_1_are_not_told_as_surprise() -> None:
    """There ln Σ exp counts once, and −Σ targets · ln(shares) is another number."""
    made = session(lambda z: nn.losses.cross_entropy(z, SHARES * 2).sum(), X @ W)
    call = find_call(made, "cross_entropy")
    assert call is not None
    found = explain_call(made, call)
    assert (found.lines, found.whole) == ([], [])


def test_cross_entropy_along_another_axis() -> None:
    made = session(lambda z: nn.losses.cross_entropy(z, mx.array([2, 0, 1]), axis=0).sum(), W)
    call = find_call(made, "cross_entropy")
    assert call is not None
    found = explain_call(made, call)
    shares = mx.softmax(W, axis=0)
    losses = [-math.log(shares[at, column].item()) for column, at in enumerate((2, 0, 1))]
    assert numbers(found.lines[4])[-1] == pytest.approx(max(losses), rel=1e-3)


def test_the_loss_of_a_row_is_minus_the_logarithm_of_its_share() -> None:
    made = session(entropy)
    call = find_call(made, "cross_entropy")
    assert call is not None
    lines = explain_call(made, call).lines
    loss = -math.log(mx.softmax((X @ W)[1]).tolist()[0])
    assert numbers(lines[4].partition("−ln(0")[2].partition("= ")[2])[0] == pytest.approx(loss, rel=1e-3)
    assert numbers(lines[-1])[-1] == pytest.approx(entropy(W).item(), rel=1e-3)


def test_a_name_of_a_formula_that_a_tensor_has_too_is_told_apart() -> None:
    def norm(w: mx.array) -> mx.array:
        s = X @ w
        return (mx.fast.layer_norm(s, None, None, 1e-5) * X).sum()

    def shares(w: mx.array) -> mx.array:
        m = X @ w
        return (mx.softmax(m, axis=-1) * X).sum()

    for fn, name in ((norm, "s"), (shares, "m")):
        for what in (f"grad({name})", "#2"):
            found = explain(session(fn), what)
            assert f"{name}′ = " in " ".join([*found.rule, *found.lines])
            told = [line for line in found.lines if line.startswith(f"{name} = ")]
            assert told == []
    assert "′" not in " ".join(explain(session(lambda w: (mx.softmax(X @ w, axis=-1) * X).sum()), "#2").rule)


BROKEN: dict[str, tuple[Callable[[mx.array], mx.array], str, Callable[[mx.array], mx.array]]] = {
    "a mean of nothing": (lambda w: mx.mean(w[:0]) + w.sum(), "is empty", lambda w: mx.mean(w[:1]) * mx.nan),
    "an angle": (
        lambda w: mx.arctan2(w - w, w - w).sum() + w.sum(), "under no angle",
        lambda w: (mx.arctan2(w - w, w - w + 1) * mx.nan).sum(),
    ),
    "a convolution": (
        lambda w: mx.conv2d(mx.ones((1, 5, 5, 1)) * 1e30, w.reshape(1, 3, 3, 1) * 1e30).sum(), "in float64 it would be",
        lambda w: (mx.conv2d(mx.ones((1, 5, 5, 1)), w.reshape(1, 3, 3, 1)) * mx.nan).sum(),
    ),
    "scores": (
        lambda w: mx.fast.scaled_dot_product_attention(
            w[None, None] * 1e25, w[None, None] * 1e25, w[None, None], scale=1.0).sum(), "The scores overflow float32",
        lambda w: (mx.fast.scaled_dot_product_attention(
            w[None, None], w[None, None], w[None, None], scale=1.0) * mx.nan).sum(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_the_rule_that_was_broken_is_named_and_only_that(name: str) -> None:
    fault, said, other = BROKEN[name]
    assert said in " ".join(why(session(fault), "nan").reasons)
    answer = why(session(other), "nan")
    assert said not in " ".join(answer.reasons), answer.reasons


def test_distances_are_those_of_each_pair_whatever_is_compared_beside_it() -> None:
    pairs = [(mx.sin(mx.arange(n) + 0.0), mx.sin(mx.arange(n) + k * 1e-3)) for n in (1, 5, 7, 5) for k in (0, 1, 2)]
    pairs += [(mx.array([1.0, mx.nan]), mx.array([1.0, mx.nan])), (mx.array([1.0, mx.nan]), mx.array([1.0, 2.0]))]
    pairs += [(mx.array([1 + 2j]), mx.array([1 + 3j])), (mx.array([1, 2]), mx.array([1, 5]))]
    for (a, b), one in zip(pairs, distances(pairs)):
        (alone,) = distances([(a, b)])
        assert alone == one
        apart = [abs(x - y) if x == x or y == y else 0.0 for x, y in zip(a.tolist(), b.tolist())]
        apart = [math.inf if far != far else far for far in apart]
        assert one.absolute == pytest.approx(max(apart))
        assert one.same == (max(apart) == 0)
        assert one.index == (apart.index(max(apart)),)
