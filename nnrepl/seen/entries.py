"""Entries: breakpoints, watches and catches with what is known of them where the user stands; and what was hit."""

from __future__ import annotations

from collections.abc import Sequence

from nnrepl.classes import dataclass
from nnrepl.session.hooks import Stop
from nnrepl.session.passing import passed_by
from nnrepl.session.place import Place
from nnrepl.session.reading import Reading
from nnrepl.session.stops import Breakpoint, Hit, Trigger


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of the list.

    Attributes:
        entry: The entry.
        place: Where a breakpoint is; None while nothing is called so.
        unasked: Why its condition could not be asked where its place matched; None if it could.
    """

    entry: Trigger
    place: Place | None
    unasked: str | None


@dataclass(frozen=True, slots=True)
class Met:
    """A hit, and what of its place has been gone past on the way there; "" if nothing."""

    hit: Hit
    passed: str


def listed(session: Reading, entries: Sequence[Trigger] | None = None) -> list[Listed]:
    """Return some entries; without any given, all."""
    return [one_listed(session, entry) for entry in (session.stops if entries is None else entries)]


def one_listed(session: Reading, entry: Trigger) -> Listed:
    """One entry."""
    return Listed(entry, _place(session, entry), session.unasked(entry))


def met(session: Reading, stop: Stop) -> list[Met]:
    """Return what was hit at a stop."""
    found = [(hit, _place(session, hit.entry)) for hit in stop.hits]
    return [Met(hit, "" if at is None else passed_by(at, session.tape, hit.position)) for hit, at in found]


def _place(session: Reading, entry: Trigger) -> Place | None:
    return session.breaks_at(entry) if isinstance(entry, Breakpoint) else None
