"""Jumps: to a place, in either direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnrepl.session import closed, goals, places
from nnrepl.session.entered import InCell
from nnrepl.session.errors import UserError
from nnrepl.session.findings import source_of
from nnrepl.session.hooks import END_OF_TAPE, START_OF_TAPE, Stop
from nnrepl.session.place import Place

if TYPE_CHECKING:
    from nnrepl.session.session import Session


_COUNTED = 20_000
"""In a step of more ops than this those at a place are not counted: that would take longer than to go there."""


def goto(session: Session, text: str) -> Stop | None:
    """See `Session.goto`."""
    place, tape = session.place(text), session.tape
    found = session.nearest(place)
    if found is not None:
        return session.arrive(found, END_OF_TAPE if place.title == "end" else arrival(session, place, found))
    return on(session, place, len(tape))


def until(session: Session, text: str) -> Stop | None:
    """See `Session.until`."""
    return on(session, session.place(text), session.cursor + 1)


def on(session: Session, place: Place, start: int) -> Stop | None:
    """Go on to the first position of a place from `start` on, by letting the program run if it has to."""
    tape = session.tape
    goal = goals.Until(
        place,
        lambda begin, end, reverse: session.find(place, begin, end, reverse),
        start,
        lambda found: arrival(session, place, found),
    )
    found = goal.find(tape)
    closed.open_ahead(session, goal, found)
    if found is not None:
        return session.forward(goals.At(found, goal.reason, place.title))
    if not session.goes_on or place.gone(tape):
        raise UserError(place.gone(tape) or f"no op is at {place.title}{nowhere(session, start)}")
    return session.forward(goal)


def nowhere(session: Session, start: int = 0) -> str:
    """Where a place was looked for in vain."""
    return f"{' from here on' if start else ''}; {session.lookup.extent()}"


def arrival(session: Session, place: Place, found: int) -> str:
    """`softmax · 2 of 4 in this step`: the place in its canonical spelling, and how many ops here are at it."""
    step = session.tape.steps.at(found)
    if place.kind in ("op", "edge", "pass", "phase", "step"):
        return ""
    if place.condition or len(step) > _COUNTED:
        return place.title
    places = list(place.positions(session.tape, step.start, step.end))
    if found not in places:
        return place.title
    return f"{place.title} · {places.index(found) + 1} of {len(places)} in this step"


def last_write(session: Session, name: str) -> Stop:
    """See `Session.last_write`."""
    value = source_of(session.named(name))
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


def next_cell(session: Session, count: int = 1) -> Stop | None:
    """Go to the first op of the next cell of a notebook that makes ops, or of the `count`-th from here.

    Raises:
        UserError: If no notebook runs.
    """
    places.check_cells(session.tape)
    return session.forward(goals.NextCell(session.cursor + 1, count))


def back_cell(session: Session, count: int = 1) -> Stop:
    """Go back to the first op of this cell of a notebook; from there, of the one before. Raises UserError."""
    places.check_cells(session.tape)
    found = list(InCell(0).positions(session.tape, 0, session.cursor))[-count:]
    return session.arrive(found[0] if len(found) == count else 0, "" if found else START_OF_TAPE)
