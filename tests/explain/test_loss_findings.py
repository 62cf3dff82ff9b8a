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
EIGHT = mx.sin(mx.arange(64)).reshape(8, 8)
SIDES = mx.array([0, 1, 2, 3, 4, 5, 6, 7])
SENTENCES = mx.sin(mx.arange(48)).reshape(2, 3, 8)
Loss = Callable[[nn.Module], mx.array]


class Hidden(nn.Module):
    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.under = "_weight" if hidden else "weight"
        self[self.under] = mx.sin(mx.arange(12)).reshape(3, 4)
        self._frequencies = self.positions = mx.arange(4.0)
        self.bias = mx.zeros((4,))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self[self.under] + self.bias * self._frequencies


def attended(layer: nn.Module, splits: bool = True, joins: bool = True, count: int = 2) -> mx.array:
    """Heads over 3 positions, split and joined with the transpose that belongs to it, or without; one needs none."""
    out, size = layer(SENTENCES), 8 // count
    heads = out.reshape(2, 3, count, size).transpose(0, 2, 1, 3) if splits else out.reshape(2, count, 3, size)
    shares = mx.softmax(heads @ heads.transpose(0, 1, 3, 2), axis=-1)
    mixed = shares @ heads
    return (mixed.transpose(0, 2, 1, 3) if joins else mixed).reshape(2, 3, 8).square().mean()


def with_parts(model: nn.Module) -> mx.array:
    """Heads over 3 positions, split from a part of what one layer makes."""
    query, _ = mx.split(model(SENTENCES), 2, axis=-1)
    return attended(lambda _: query, splits=False)  # type: ignore[arg-type]


def penalty(weight: mx.array) -> mx.array:
    return weight.square().sum() * 0.1


def with_penalties(model: nn.Module) -> mx.array:
    """The same function is called for two terms, of which one is forgotten."""
    first, _second = penalty(model.weight), penalty(model.bias)
    return model(X).square().mean() + first


def filtered(model: nn.Module) -> mx.array:
    """What a filter carries from turn to turn is used by nothing after the last."""
    error = mx.array(0.0)
    level = mx.array(0.1)
    for at in range(3):
        error = error + (model(X)[at, 0] - level).square()
        level = level + 0.5 * (model.weight.sum() - level)
    return error


def likelihood(model: nn.Module, table: bool = False) -> mx.array:
    logp = nn.log_softmax(model(X), axis=-1)
    if table:
        return (mx.eye(4)[CLASSES] * logp).sum(axis=-1).mean()
    return mx.take_along_axis(logp, CLASSES[:, None], axis=-1).mean()


def gaussian(model: nn.Module) -> mx.array:
    """Return the mean logarithm of a density, without what does not depend on the model."""
    out = model(X)
    z = (Y[:6] - out[:, 0]) / mx.exp(out[:, 1])
    return (-0.5 * z**2 - out[:, 1]).mean()


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
    "one of two terms of a function": (
        "term left out",
        nn.Linear(3, 4), with_penalties,
        nn.Linear(3, 4), filtered,
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
    "logits transposed": (
        "softmax axis",
        nn.Linear(8, 8), lambda m: nn.losses.cross_entropy(m(EIGHT).T, SIDES, reduction="mean"),
        nn.Linear(8, 8), lambda m: nn.losses.cross_entropy(m(EIGHT.T), SIDES, reduction="mean"),
    ),
    "logits held against each other": (
        "softmax axis",
        nn.Linear(8, 8), lambda m: nn.losses.cross_entropy(m(EIGHT).swapaxes(0, 1) * 2, SIDES, reduction="mean"),
        nn.Linear(8, 8), lambda m: nn.losses.cross_entropy((m(EIGHT) @ m(EIGHT).T).T, SIDES, reduction="mean"),
    ),
    "heads joined": (
        "mixed positions",
        nn.Linear(8, 8), lambda m: attended(m, joins=False),
        nn.Linear(8, 8), lambda m: attended(m, joins=False, count=1),
    ),
    "heads split": (
        "mixed positions",
        nn.Linear(8, 8), lambda m: attended(m, splits=False),
        nn.Linear(8, 8), attended,
    ),
    "heads split from a part": (
        "mixed positions",
        nn.Linear(8, 16), with_parts,
        nn.Linear(8, 16), lambda m: attended(lambda x: mx.split(m(x), 2, axis=-1)[0]),  # type: ignore[arg-type]
    ),
    "a likelihood that is minimized": (
        "away from targets",
        nn.Linear(3, 4), likelihood,
        nn.Linear(3, 4), lambda m: -likelihood(m),
    ),
    "the same by a table": (
        "away from targets",
        nn.Linear(3, 4), lambda m: likelihood(m, table=True),
        nn.Linear(3, 4), lambda m: -likelihood(m, table=True),
    ),
    "a density that is minimized": (
        "away from targets",
        nn.Linear(3, 2), gaussian,
        nn.Linear(3, 2), lambda m: -gaussian(m),
    ),
    "a cross-entropy that is maximized": (
        "away from targets",
        nn.Linear(3, 1), lambda m: -nn.losses.binary_cross_entropy(m(X)[:, 0], CLASSES % 2),
        nn.Linear(3, 1), lambda m: nn.losses.binary_cross_entropy(m(X)[:, 0], CLASSES % 2),
    ),
    "rewards of both signs": (
        "away from targets",
        nn.Linear(3, 4), lambda m: (m(X) - Y[:, None][:6]).abs().sum() * -1,
        nn.Linear(3, 4), lambda m: (
            mx.take_along_axis(nn.log_softmax(m(X), axis=-1), CLASSES[:, None], axis=-1)[:, 0] * Y[:6]).mean(),
    ),
    "each prediction with each target": (
        "each with each",
        nn.Linear(3, 1), lambda m: (m(X)[:, 0][:, None] - Y[:6]).square().mean(),
        nn.Linear(3, 1), lambda m: (m(X)[:, 0][:, None] - Y[:6]).square().min(axis=1).mean(),
    ),
    "the density of a flow that is minimized": (
        "away from targets",
        nn.Linear(3, 2), lambda m: (-0.5 * (m(X).square() + 1.8)).sum(axis=-1).mean(),
        nn.Linear(3, 2), lambda m: -(-0.5 * (m(X).square() + 1.8)).sum(axis=-1).mean(),
    ),
    "a deviation that is to grow": (
        "away from targets",
        nn.Linear(3, 2), lambda m: -m(X).square().mean(),
        nn.Linear(3, 2), lambda m: -mx.sqrt(m(X).square().mean()),
    ),
    "an input that is to be given back": (
        "away from targets",
        nn.Linear(3, 3), lambda m: -(m(X[:2]) - X[:2]).square().mean(),
        nn.Linear(3, 3), lambda m: -((out := m(X[:2])) - mx.stop_gradient(out.mean(axis=0))).square().mean(),
    ),
    "shares of one": (
        "softmax axis",
        nn.Linear(3, 1), lambda m: (mx.softmax(m(X), axis=-1) * Y[:6, None]).sum(),
        nn.Linear(3, 2), lambda m: (mx.softmax(m(X), axis=-1) * Y[:6, None]).sum(),
    ),
    "positions that are trained": (
        "trained table",
        Hidden(False), lambda m: (m(X) + m.positions).square().mean(),
        Hidden(False), lambda m: (m(X) + m._frequencies).square().mean(),
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
