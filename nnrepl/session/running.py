"""Running: looking out for breakpoints, watches and catches while the user, or the program, moves.

What the tape alone tells stops the program at the very op. What must be evaluated to be seen (`catch nan`) is looked
for in stretches of many ops, since evaluating ops one by one costs twenty times as much: the program may then have
run on a little, and the cursor goes back to the op.
"""

from __future__ import annotations

from collections.abc import Callable

from nnrepl.session import goals
from nnrepl.session.hooks import OPENED
from nnrepl.session.place import Place, named_from
from nnrepl.session.reading import Reading
from nnrepl.session.search import Search
from nnrepl.session.stops import Breakpoint, Catch, Hit, Trigger
from nnrepl.tape import GRADIENT_PASS, Tape

STRETCH = 128
"""So many ops at the top level of a program are looked at together where something must be evaluated."""


class Lookout:
    """Looks for hits on behalf of a session.

    Attributes:
        interrupted: Whether the user interrupted the look at what was recorded last.
        counted: How often what stops the user had been hit when they began to move.
    """

    def __init__(self, session: Reading) -> None:
        self._session = session
        self._tape: Tape | None = None
        self._search = Search(session)
        self.counted = session.stops.counts()
        self._at_once = 0
        self._named = 0
        self._asked: set[tuple[Trigger, int]] = set()
        self._in_stretches = 0
        self._told: tuple[Hit, ...] = ()
        self.interrupted = False

    @property
    def search(self) -> Search:
        """What finds hits on the session's present tape."""
        if self._tape is not self._session.tape:
            self._tape = self._session.tape
            self._search = Search(self._session)
        return self._search

    def places(self) -> list[Place]:
        """Those of the breakpoints."""
        entries = [entry for entry in self._session.stops.enabled if isinstance(entry, Breakpoint)]
        return [place for entry in entries if (place := self.search.place(entry)) is not None]

    def begin(self, position: int) -> None:
        """Look at what is recorded from a position on."""
        self._at_once = self._in_stretches = position
        self._looked(position, position)
        self.interrupted = False

    def move(self, moved: Callable[[int], int]) -> None:
        """Note that positions of the tape have moved. What has been found out about its values is forgotten."""
        before, self._search = self._search, Search(self._session)
        self._search.skip, self._search.unasked = before.skip, before.unasked
        self._at_once, self._in_stretches, self._named = map(moved, (self._at_once, self._in_stretches, self._named))
        self._asked = {(entry, moved(at)) for entry, at in self._asked}

    def ahead(self, end: int, goal: goals.Goal) -> list[Hit]:
        """Return the first hit after the cursor on the way to a goal, up to `end`; from there on, what is recorded is
        looked at."""
        session = self._session
        self.counted = session.stops.counts()
        start = session.cursor + 1
        self._at_once = self._in_stretches = max(start, end)
        self._looked(start, max(start, end))
        entries = session.stops.enabled
        if not entries:
            return []
        return self._taken(self._here(entries, goal) or self.search.first(start, end, entries))

    def _here(self, entries: list[Trigger], goal: goals.Goal) -> list[Hit]:
        """Return what `continue` comes by at the op at the cursor, which has not been run yet: an event that the user
        has not been told of there. A breakpoint at the cursor is where one stands."""
        session = self._session
        if not isinstance(goal, goals.Never) or session.cursor >= len(session.tape):
            return []
        if session.stop.reason != OPENED:  # steps have been opened for this command, which was typed at the stop before
            self._told = session.stop.hits if session.stop.position == session.cursor else ()
        told = [hit.entry for hit in self._told]
        events: list[Trigger] = [entry for entry in entries if isinstance(entry, Catch) and entry not in told]
        return self.search.first(session.cursor, session.cursor + 1, events) if events else []

    def behind(self, target: int) -> list[Hit]:
        """Return the last hit before the cursor, back to `target`."""
        self.counted = self._session.stops.counts()
        entries = self._session.stops.enabled
        if not entries:
            return []
        return self._taken(self.search.first(target, self._session.cursor, entries, reverse=True))

    def recorded(self, found: int | None) -> list[Hit]:
        """Return the first hit in what the program has recorded since the last look.

        Args:
            found: Where the user's own goal is, if it was recorded.
        """
        self.interrupted = False
        entries = self._session.stops.enabled
        length = len(self._session.tape)
        if not entries:
            self._at_once = self._in_stretches = length
            self._looked(length, length)
            return []
        end = length if found is None else found + 1
        try:
            return self._taken(self._recorded(entries, end, found is not None))
        except KeyboardInterrupt:
            self.interrupted = True
            return []

    def caught_up(self) -> list[Hit]:
        """Return the first hit of what must be evaluated to be seen, in all that has been recorded."""
        slow = [entry for entry in self._session.stops.enabled if self._evaluates(entry)]
        if not slow:
            return []
        start, self._in_stretches = self._in_stretches, len(self._session.tape)
        try:
            return self.search.first(start, self._in_stretches, slow)
        except KeyboardInterrupt:
            self._session.course.interrupt()
            return []

    def _recorded(self, entries: list[Trigger], end: int, arriving: bool) -> list[Hit]:
        slow = [entry for entry in entries if self._evaluates(entry)]
        counts = self._session.stops.counts()
        hits = self._now([entry for entry in entries if entry not in slow], end)
        if not slow or not (hits or arriving or self._is_due()):
            return hits
        last = hits[0].position + 1 if hits else end
        earlier = self.search.first(self._in_stretches, last, slow)
        self._in_stretches = end
        if earlier and hits and earlier[0].position < hits[0].position:
            self._session.stops.recount({entry: counts[entry] for entry in counts if entry not in slow})
            return earlier
        return [*hits, *earlier]

    def _now(self, entries: list[Trigger], end: int) -> list[Hit]:
        """Return the first hit of what is seen at once, in what is new up to a position: what an update has made has
        got its name since then."""
        named = [entry for entry in entries if self.search.by_name(entry)]
        others = [entry for entry in entries if entry not in named]
        found = self.search.first(self._at_once, end, others)
        last = found[0].position + 1 if found else end
        late = self.search.first(self._named, last, named, but=self._asked) if named else []
        self._at_once = end
        self._looked(self._named, end)
        if late and found and late[0].position == found[0].position:
            return [*found, *late]
        return late or found

    def _looked(self, start: int, end: int) -> None:
        """Note up to where has been looked. From where values still get their names it is looked once more."""
        self._named = max(start, min(named_from(self._session.tape), end))
        named = [entry for entry in self._session.stops.enabled if self.search.by_name(entry)]
        self._asked = {(entry, at) for entry in named for at in self.search.places(entry, self._named, end)}

    def ended(self) -> list[Hit]:
        """Return the first hit in what was recorded last, the end of the program included."""
        session = self._session
        entries = session.stops.enabled
        if not entries:
            return []
        slow = [entry for entry in entries if self._evaluates(entry)]
        end = len(session.tape) + 1
        found = [
            *self._now([entry for entry in entries if entry not in slow], end),
            *self.search.first(self._in_stretches, end, slow),
        ]
        first = min((hit.position for hit in found), default=0)
        return self._taken([hit for hit in found if hit.position == first])

    def _evaluates(self, entry: Trigger) -> bool:
        return isinstance(entry, Catch) and self.search.catcher(entry.text).evaluates

    def _is_due(self) -> bool:
        """Whether what was recorded at the top level is worth a look: enough of it, or a whole pass."""
        tape = self._session.tape
        recent = tape.passes[-1] if tape.passes else None
        return len(tape) - self._in_stretches >= STRETCH or (
            recent is not None and recent.kind == GRADIENT_PASS and not recent.open
        )

    def _taken(self, hits: list[Hit]) -> list[Hit]:
        """Do what a hit does to its entry: a temporary breakpoint is deleted."""
        for hit in hits:
            if getattr(hit.entry, "temporary", False):
                self._session.stops.remove(hit.entry)
        return hits
