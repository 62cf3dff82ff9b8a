"""health: how a loss is put together: shapes that only happen to fit, terms left out, logarithms that are none, weights
under hidden names, passes of two functions with one name; each beside the same program without the fault."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.explain.health import health
from nnrepl.explain.paths import same_function
from nnrepl.session.session import TapeSession
from nnrepl.tape import GRADIENT_PASS
from tests.explain.test_findings import refute
from tests.support import OpenSession

X = mx.sin(mx.arange(18)).reshape(6, 3)
Y = mx.cos(mx.arange(12))
CUBE = mx.sin(mx.arange(125)).reshape(5, 5, 5)
CLASSES = mx.array([0, 1, 2, 3, 1, 2])
LOGS = nn.log_softmax(mx.sin(mx.arange(24)).reshape(6, 4), axis=-1)
Loss = Callable[[nn.Module], mx.array]


class Hidden(nn.Module):
    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.under = "_weight" if hidden else "weight"
        self[self.under] = mx.sin(mx.arange(12)).reshape(3, 4)
        self._frequencies = mx.arange(4)
        self.bias = mx.zeros((4,))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self[self.under] + self.bias * self._frequencies


class Inner(nn.Module):
    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.under = "_inner" if hidden else "inner"
        self[self.under] = nn.Linear(3, 4)
        self.bias = mx.zeros((4,))

    def __call__(self, x: mx.array) -> mx.array:
        return self[self.under](x) + self.bias


def kinds(loss: Loss, model: nn.Module) -> list[str]:
    session = OpenSession(nnrepl.trace(loss, model, wrt=model))
    found = [one.kind for one in health(session).findings]
    refute(session)
    return found


def with_term(model: nn.Module, added: bool) -> mx.array:
    out = model(X)
    loss = nn.losses.cross_entropy(out, CLASSES, reduction="mean")
    penalty = model.weight.square().sum() * 0.1
    accuracy = (mx.argmax(out, axis=-1) == CLASSES).mean()  # for the log: no gradient passes
    del accuracy
    return loss + penalty if added else loss


class Cube(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = CUBE


PAIRS: dict[str, tuple[str, nn.Module, Loss, nn.Module, Loss]] = {
    "targets flattened": (
        "silent broadcasting",
        nn.Linear(3, 1), lambda m: ((m(X) - Y[:6].reshape(-1)) ** 2).mean(),
        nn.Linear(3, 1), lambda m: ((m(X) - Y[:6].reshape(-1, 1)) ** 2).mean(),
    ),
    "a piece of the targets": (
        "silent broadcasting",
        nn.Linear(3, 1), lambda m: ((m(X) - Y[2:8]) ** 2).mean(),
        nn.Linear(3, 1), lambda m: ((m(X)[:, 0] - Y[2:8]) ** 2).mean(),
    ),
    "pairs on purpose": (
        "silent broadcasting",
        nn.Linear(3, 1), lambda m: ((m(X) - m(X).squeeze(-1)) ** 2).mean(),
        nn.Linear(3, 1), lambda m: ((m(X)[:, 0][:, None] - m(X)[:, 0]) ** 2).mean(),
    ),
    "a mean over the middle axis": (
        "silent broadcasting",
        Cube(), lambda m: ((m.weight - m.weight.mean(1)) ** 2).sum(),
        Cube(), lambda m: ((m.weight - m.weight.mean(1, keepdims=True)) ** 2).sum(),
    ),
    "a root of a variance": (
        "silent broadcasting",
        Cube(), lambda m: (m.weight / mx.sqrt(m.weight.var(axis=-1) + 1e-5)).sum(),
        Cube(), lambda m: (m.weight / mx.sqrt(m.weight.var(axis=0) + 1e-5)).sum(),
    ),
    "a term": (
        "term left out",
        nn.Linear(3, 4), lambda m: with_term(m, False),
        nn.Linear(3, 4), lambda m: with_term(m, True),
    ),
    "shares as logarithms": (
        "no logarithms",
        nn.Linear(3, 4), lambda m: nn.losses.nll_loss(mx.softmax(m(X), axis=-1), CLASSES, reduction="mean"),
        nn.Linear(3, 4), lambda m: nn.losses.nll_loss(nn.log_softmax(m(X), axis=-1), CLASSES, reduction="mean"),
    ),
    "logits as logarithms": (
        "no logarithms",
        nn.Linear(3, 4), lambda m: nn.losses.nll_loss(m(X), CLASSES, reduction="mean"),
        nn.Linear(3, 4), lambda m: nn.losses.cross_entropy(m(X), CLASSES, reduction="mean"),
    ),
    "shares in a divergence": (
        "no logarithms",
        nn.Linear(3, 4), lambda m: nn.losses.kl_div_loss(mx.softmax(m(X), axis=-1), LOGS, reduction="mean"),
        nn.Linear(3, 4), lambda m: nn.losses.kl_div_loss(nn.log_softmax(m(X), axis=-1), LOGS, reduction="mean"),
    ),
    "a column of probabilities": (
        "double sigmoid",
        nn.Linear(3, 1), lambda m: nn.losses.binary_cross_entropy(mx.sigmoid(m(X))[:, 0], CLASSES % 2),
        nn.Linear(3, 1), lambda m: nn.losses.binary_cross_entropy(m(X)[:, 0], CLASSES % 2),
    ),
    "a weight with an underscore": (
        "hidden weights",
        Hidden(True), lambda m: m(X).square().mean(),
        Hidden(False), lambda m: m(X).square().mean(),
    ),
    "a layer with an underscore": (
        "hidden weights",
        Inner(True), lambda m: m(X).square().mean(),
        Inner(False), lambda m: m(X).square().mean(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_found_and_its_twin_is_sound(name: str) -> None:
    kind, faulty, wrong, sound, right = PAIRS[name]
    assert kind in kinds(wrong, faulty)
    assert kind not in kinds(right, sound)


def test_a_term_that_is_given_back_or_printed_is_not_left_out() -> None:
    model = nn.Linear(3, 4)

    def loss(m: nn.Module, extra: str) -> tuple[mx.array, dict[str, mx.array]]:
        out = m(X)
        norm = mx.sqrt(m.weight.square().sum())
        if extra == "printed":
            print(norm.item())
        return out.square().mean(), {"norm": norm} if extra == "given back" else {}

    for extra in ("given back", "printed", "left out"):
        with nnrepl.recording() as recorded:
            nn.value_and_grad(model, loss)(model, extra)
        session = TapeSession(recorded.tape, recorded.names)
        session.cursor = next(pass_.start for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS)
        found = [one.kind for one in health(session).findings if one.kind == "term left out"]
        assert found == (["term left out"] if extra == "left out" else [])


def test_passes_of_two_functions_with_one_name_are_two_series() -> None:
    """The two losses of a GAN are both called <lambda>, and one loss is taken of two models."""
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    optimizer = optim.SGD(0.1)
    with nnrepl.recording() as recorded:
        for _ in range(2):
            nn.value_and_grad(first, lambda m: m(X).mean())(first)
            _, grads = nn.value_and_grad(first, lambda m: m(X).square().mean())(first)
            optimizer.update(first, grads)
            for model in (first, second):
                nn.value_and_grad(model, lambda m: m(X).sum())(model)
    session = TapeSession(recorded.tape, recorded.names)
    passes = [pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS]
    for at in range(4):
        assert same_function(session, passes[at]) == [passes[at], passes[at + 4]]
