"""Gradients: how large those of a pass are, as far as they have been made before the cursor."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import field

from nnrepl.classes import dataclass
from nnrepl.explain.missing import missing as why_missing
from nnrepl.seen.array_sizes import norms
from nnrepl.session.errors import NoGradient, NotYet
from nnrepl.session.reading import Reading
from nnrepl.tape import Pass, Value

_MANY = 200
"""Of more gradients than these none is computed unasked."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The gradients of a gradient call.

    Attributes:
        pass_: The call.
        norms: For each leaf whose gradient is known: its gradient, and the norm of it.
        missing: Why there is none, for the others.
    """

    pass_: Pass
    norms: dict[Value, tuple[Value, float]] = field(default_factory=dict)
    missing: dict[Value, str] = field(default_factory=dict)


_TOLD = 24
"""Of so many gradients that are missing each is told why."""

NOT_MADE, NOT_COMPUTED = "not made yet", "not computed yet"


def sizes_of(session: Reading, pass_: Pass) -> Sizes:
    """Return the norms of the gradients there are before the cursor, evaluated together; of the others, why there is
    none."""
    missing: dict[Value, str] = {}
    gradients: dict[Value, Value] = {}
    for leaf in pass_.wrt:
        try:
            gradients[leaf] = session.lookup.gradient(leaf, min(session.cursor, pass_.end))
        except NotYet:
            missing[leaf] = NOT_MADE
        except NoGradient:
            missing[leaf] = why_missing(session, leaf).word if len(missing) < _TOLD else "none flows (disconnected)"
    session.evaluate(list(gradients.values()))
    found = norms([value.array for value in gradients.values()])
    return Sizes(pass_, {leaf: (gradients[leaf], norm) for leaf, norm in zip(gradients, found)}, missing)


def of_parameters(session: Reading) -> Sizes | None:
    """Those of the last call that had begun before the cursor; None before the first."""
    pass_ = last_call(session)
    return None if pass_ is None else sizes_of(session, pass_)


def of_step(session: Reading) -> list[Sizes]:
    """Those of each call of this training step that had begun before the cursor; of the last step that has any."""
    passes = [pass_ for pass_ in session.tape.passes if pass_.wrt and pass_.start <= session.cursor]
    return [sizes_of(session, pass_) for pass_ in passes if pass_.step.number == passes[-1].step.number]


def at_hand(session: Reading, known: dict[Value, float]) -> Sizes | None:
    """Those of the last gradient call before the cursor that are there already, or small enough to be computed unasked.

    Args:
        known: The norms that are known already; those that are found are entered.
    """
    pass_ = last_call(session)
    if pass_ is None:
        return None
    found: dict[Value, Value] = {}
    for leaf in pass_.wrt:
        before = [one for one in pass_.grads.get(leaf, []) if one.op is None or one.op.position < session.cursor]
        if before:
            found[leaf] = before[-1]
    few = len(found) <= _MANY
    there = {leaf: one for leaf, one in found.items() if one.evaluated or (few and session.small([one]))}
    there = {leaf: one for leaf, one in there.items() if one.size}
    new = [one for one in there.values() if one not in known]
    session.evaluate(new)
    known.update(zip(new, norms([one.array for one in new])))
    missing = {leaf: NOT_COMPUTED if leaf in found else NOT_MADE for leaf in pass_.wrt if leaf not in there}
    return Sizes(pass_, {leaf: (one, known[one]) for leaf, one in there.items()}, missing)


def last_call(session: Reading) -> Pass | None:
    """Return the last gradient call that has begun before the cursor."""
    passes = session.tape.passes
    at = bisect_right(passes, session.cursor, key=lambda pass_: pass_.start) - 1
    while at >= 0 and not passes[at].wrt:
        at -= 1
    return passes[at] if at >= 0 else None
