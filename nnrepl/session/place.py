"""Place: where one can go or stop. What every command that takes one asks of it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.record.names import ProgramNames
from nnrepl.session.program import Program
from nnrepl.tape import GRADIENT_PASS, Activation, Op, Pass, Tape

Find = Callable[[int, int, bool], int | None]
"""Finds the first position in a range; the last one, in reverse."""


@dataclass(frozen=True, slots=True)
class Here:
    """From where a place is read.

    Attributes:
        tape, names: The tape, and what things on it are called.
        op: The op at the cursor (the last one after the end), from which a bare line is read.
        program: What the program's source has.
        running: Whether more can be recorded.
        variables: What the user's and the program's variables hold.
        skip: The modules whose lines are not the program's own.
    """

    tape: Tape
    names: ProgramNames
    op: Op | None
    program: Program
    running: bool
    variables: Mapping[str, Any]
    skip: tuple[str, ...]


class Place:
    """A place of one tape, as `nnrepl.session.places.read` has read it.

    The same words mean the same ops in every command: `break` stops at each of the `positions`, `until` goes to the
    first one ahead, `goto` to the nearest one; a sequence (`step 30 layers.1`) takes those that the places before
    hold.

    Attributes:
        kind: What it is, in a word: "op", "line", "module"; "" where it is only a base, or takes its inner's.
        words: What the list of breakpoints says of it: "a module, where it is entered".
        whole: Whether it is a stretch of ops: `list` and `graph` show all of them, and not what lies around one.
        title: Its canonical spelling.
        note: What is to be said of how it was read, "" for nothing.
        by_name: Whether it is where values of some name are made: what an update makes gets its name only after it.
        condition: What must be true there, "" for nothing. Whether it is, is asked by `nnrepl.session.search`.
        form: How it is written, as a regular expression, of a kind that is told by that alone; `read` reads it.
        fixed: The words that mean such a place on every tape; completion offers them.
    """

    kind = ""
    words = ""
    whole = by_name = False
    condition = ""
    note = ""
    form = ""
    fixed: tuple[str, ...] = ()

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """Return the place that is written so. Raises UserError if there is none."""
        raise NotImplementedError

    def __init__(self, title: str) -> None:
        self.title = title

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        """Where the cursor stands at the place: positions from `start` to before `end`, in the order wanted."""
        raise NotImplementedError

    def holds(self, tape: Tape, at: int) -> bool:
        """Whether the op at a position lies in the place."""
        return any(True for _ in self.positions(tape, at, at + 1))

    def frame(self, tape: Tape, at: int) -> Activation | None:
        """Return the call that is meant by the place at one of its positions: that of the function that is named, that
        of which a line is one; None for a place that means none."""
        return None

    def span(self, tape: Tape, start: int, end: int) -> tuple[int, int]:
        """Return the part of a range outside of which nothing lies in the place."""
        return start, end

    def gone(self, tape: Tape) -> str:
        """Why no op that is still to be recorded can be at the place; "" if one can."""
        return ""

    def over(self, tape: Tape) -> bool:
        """Whether no op that is still to be recorded can lie within the place."""
        return bool(self.gone(tape))

    def passed(self, found: str = "") -> str:
        """Say that what is recorded of the place is not ahead; `found` is what of it is known to be there."""
        return f"{found or self.title} is not ahead of here; goto {self.title} goes there"

    def first_after(self, tape: Tape, position: int) -> int | None:
        """Return the first position of the place from `position` on."""
        return next(self.positions(tape, position, len(tape) + 1), None)

    def nearest(self, tape: Tape, cursor: int, find: Find | None = None) -> int | None:
        """Where the place is as seen from the cursor: in this pass or this step if it is there, else the last
        position before, else the next one. Of one within a step or a pass that is named, the first position.

        Args:
            find: Finds the first position in a range, if more has to be true there than the tape tells.
        """
        find = find or self._find_on(tape)
        if self.is_bounded(tape):
            return find(*self.span(tape, 0, len(tape) + 1), False)
        pass_ = tape.pass_at(cursor)
        here = None if pass_ is None else find(pass_.start, len(tape) if pass_.open else pass_.end, False)
        if here is None:
            step = tape.steps.at(cursor)
            here = find(step.start, step.end, False)
        if here is None:
            here = find(0, cursor, True)
        return find(cursor, len(tape) + 1, False) if here is None else here

    def is_bounded(self, tape: Tape) -> bool:
        """Whether it lies within a step or a pass that is named, wherever the cursor stands."""
        whole = 0, len(tape) + 1
        return self.span(tape, *whole) != whole

    def _find_on(self, tape: Tape) -> Find:
        return lambda start, end, reverse: next(self.positions(tape, start, end, reverse), None)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.title}>"


def named_from(tape: Tape) -> int:
    """Return the position from which values may still get their names: the program has not come by since they were
    made."""
    last = tape.passes[-1] if tape.passes else None
    return len(tape) if last is None or last.kind == GRADIENT_PASS else min(last.start, len(tape))


def ordered(positions: Iterable[int], start: int, end: int, reverse: bool) -> Iterator[int]:
    """Positions cut to a range, in the order wanted."""
    return iter(sorted({at for at in positions if start <= at < end}, reverse=reverse))


def within(tape: Tape, start: int, end: int, reverse: bool) -> range:
    """Return the positions of the ops in a range, in the order wanted."""
    end = min(end, len(tape))
    return range(end - 1, start - 1, -1) if reverse else range(start, end)


def passes_between(tape: Tape, start: int, end: int) -> list[Pass]:
    """Return the passes that have ops in a range."""
    first = max(bisect_right(tape.passes, start, key=_start_of) - 1, 0)
    found = tape.passes[first : bisect_left(tape.passes, end, key=_start_of)]
    return [pass_ for pass_ in found if pass_.open or pass_.end > start]


def _start_of(pass_: Pass) -> int:
    return pass_.start
