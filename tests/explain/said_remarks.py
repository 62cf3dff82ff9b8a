"""Programs for what `explain` remarks: each kind of its sentences is so in one of them, and not in another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import nnrepl
from nnrepl.explain import composites, explained, remarks, unlisted
from nnrepl.explain.cases import Names
from nnrepl.explain.elements import unravel
from nnrepl.explain.explained import explain
from nnrepl.explain.look import Look
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import Op, Value, claims
from tests.support import OpenSession

W = mx.array([[0.5, -1.0, 2.0], [2.0, 0.25, 1.0], [-0.75, 1.5, 0.3]])
NAN, INF = float("nan"), float("inf")


def remarked(fn: Callable[..., mx.array], of: Any = W, wrt: Any = 0) -> Callable[[Path], str]:
    """Trace a function, and explain every op of it, and what goes in."""

    def program(folder: Path) -> str:
        session = OpenSession(nnrepl.trace(fn, *(of if isinstance(of, tuple) else (of,)), wrt=wrt))
        said: list[str] = []
        grads = [f"grad({leaf.name})" for leaf in session.tape.passes[0].wrt]
        for op in session.tape.ops:
            for asked in (op.label, *(one.name for one in op.inputs if one.op is None), *grads):
                try:
                    found = explain(session, asked)
                    said += [*found.notes, found.words, *found.chain]
                except UserError:
                    continue
        return " ".join(" ".join(said).replace("−", "-").split())

    return program


def attention(q: mx.array) -> mx.array:
    x = q[None, None]
    return mx.fast.scaled_dot_product_attention(x, x, x, scale=1.0).sum()


def losses(w: mx.array, y: mx.array) -> mx.array:
    return mx.mean(mx.square(w - y)) + mx.mean(mx.abs(w - y)) + mx.sum((w - y) ** 2)


def entropy(w: mx.array) -> mx.array:
    return nn.losses.cross_entropy(w, mx.array([0, 2, 1])).sum()


def stepped(rate: Any) -> Callable[[Path], str]:
    """A step by hand."""

    def program(folder: Path) -> str:
        with nnrepl.recording() as found:
            gradient = mx.grad(lambda w: mx.sin(w).sum())(W)
            mx.eval(W - rate * gradient)
        session = TapeSession(found.tape, found.names)
        return " ".join(explain(session, found.tape.ops[-1].label).notes).replace("−", "-")

    return program


def wholly(fn: Callable[..., mx.array], *asked: str, of: Any = W, at: str = "start") -> Callable[[Path], str]:
    """Trace a function, and explain some of its calls."""

    def program(folder: Path) -> str:
        session = OpenSession(nnrepl.trace(fn, of, wrt=0))
        session.run(f"goto {at}")
        found = [explain(session, one) for one in asked]
        said = " ".join(line for one in found for line in [one.words, *one.notes, *one.chain, *one.steps])
        return " ".join(said.replace("−", "-").split())

    return program


def helper(w: mx.array) -> mx.array:
    big = mx.concatenate([w, w]) @ mx.ones((3, 7))
    return mx.sin(big) * mx.cos(big)


def helped(w: mx.array) -> mx.array:
    return helper(w).sum() + mx.stop_gradient(mx.exp(w)).sum()


def cut(w: mx.array) -> mx.array:
    still = mx.stop_gradient(mx.exp(w))
    return (mx.tanh(still) + w * 0).sum()


@mx.custom_function
def own(w: mx.array) -> mx.array:
    return mx.sin(w)


@own.vjp
def _own(w: mx.array, g: mx.array, out: mx.array) -> mx.array:
    return g * mx.cos(w)


class Early:
    """A call that stands before what happened inside of it."""

    position = -1

    def __init__(self, op: Op) -> None:
        self._op, self.tape = op, op.tape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)

    def __eq__(self, other: object) -> bool:
        return other is self._op

    def __hash__(self) -> int:
        return hash(self._op)


def _wrong_calls(session: OpenSession) -> list[claims.Claim[str]]:
    """Return what would be said of a call of another tape, and of one that makes nothing."""
    other = OpenSession(nnrepl.trace(helped, W, wrt=0))
    call = composites.find_call(other, "helper")
    assert call is not None
    names = Names([], [])
    return [composites._further(session, call, names, []), composites._makes(call, [], [], names)]


def wrongly_remarked(folder: Path) -> str:
    """What would be said if a fault of nnrepl's had found what is not so: each check is run on it."""
    session = OpenSession(nnrepl.trace(lambda w: mx.softmax(w @ w, axis=-1).sum(), W, wrt=0))
    look, forward = Look(session), session.tape.passes[0].forward
    matmul, softmax = forward[0], forward[1]
    value: Value = matmul.outputs[0]
    tape = nnrepl.trace(lambda w: mx.vmap(lambda row: mx.sin(row).sum())(w).sum(), W, wrt=0).tape
    mapped = next(iter(tape.notes.calls))
    for wrong in (
        [remarks._shares(look, value, -1), remarks._reduced(value, value, None), remarks._comes_with(matmul, value)],
        list(remarks._stretched(value, value)),
        list(remarks._chosen(look, value, unravel(0, value.shape), "")),
        [claims.Claim("explain: samples", lambda: remarks._has_extent(value, 0, 7), str)],
        [remarks.used_by(session.tape, softmax.outputs[0].consumers[0].outputs[0])],
        [remarks.is_empty(value), remarks.several_ways(matmul, value), remarks.not_listed(matmul)],
        [composites._sizes(["1"]), *_wrong_calls(session)],
        [
            explained._flows_nowhere(session, value),
            explained._changes_with(look, session.tape.ops[-1].outputs[0], value),
        ],
        [*unlisted._of_inside(Early(mapped))],  # type: ignore[arg-type]
        [unlisted._of_nothing(matmul), *unlisted._of_function(matmul, softmax.outputs[0])],
    ):
        for claim in wrong:
            claims.proved(claim)
    return ""


REMARKS: list[Callable[[Path], str]] = [
    remarked(lambda w: (mx.softmax(w * mx.array([1.0, 2.0, 3.0]), axis=-1) @ w).sum()),
    remarked(lambda w: (mx.softmax(mx.where(W > 9, w, -INF), axis=-1)).sum()),
    remarked(lambda w: (mx.softmax(mx.where(W > 0, w, -3e38), axis=-1) @ w).sum()),
    remarked(lambda w: (mx.maximum(w, 0) * mx.transpose(w) * 0).sum()),
    remarked(lambda w: (mx.log(w) + mx.log(w * 0)).sum()),
    remarked(attention), remarked(attention, mx.ones((2, 3))),
    remarked(losses, (W, W.T)), remarked(entropy), stepped(0.1), stepped(-0.1), stepped(mx.abs(W)),
    remarked(lambda w, b: (mx.sin(w) * b).sum(), (W, W[0]), wrt=(0, 1)),
    remarked(lambda w: mx.vmap(lambda row: mx.sin(row).sum())(w).sum()),
    remarked(lambda w: own(w).sum()),
    remarked(lambda a, b: mx.sin(a @ b).sum(), (W, W.T), wrt=(0, 1)),
    wholly(helped, "helper"), wholly(helped, "#1", "loss"), wholly(cut, "loss"),
    remarked(lambda w: mx.sin(w[:0]).sum() + (mx.sin(w) * w).sum()),
    remarked(lambda w: mx.checkpoint(lambda x: mx.sin(x * 2))(w).sum()),
    remarked(lambda w: mx.custom_function(lambda x: mx.sin(x * 2))(w).sum()),
    remarked(lambda w: mx.fast.rms_norm(w, None, 1e-5), mx.ones((1, 50_000)), wrt=None),
    wrongly_remarked,
]  # fmt: skip
