"""Stops: what a user has asked to be stopped at. Plain data: what matches is found in `nnrepl.session.search`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import ClassVar, TypeVar

from nnrepl.classes import dataclass
from nnrepl.session.errors import UserError
from nnrepl.session.findings import Finding


@dataclass(eq=False, slots=True)
class Trigger:
    """One thing to stop at.

    Attributes:
        text: As the user wrote it: a place, an expression, what to catch.
        number: By which it is called; breakpoints, watches and catches count together.
        enabled: Whether it stops.
        ignore: How many hits are still to be gone over.
        hits: How often it was hit.
        commands: Lines that are run when it has stopped.
    """

    kind: ClassVar[str] = ""

    text: str
    number: int = 0
    enabled: bool = True
    ignore: int = 0
    hits: int = 0
    commands: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """`breakpoint 1`."""
        return f"{self.kind} {self.number}"


@dataclass(eq=False, slots=True)
class Breakpoint(Trigger):
    """Stops at a place.

    Attributes:
        text: The place; "" for wherever what the condition speaks of has changed.
        condition: Only where this is true, "" for always.
        temporary: Whether it is deleted once it has stopped.
    """

    kind: ClassVar[str] = "breakpoint"

    condition: str = ""
    temporary: bool = False

    @property
    def spelled(self) -> str:
        """The place with its condition, as it is read."""
        return ", ".join(part for part in (self.text, self.condition) if part)


@dataclass(eq=False, slots=True)
class Watch(Trigger):
    """Stops where the value of an expression has changed."""

    kind: ClassVar[str] = "watch"


@dataclass(eq=False, slots=True)
class Catch(Trigger):
    """Stops at an event: one of `nnrepl.session.events.EVENTS`."""

    kind: ClassVar[str] = "catch"


@dataclass(frozen=True, slots=True)
class Hit:
    """Where an entry was hit.

    Attributes:
        position: Where the cursor is to stand.
        entry: What was hit.
        count: How often it had been hit then.
        found: What was found there (see `nnrepl.session.findings`), None for a plain breakpoint.
    """

    position: int
    entry: Trigger
    count: int
    found: Finding | None = None


AnEntry = TypeVar("AnEntry", bound=Trigger)


class Stops:
    """The entries by number. They outlive a restart of the program."""

    def __init__(self) -> None:
        self._entries: dict[int, Trigger] = {}
        self._last = 0

    def __iter__(self) -> Iterator[Trigger]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def enabled(self) -> list[Trigger]:
        """Those that stop."""
        return [entry for entry in self._entries.values() if entry.enabled]

    def add(self, entry: AnEntry) -> AnEntry:
        """Enter one; gives it its number."""
        self._last += 1
        entry.number = self._last
        self._entries[entry.number] = entry
        return entry

    def remove(self, entry: Trigger) -> None:
        """Take one out; its number is not used again."""
        self._entries.pop(entry.number, None)

    def last(self) -> Trigger:
        """Return the one entered last. Raises UserError if there is none."""
        if not self._entries:
            raise UserError("there are no breakpoints; break PLACE sets one")
        return self._entries[max(self._entries)]

    def numbered(self, text: str) -> Trigger:
        """Return the entry with a number, as typed. Raises UserError if there is none."""
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        if number not in self._entries:
            known = ", ".join(str(known) for known in self._entries)
            there = f"there are {known}" if known else "there are none; break PLACE sets one"
            raise UserError(f"there is no breakpoint, watch or catch {text}; {there}")
        return self._entries[number]

    def begin(self) -> None:
        """Note that the program runs from its start: nothing has been hit."""
        for entry in self:
            entry.hits = 0

    def counts(self) -> dict[Trigger, tuple[int, int]]:
        """Return the hit and ignore counts, to be put back by `recount`."""
        return {entry: (entry.hits, entry.ignore) for entry in self}

    def recount(self, counts: dict[Trigger, tuple[int, int]]) -> None:
        """Put counts back: what was counted lies after where the user stops, or is come by once more. What has been
        taken out meanwhile because it was hit is there again."""
        for entry, (hits, ignore) in counts.items():
            entry.hits, entry.ignore = hits, ignore
            self._entries[entry.number] = entry
        self._entries = dict(sorted(self._entries.items()))
