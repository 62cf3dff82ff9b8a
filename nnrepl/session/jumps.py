"""Jumps: to a place, in either direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnrepl.session import goals
from nnrepl.session.errors import UserError
from nnrepl.session.findings import source_of
from nnrepl.session.hooks import END_OF_TAPE, START_OF_TAPE, Stop
from nnrepl.session.places import Place
from nnrepl.tape import Tape

if TYPE_CHECKING:
    from nnrepl.session.session import Session


def goto(session: Session, text: str) -> Stop | None:
    """See `Session.goto`."""
    text, tape = text.strip(), session.tape
    if text == "start":
        return session.arrive(tape.origin if tape.origin < len(tape) else 0)
    if text == "end":
        return session.arrive(len(tape), END_OF_TAPE)
    place = session.place(text)
    if place.kind == "op":
        return _to_number(session, place)
    if place.kind == "step":
        return _to_step(session, int(place.text.split()[1]))
    if place.kind == "pass":
        return _to_pass(session, place)
    found = nearest(tape, session.cursor, place)
    if found is not None:
        return session.arrive(found)
    if session.running:
        return session.forward(goals.Until(place, len(tape)))
    raise UserError(f"no op on the tape is at {text}; {session.lookup.extent()}")


def _to_number(session: Session, place: Place) -> Stop | None:
    tape, lookup = session.tape, session.lookup
    step, number = lookup.address(place.text)
    if step is None:
        step = tape.here
    start = tape.steps.start_of(step)
    if session.running and (start is None or step == len(tape.steps)) and step:
        position = None if start is None else start + number - 1
        if position is None or position >= len(tape):
            return session.forward(goals.InStep(step, number))
    return session.arrive(lookup.op(place.text).position)


def _to_step(session: Session, number: int) -> Stop | None:
    steps = session.tape.steps
    start = steps.start_of(number)
    if start is not None and number:
        return session.arrive(start)
    if session.running and number:
        return session.forward(goals.InStep(number))
    raise UserError(f"there is no step {number}; {session.lookup.extent(number) if number else 'steps count from 1'}")


def _to_pass(session: Session, place: Place) -> Stop | None:
    number, passes = int(place.text.split()[1]), session.tape.passes
    found = next((part for part in passes if part.number == number and len(part)), None)
    if found is not None:
        return session.arrive(found.start)
    last = passes[-1].number if passes else 0
    if session.running and number > last:
        return session.forward(goals.Until(place, len(session.tape)))
    raise UserError(f"there is no pass {number}; the tape holds passes 1 to {last}")


def nearest(tape: Tape, cursor: int, place: Place) -> int | None:
    """Where a place is: in this pass if it is there, else the last before the cursor, else the next."""
    ops = tape.ops
    part = tape.pass_at(cursor)
    if part is not None:
        for at in range(part.start, part.end):
            if place.matches(ops[at]):
                return at
    for at in range(min(cursor, len(ops)) - 1, -1, -1):
        if place.matches(ops[at]):
            return at
    return next((at for at in range(cursor, len(ops)) if place.matches(ops[at])), None)


def last_write(session: Session, name: str) -> Stop:
    """See `Session.last_write`."""
    value = source_of(session.lookup.by_words(name, session.cursor))
    if value.op is None:
        what = "a gradient that the pass starts from" if value.kind == "seed" else f"{value.kind} of the program"
        raise UserError(f"no op on the tape wrote {name}: it is {what}")
    return session.arrive(value.op.position)


def rewind(session: Session) -> Stop:
    """See `Session.rewind`."""
    tape = session.tape
    part = tape.pass_at(session.cursor)
    if part is None:
        return session.arrive(0, START_OF_TAPE)
    if session.cursor == part.start:
        part = tape.passes[max(tape.passes.index(part) - 1, 0)]
    return session.arrive(part.start, START_OF_TAPE if part.start == session.cursor else "")
