"""Each loss function of MLX backwards as a whole: its slopes are MLX's gradients, and the number shown is one of
them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.explain.composites import explain_call, find_call
from nnrepl.explain.explained import explain
from nnrepl.ops.evaluated import Worked
from nnrepl.ops.layers import LOSSES, Whole
from nnrepl.ops.pointwise import run_slope
from tests.corpus.layers import LOSSES as CALLED
from tests.corpus.layers import arguments_of
from tests.explain.school import mistakes
from tests.support import OpenSession

Loss = Callable[..., mx.array]


def called(name: str) -> tuple[Loss, dict[str, mx.array], dict[str, Any]]:
    """A loss function, the tensors that it is called with by name, and its options (none, if it is called plain)."""
    run = getattr(nn.losses, name.split()[0])
    mx.random.seed(3)
    given, options = arguments_of(name.removesuffix(" plain"))
    options = {} if name.endswith(" plain") else options
    names = list(inspect.signature(run).parameters)
    options.pop("reduction", None)
    return run, dict(zip(names, given)), options


def pairs() -> list[tuple[str, str]]:
    """Each call of the corpus with each of its arguments that a gradient can reach."""
    plain = [f"{name} plain" for name, (_, options) in CALLED.items() if options and " " not in name]
    return [(name, symbol) for name in (*CALLED, *plain) if name.split()[0] != "cross_entropy"
            for symbol, given in called(name)[1].items() if mx.issubdtype(given.dtype, mx.floating)]  # fmt: skip


def whole_of(name: str, options: dict[str, Any]) -> Whole:
    run = getattr(nn.losses, name.split()[0])
    known = {key: one.default for key, one in inspect.signature(run).parameters.items()}
    return LOSSES[name.split()[0]].called_with({**known, **options})


@pytest.mark.parametrize(("name", "symbol"), pairs())
def test_the_slope_of_a_loss_is_mlx_s_gradient(name: str, symbol: str) -> None:
    run, given, options = called(name)
    options.pop("weights", None)
    whole = whole_of(name, options)
    assert whole.row is not None
    y = run(**given, **options, reduction="none")
    g = mx.cos(mx.arange(y.size)).reshape(y.shape)
    own = mx.vjp(lambda one: run(**{**given, symbol: one}, **options, reduction="none"), [given[symbol]], [g])[1][0]
    known = {key: one.default for key, one in inspect.signature(run).parameters.items()}
    found = run_slope(whole.slopes[symbol], whole.row, g, y, {**known, **given, **options})
    assert mx.allclose(mx.broadcast_to(found, own.shape), own, 1e-4, 1e-5, equal_nan=True), (found, own)


@pytest.mark.parametrize(("name", "symbol"), pairs())
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_loss_is_told_backwards_with_numbers(name: str, symbol: str, reduction: str) -> None:
    run, given, options = called(name)

    def loss(one: mx.array) -> mx.array:
        return (run(**{**given, symbol: one}, **options, reduction=reduction) * 2).sum()

    if reduction == "none" and symbol == "targets":
        return
    session = OpenSession(nnrepl.trace(loss, given[symbol], wrt=0))
    own = mx.grad(loss)(given[symbol])
    call = find_call(session, name.split()[0])
    assert call is not None
    found = explain_call(session, call)
    told = next(one for one in found.as_a_whole if isinstance(one, Worked))
    at = told.index
    assert told.result == pytest.approx(own[at].item(), rel=1e-4, nan_ok=True)
    assert told.target.name == f"∂L/∂{call_name(told)}"
    assert mistakes([line for line in found.whole if " if " not in line])[0] == []
    if len(call.ops) > 1:
        asked = explain(session, f"grad({call_name(told)}) at {list(at)}")
        wanted = [re.sub(r"loss@\d+", "loss", line) for line in found.whole]
        assert asked.whole[1:] == wanted, "the gradient itself is told as the loss tells it"


def call_name(told: Worked) -> str:
    return told.target.name.removeprefix("∂L/∂")


def test_what_arrives_from_elsewhere_too_is_not_told_as_the_loss_s() -> None:
    target = mx.array([0.5, -1.0])
    session = OpenSession(nnrepl.trace(lambda z: nn.losses.mse_loss(z, target) + z.sum(), mx.array([1.0, 2.0]), wrt=0))
    call = find_call(session, "mse_loss")
    assert call is not None
    assert explain_call(session, call).whole == []
    assert explain(session, "grad(z)").whole == []
