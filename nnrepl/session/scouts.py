"""Scouts: what may stop a program that runs natively, as far as that tells which comes out of its closed calls.

A scout looks at each closed gradient call when it has run. Where it sees that something may be hit, the step is opened
and searched op by op, as if it had been recorded; so a scout may see too much, but never too little.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import mlx.core as mx

from nnrepl.session import goals
from nnrepl.session.parsed import parse
from nnrepl.session.standing import Standing
from nnrepl.session.stops import Breakpoint, Catch, Trigger, Watch
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Tape, Value, arrays_of

_any, _isnan = mx.any, mx.isnan


class Scout(Protocol):
    """Looks out for one thing.

    Attributes:
        back: How many steps before the one in which it is seen have to be opened as well.
    """

    back: int

    def sees(self, loss: mx.array, before: Value | None, returned: Any) -> bool:
        """Whether it may be hit in the step of a gradient call that has just run.

        Args:
            before: The loss of the step before, None where that is not known.
            returned: What came back from the call.
        """

    def may(self, tape: Tape, number: int) -> bool:
        """Whether it may be hit in a step that is closed on the tape."""


class LossHolds:
    """A condition that speaks of nothing but the loss."""

    back = 0

    def __init__(self, condition: str) -> None:
        self._condition = condition

    def sees(self, loss: mx.array, before: Value | None, returned: Any) -> bool:
        return goals.holds(self._condition, loss)

    def may(self, tape: Tape, number: int) -> bool:
        loss = tape.steps[number - 1].loss
        return loss is None or goals.holds(self._condition, loss.array)


class LossChanges:
    """An expression that speaks of nothing but the loss."""

    back = 1

    def sees(self, loss: mx.array, before: Value | None, returned: Any) -> bool:
        return before is None or not _same(loss, before.array)

    def may(self, tape: Tape, number: int) -> bool:
        loss = tape.steps[number - 1].loss
        before = tape.steps[number - 2].loss if number > 1 else None
        return loss is None or before is None or not _same(loss.array, before.array)


class NotANumber:
    """NaN in the loss or in a gradient. What comes in with it was made in the step before."""

    back = 1

    def sees(self, loss: mx.array, before: Value | None, returned: Any) -> bool:
        return any([flag.item() for flag in [_any(_isnan(array)) for array in (loss, *arrays_of(returned))]])

    def may(self, tape: Tape, number: int) -> bool:
        losses = [step.loss for step in tape.steps[number - 1 : number + 1]]
        return losses[0] is None or any([_any(_isnan(loss.array)).item() for loss in losses if loss is not None])


def _same(one: mx.array, other: mx.array) -> bool:
    a, b = one.item(), other.item()
    return a == b or (a != a and b != b)


def scouts_of(session: Standing, goal: goals.Goal) -> list[Scout] | None:
    """Who looks out for a goal of the user's and for what may stop them on the way; None if that cannot be told from
    what comes out of closed calls."""
    if not goals.needed_from(goal):
        return None
    condition = goals.of_loss(goal)
    found: list[Scout] = [LossHolds(condition)] if condition else []
    triggers = session.stops.enabled
    if triggers and (session.lookout.search.skip or not _is_called_loss(session)):
        return None
    for trigger in triggers:
        scout = None if trigger.ignore else _scout(trigger)
        if scout is None:
            return None
        found.append(scout)
    return found


def _scout(trigger: Trigger) -> Scout | None:
    if isinstance(trigger, Catch):
        return NotANumber() if trigger.text == "nan" else None
    if isinstance(trigger, Watch):
        return LossChanges() if _speaks_of_loss(trigger.text) else None
    if isinstance(trigger, Breakpoint) and not trigger.text and _speaks_of_loss(trigger.condition):
        return LossHolds(trigger.condition)
    return None


@lru_cache(256)
def _speaks_of_loss(text: str) -> bool:
    """Whether an expression speaks of nothing but the loss."""
    parsed = parse(text)
    return parsed.plain_names == ["loss"] and not parsed.gradients


_CALLED: WeakKeyDictionary[Tape, bool] = WeakKeyDictionary()


def _is_called_loss(session: Standing) -> bool:
    """Whether what the program calls `loss` in its first step, which is recorded, is what it differentiates and
    nothing else."""
    tape = session.tape
    if tape not in _CALLED:
        step = tape.steps[0] if len(tape.steps) > 1 or tape.closed else None
        if step is None:
            return False  # it is not over yet
        loss = step.loss
        called = [value for start, value in session.names.versions("loss") if start <= step.end]
        _CALLED[tape] = loss is not None and all(value.canonical is loss.canonical for value in called)
    return _CALLED[tape]


def loss_before(tape: Tape, op: ClosedOp) -> Value | None:
    """Find the loss of the gradient call before one; None where that is not known."""
    passes = (pass_ for pass_ in reversed(tape.passes) if pass_.kind == GRADIENT_PASS and pass_.start < op.position)
    return next((pass_.loss for pass_ in passes), None)
