"""Search: where the entries of `nnrepl.session.stops` are hit, forwards and backwards.

What can be told from the tape alone is looked at first, op by op or better; only where an entry can be hit is
anything evaluated, and that in batches that grow: the first candidates one by one, so that nothing is computed
far beyond the first hit, then up to 256 at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from itertools import groupby

import mlx.core as mx

from nnrepl.session.errors import CannotAsk, UserError
from nnrepl.session.events import EVENTS, Catcher
from nnrepl.session.expressions import aside
from nnrepl.session.findings import Failed, Finding
from nnrepl.session.parsed import Parsed, parse
from nnrepl.session.place import Place
from nnrepl.session.questions import Question, ask_condition, watched
from nnrepl.session.reading import Reading
from nnrepl.session.stops import Breakpoint, Catch, Hit, Trigger, Watch

_eval = mx.eval
_BATCH = 256
Candidate = tuple[int, int, Trigger]


class Search:
    """Finds hits on a session's tape. What it has found out about values it keeps.

    Args:
        session: Whose tape, names and expressions.

    Attributes:
        skip: How many stops are to be gone over (`continue 3`).
        unasked: Why a condition could not be asked where its place matched.
    """

    def __init__(self, session: Reading) -> None:
        self._session = session
        self._places: dict[tuple[Trigger, str], Place] = {}
        self._unread: dict[tuple[Trigger, str], int] = {}
        self._catchers: dict[str, Catcher] = {}
        self._parsed: dict[str, Parsed] = {}
        self.unasked: dict[Trigger, str] = {}
        self.skip = 0

    def first(
        self,
        start: int,
        end: int,
        entries: list[Trigger],
        reverse: bool = False,
        but: Collection[tuple[Trigger, int]] = (),
    ) -> list[Hit]:
        """Return the hits at the first position from `start` to before `end` (or the last one, in reverse) at which an
        enabled entry is hit that does not ignore it. Counts what it comes by.

        Args:
            but: Where entries have been asked already.

        Raises:
            KeyboardInterrupt: If the user wants it to stop.
        """
        streams = [self._candidates(entry, start, end, reverse, but) for entry in entries]
        merged = heapq.merge(*streams, key=_order, reverse=reverse)
        waiting: list[list[tuple[Candidate, Question | None]]] = []
        size, limit = 0, 1
        with aside():
            for _, group in groupby(merged, key=_position):
                asked = [(candidate, self._question(candidate)) for candidate in group]
                waiting.append(asked)
                size += sum(question is not None for _, question in asked)
                certain = any(question is None and not entry.ignore for (_, _, entry), question in asked)
                if certain or size >= limit:
                    hits = self._settle(waiting)
                    if hits:
                        return hits
                    waiting, size, limit = [], 0, min(limit * 2, _BATCH)
            return self._settle(waiting)

    def places(self, entry: Trigger, start: int, end: int) -> list[int]:
        """Where an entry may be hit; evaluates nothing."""
        return [position for position, _, _ in self._candidates(entry, start, end, False)]

    def place(self, entry: Breakpoint) -> Place | None:
        """Return a breakpoint's place; None while nothing is called so (one from last time, of a program that has
        changed). That is looked at anew with each pass."""
        key = (entry, entry.spelled)
        found, passes = self._places.get(key), len(self._session.tape.passes)
        if found is None and self._unread.get(key) != passes:
            try:
                found = self._places[key] = self._session.place(entry.spelled)
            except UserError:
                self._unread[key] = passes
        return found

    def find(self, place: Place, start: int, end: int, reverse: bool = False) -> int | None:
        """Return the first position of a place in a range (the last one, in reverse) at which its condition holds.

        Raises:
            UserError: If the condition cannot be asked.
        """
        if not place.condition:
            return next(place.positions(self._session.tape, start, end, reverse), None)
        entry = Breakpoint(place.title, condition=place.condition)
        self._places[entry, entry.spelled] = place
        for hit in self.first(start, end, [entry], reverse):
            if isinstance(hit.found, Failed):
                raise CannotAsk(f"{place.condition} cannot be asked here: {hit.found.reason}", hit.position)
            return hit.position
        return None

    def catcher(self, what: str) -> Catcher:
        """Return what finds an event."""
        if what not in self._catchers:
            self._catchers[what] = EVENTS[what].make()
        return self._catchers[what]

    # -- candidates --------------------------------------------------------------------------------------

    def _candidates(
        self, entry: Trigger, start: int, end: int, reverse: bool, but: Collection[tuple[Trigger, int]] = ()
    ) -> Iterator[Candidate]:
        for position in self._positions(entry, start, end, reverse):
            if (entry, position) not in but:
                yield position, entry.number, entry

    def by_name(self, entry: Trigger) -> bool:
        """Whether an entry speaks of values by their names: what an update makes gets its name after it."""
        place = self.place(entry) if isinstance(entry, Breakpoint) else None
        return isinstance(entry, Watch) or (place is not None and place.by_name)

    def _positions(self, entry: Trigger, start: int, end: int, reverse: bool) -> Iterator[int]:
        tape = self._session.tape
        if isinstance(entry, Breakpoint):
            found = self.place(entry)
            return iter(()) if found is None else found.positions(tape, start, end, reverse)
        if isinstance(entry, Catch):
            return self.catcher(entry.text).positions(tape, start, end, reverse)
        return watched(self._session, self._read(entry.text), start, end, reverse)

    def _question(self, candidate: Candidate) -> Question | None:
        """Return what has to be evaluated to know whether a candidate is a hit; None if it surely is one."""
        position, _, entry = candidate
        session = self._session
        if isinstance(entry, Breakpoint):
            if not entry.condition:
                return None
            place = self.place(entry)
            call = None if place is None else place.frame(session.tape, position)
            return ask_condition(session, self._read(entry.condition), position, self._note(entry), call)
        if isinstance(entry, Watch):
            return Question.change(session, self._read(entry.text), position)
        return self.catcher(entry.text).question(session.tape, position)

    def _read(self, text: str) -> Parsed:
        """Return a condition or a watched expression: it is asked at many places, and read once."""
        if text not in self._parsed:
            self._parsed[text] = parse(text)
        return self._parsed[text]

    def _note(self, entry: Trigger) -> Callable[[str], None]:
        def note(reason: str) -> None:
            self.unasked[entry] = reason

        return note

    # -- answers -----------------------------------------------------------------------------------------

    def _settle(self, waiting: list[list[tuple[Candidate, Question | None]]]) -> list[Hit]:
        """Evaluate what was asked, all at once, and take the first position with a hit."""
        questions = [question for group in waiting for _, question in group if question is not None]
        values = [value for question in questions for value in question.values]
        if values:
            try:
                self._session.evaluate(list(dict.fromkeys(values)))
            except UserError as error:  # the program waits: it must not see this
                for _, _, entry in [candidate for group in waiting for candidate, _ in group]:
                    self._note(entry)(str(error))
                return []
        needed = [array for question in questions for array in question.arrays]
        if needed:
            _eval(needed)
        for group in waiting:
            hits = [hit for candidate, question in group if (hit := self._answer(candidate, question)) is not None]
            if hits and self.skip:
                self.skip -= 1
            elif hits:
                return hits
        return []

    def _answer(self, candidate: Candidate, question: Question | None) -> Hit | None:
        position, _, entry = candidate
        found: Finding | bool | None = None
        if question is not None:
            found = question.answer()
            if found is False:
                return None
        entry.hits += 1
        if entry.ignore:
            entry.ignore -= 1
            return None
        if isinstance(entry, Catch) and question is None:
            found = self.catcher(entry.text).finding(self._session.tape, position)
        return Hit(position, entry, entry.hits, None if isinstance(found, bool) else found)


def _order(candidate: Candidate) -> tuple[int, int]:
    return candidate[0], candidate[1]


def _position(candidate: Candidate) -> int:
    return candidate[0]
