"""Scouts: what may stop a program that runs natively, as far as that can be told without recording its calls.

A scout looks at each closed call when it has run. Where it sees that something may be hit, the steps in which that may
be are opened and searched op by op, as if they had been recorded; so a scout may see too much, but never too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Protocol

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.session import goals
from nnrepl.session.call_ends import (
    AttributeHolds,
    Odd,
    VanishingGradient,
    WeightChanges,
    asks_attributes,
    is_closed,
    last_ended,
    not_a_number,
    not_finite,
    noted,
    watched_weight,
)
from nnrepl.session.entered import InClass, InFunction, SourceLine
from nnrepl.session.outcomes import Ended, Outcome, is_called_loss, outcome_of
from nnrepl.session.parsed import Parsed, parse
from nnrepl.session.place import Place
from nnrepl.session.points import Condition, Number, StepStart, TurnStart, Within
from nnrepl.session.program import is_called
from nnrepl.session.standing import Standing
from nnrepl.session.stops import Breakpoint, Catch, Trigger, Watch
from nnrepl.session.wires import EntryWire, LineWire, TruthWire, Wire, asks_variables_only, trips_of
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Tape, Value
from nnrepl.tape.steps import unit, unit_at


class Scout(Protocol):
    """Looks out for one thing.

    Attributes:
        back: How many steps before the one in which it is seen have to be opened as well.
        wires: What it has to be told of.
    """

    back: int
    wires: Sequence[Wire]

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        """Return the steps in which it may be hit, as a call tells that has just ended."""

    def may(self, tape: Tape, number: int) -> bool:
        """Whether it may be hit in a step that is closed on the tape."""


class LossHolds:
    """A condition that speaks of nothing but the loss."""

    back = 0
    wires: Sequence[Wire] = ()

    def __init__(self, condition: str) -> None:
        self._condition = condition

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        return _here(tape, ended) if ended.loss is not None and goals.holds(self._condition, ended.loss) else []

    def may(self, tape: Tape, number: int) -> bool:
        loss = unit(tape, number).loss
        return loss is None or goals.holds(self._condition, loss.array)


class LossChanges:
    """An expression that speaks of nothing but the loss."""

    back = 1
    wires: Sequence[Wire] = ()

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        loss, before = ended.loss, ended.before
        return _here(tape, ended) if loss is not None and (before is None or not _same(loss, before.array)) else []

    def may(self, tape: Tape, number: int) -> bool:
        loss = unit(tape, number).loss
        before = tape.steps[number - 2].loss if number > 1 else None
        return loss is None or before is None or not _same(loss.array, before.array)


class Tripped:
    """Wires all of which are tripped in a step, or between it and the one before."""

    back = 0

    def __init__(self, wires: list[Wire]) -> None:
        self.wires: Sequence[Wire] = wires

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        number = tape.steps.number_at(ended.op.position)
        return [near for near in (number - 1, number) if is_closed(tape, near) and self.may(tape, near)]

    def may(self, tape: Tape, number: int) -> bool:
        trips = trips_of(tape)
        return all(trips.may(wire.key, tape, number) for wire in self.wires)


_ASKED = "; "


class OutcomeHolds:
    """A condition that is asked where calls have ended."""

    back = 0
    wires: Sequence[Wire] = ()

    def __init__(self, text: str, outcome: Outcome) -> None:
        self.key = f"{_ASKED}{text}"
        self._outcome = outcome
        self._held = True  # where the last compiled call ended; that is not known yet

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        weights = self._outcome.of_weights
        if not ended.differentiates:  # an update: what comes behind it may print before the next call ends
            return noted(tape, ended, self.key) if weights and self._outcome.holds(ended) else []
        holds = self._outcome.holds(ended)
        if weights and ended.compiled:
            holds, self._held = self._held, holds  # they have been updated since they were there
        return noted(tape, ended, self.key, weights) if holds else []

    def may(self, tape: Tape, number: int) -> bool:
        return trips_of(tape).may(self.key, tape, number)


class OutcomeAround(OutcomeHolds):
    """A condition of that kind that is asked at a place: what it speaks of may be the outcome of the call before there,
    or of the one in which the place lies."""

    def __init__(self, text: str, outcome: Outcome, before: bool) -> None:
        super().__init__(text, outcome)
        self.key = f"{_ASKED}around {text}"
        self._before = before

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        if not ended.differentiates:
            return []
        before, self._before = self._before, self._outcome.holds(ended)
        return noted(tape, ended, self.key, self._outcome.of_weights) if before or self._before else []


class InStepOnly:
    """A place that lies in one step."""

    back = 0
    wires: Sequence[Wire] = ()

    def __init__(self, number: int) -> None:
        self.number = number

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        return [step for step in _here(tape, ended) if step == self.number]

    def may(self, tape: Tape, number: int) -> bool:
        return number == self.number

    def is_ahead(self, tape: Tape) -> bool:
        """Whether the program has not been there yet."""
        return self.number >= len(tape.steps)


class InTurnOnly:
    """A turn of the program's loops."""

    back = 0
    wires: Sequence[Wire] = ()

    def __init__(self, number: int) -> None:
        self.number = number

    def sees(self, tape: Tape, ended: Ended) -> list[int]:
        return []  # a call with gradients has ended: there are no more turns

    def may(self, tape: Tape, number: int) -> bool:
        at = tape.turns.start_of(self.number, tape.ops)
        return at is not None and unit_at(tape, at) == number


def _here(tape: Tape, ended: Ended) -> list[int]:
    return [tape.steps.number_at(ended.op.position)]


def _same(one: mx.array, other: mx.array) -> bool:
    a, b = one.item(), other.item()
    return a == b or (a != a and b != b)


def scouts_of(session: Standing, goal: goals.Goal) -> list[Scout] | None:
    """Who looks out for a goal of the user's and for what may stop them on the way; None if that cannot be told
    without recording."""
    found: list[Scout] = []
    if not goals.needed_from(goal):
        scout = _scout_of_place(session, goal.place) if isinstance(goal, goals.Until) else None
        if scout is None:
            return None
        found.append(scout)
    condition = goals.of_loss(goal)
    if condition:
        found.append(LossHolds(condition))
    for trigger in session.stops.enabled:
        scout = scout_of(session, trigger)
        if scout is None:
            return None
        found.append(scout)
    return found


def scout_of(session: Standing, trigger: Trigger) -> Scout | None:
    """Who looks out for what stops the user; None if that has to be recorded to be seen."""
    if isinstance(trigger, Catch):
        return _catcher(session, trigger.text)
    if isinstance(trigger, Watch):
        if _speaks_of_loss(trigger.text):
            return LossChanges() if is_called_loss(session) else None
        return watched_weight(session, parse(trigger.text))
    if isinstance(trigger, Breakpoint):
        if not trigger.text and _speaks_of_loss(trigger.condition):
            return LossHolds(trigger.condition) if is_called_loss(session) else None
        place = session.breaks_at(trigger)
        return None if place is None else _scout_of_place(session, place)
    return None


def _catcher(session: Standing, event: str) -> Scout | None:
    if event == "zero-grad":
        return None if session.tape.compiled else VanishingGradient()  # a compiled step gives back no gradients
    return Odd(not_a_number) if event == "nan" else Odd(not_finite) if event == "inf" else None


_MISSED = {
    "nan": "Natively the loss and the gradients are looked at: a NaN gone before is missed.",
    "inf": "Natively the loss and the gradients are looked at: an ∞ gone before is missed.",
    "zero-grad": "Natively the weights' gradients are looked at: one that reaches no weight is missed.",
}
"""What is not seen of an event as long as steps run natively."""


def records_for(session: Standing, trigger: Trigger) -> str:
    """Why steps do not run natively as long as something is to stop the user, or what is missed natively; "" for
    nothing that is worth saying."""
    if isinstance(trigger, Catch) and scout_of(session, trigger) is not None:
        return _MISSED[trigger.text]
    place = session.breaks_at(trigger) if isinstance(trigger, Breakpoint) else None
    if isinstance(trigger, Breakpoint) and (place is None or not _is_waited_for(session, place)):
        return ""
    if place is not None and isinstance(scout_of(session, trigger), AttributeHolds):
        return "Natively it is asked where calls end: what is so only inside of one is missed."
    if scout_of(session, trigger) is not None or (isinstance(trigger, Watch) and _speaks_of_loss(trigger.text)):
        return ""
    return "All steps are recorded for it (slower): it is seen only inside of them."


def _is_waited_for(session: Standing, place: Place) -> bool:
    """Whether a place is one where the program is not in each step; of a condition alone that is known after one."""
    if isinstance(place, Condition):
        return place.place is not None or len(session.tape.steps) > 1
    return place.first_after(session.tape, 0) is None


def _scout_of_place(session: Standing, place: Place) -> Scout | None:
    condition = place.condition if isinstance(place, Condition) else ""
    outer = place.place if isinstance(place, Condition) else place
    truth = _truth(condition) if condition else None
    number = None if outer is None else _step_of(session.tape, outer)
    if number is not None:
        return InStepOnly(number)
    turn = None if outer is None else _turn_of(outer)
    if turn is not None:
        return InTurnOnly(turn)
    if condition and truth is None:
        parsed = parse(condition)
        outcome = outcome_of(session, parsed)
        if outcome is not None:
            return OutcomeHolds(condition, outcome) if outer is None else _around(session, condition, outcome)
        if outer is None:
            return AttributeHolds(parsed) if asks_attributes(session, parsed) else None
    wire = None if outer is None or _runs_unseen(session, outer) else _wire_of(outer)
    wires = [found for found in (wire, truth) if found is not None]
    return Tripped(wires) if wires else None


def _around(session: Standing, condition: str, outcome: Outcome) -> OutcomeAround:
    last = last_ended(session.tape)
    with nullcontext() if session.recorder is None else session.recorder.muted():
        before = last is None or outcome.holds(last)
    return OutcomeAround(condition, outcome, before)


def _step_of(tape: Tape, place: Place) -> int | None:
    """Return the step in which a place lies, where it lies in one that is named."""
    if isinstance(place, Within):
        return _step_of(tape, place.outer) or _step_of(tape, place.inner)
    if isinstance(place, StepStart):
        return place.number
    return place.step or None if isinstance(place, Number) else None


def _turn_of(place: Place) -> int | None:
    """Return the turn in which a place lies, where it lies in one that is named."""
    if isinstance(place, Within):
        return _turn_of(place.outer) or _turn_of(place.inner)
    return place.number if isinstance(place, TurnStart) else None


def _truth(condition: str) -> TruthWire | None:
    parsed = parse(condition)
    return TruthWire(parsed) if asks_variables_only(parsed) else None


def _runs_unseen(session: Standing, place: Place) -> bool:
    """Whether MLX may run what is at a place without Python: it has been in a compiled function, or it is a function of
    a library, which may be compiled."""
    tape = session.tape
    if isinstance(place, Within):
        return _runs_unseen(session, place.inner) or _runs_unseen(session, place.outer)
    if any(place.first_after(tape, start) in range(start, end) for start, end in tape.compiled):
        return True
    if isinstance(place, SourceLine):
        return is_library(place.file)
    known = session.program.classes() if isinstance(place, InClass) else session.program.functions()
    name = getattr(place, "name", "")
    return not any(is_called(found, name) for found in known)


def _wire_of(place: Place) -> Wire | None:
    """Return what tells that a place may have been come to; None if Python does not tell."""
    if isinstance(place, SourceLine) and not place.cell:
        return LineWire(place)
    if isinstance(place, (InFunction, InClass)):
        return EntryWire(place)
    if isinstance(place, Within):
        return _wire_of(place.inner) or _wire_of(place.outer)
    return None


@lru_cache(256)
def _speaks_of_loss(text: str) -> bool:
    """Whether an expression speaks of nothing but the loss."""
    parsed: Parsed = parse(text)
    return parsed.plain_names == ["loss"] and not parsed.gradients


def wires_of(scouts: list[Scout]) -> list[Wire]:
    """Return what has to be told of for some scouts, each thing once."""
    return list({wire.key: wire for scout in scouts for wire in scout.wires}.values())


def asked_of(scouts: list[Scout]) -> list[str]:
    """Return the keys under which it is noted what some scouts have seen where calls ended."""
    return [
        scout.key
        for scout in scouts
        if isinstance(scout, (OutcomeHolds, VanishingGradient, WeightChanges, AttributeHolds))
    ]


def loss_before(tape: Tape, op: ClosedOp) -> Value | None:
    """Find the loss of the gradient call before one; None where that is not known."""
    passes = (pass_ for pass_ in reversed(tape.passes) if pass_.kind == GRADIENT_PASS and pass_.start < op.position)
    return next((pass_.loss for pass_ in passes), None)
