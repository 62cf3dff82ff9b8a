"""Asking: questions over a whole pass, by its length."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import mlx.core as mx

import nnrepl
from tests.bench.figures import Figure, figure, law
from tests.bench.tapes import Recurrent
from tests.bench.timing import cpu
from tests.support import OpenSession

_AN_OP = 60.0
"""µs an op, the budget."""
_OPS_A_MOMENT = 17
"""Ops that one moment of the net has, forward and backward."""


def passes(quick: bool) -> list[int]:
    """How many ops the passes have, about."""
    return [1_000, 11_000] if quick else [1_000, 11_000, 114_000]


def session_of(length: int) -> OpenSession:
    """A session on one pass of a recurrent net."""
    mx.random.seed(0)
    net, x = Recurrent(), mx.random.normal((2, length // _OPS_A_MOMENT, 8)) * 0.1

    def loss(x: mx.array) -> mx.array:
        return net(x).square().mean()

    return OpenSession(nnrepl.trace(loss, x, wrt=net))


def _typed(*lines: str) -> Callable[[OpenSession], None]:
    def ask(session: OpenSession) -> None:
        for line in lines:
            str(session.run(line))

    return ask


QUESTIONS: dict[str, tuple[Callable[[OpenSession], None], Callable[[OpenSession], None]]] = {
    "why nan": (_typed(), _typed("why nan")),
    "health": (_typed(), _typed("health")),
    "catch nan": (_typed("rewind"), _typed("catch nan", "continue")),
    "verify": (_typed(), _typed("verify")),
    "why grad(w) == 0": (_typed("goto end"), _typed("why grad(out.weight) == 0")),
    "info memory": (_typed(), _typed("info memory")),
    "an edit at the first op": (_typed("goto #3"), _typed("x = x * 1.5")),
    "diff": (_typed("goto #3", "x = x * 1.5"), _typed("diff")),
}
"""What is typed before, and what is timed."""


def questions(quick: bool) -> Iterator[Figure]:
    """Microseconds an op that a question over a whole pass takes, and how that grows."""
    found: dict[str, list[float]] = {}
    lengths: dict[str, list[int]] = {}
    for length in passes(quick):
        for name, (before, ask) in QUESTIONS.items():
            session = session_of(length)
            before(session)
            count = len(session.tape)
            gc.collect()
            spent = 1e6 * cpu(lambda session=session, ask=ask: ask(session)) / count  # type: ignore[misc]
            found.setdefault(name, []).append(spent * count)
            lengths.setdefault(name, []).append(count)
            yield figure(f"{name}, {length:,} ops", [spent], "µs", _AN_OP, "an op")
            del session
    for name, values in found.items():
        yield law(name, lengths[name], values, 1.1)
