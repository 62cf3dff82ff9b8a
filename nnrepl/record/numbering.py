"""Numbering: which numbers closed calls have as passes.

Natively nobody sees what the program does between two calls, which may be a pass of its own (what makes a batch). So
passes are counted as in the steps that were recorded: as many between the same calls, made from the same places.
"""

from __future__ import annotations

from types import CodeType

from nnrepl.record.segments import is_library
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, ClosedOp, Pass, Tape

Place = tuple[CodeType | None, int]
Key = tuple[int, Place, Place]
"""The how manyth call since the last update the later one is, and from where both are made."""


class Numbering:
    """Counts the passes of a tape where some were not recorded.

    Attributes:
        seen: Whether all was recorded that came before the closed call that is made next.
    """

    def __init__(self) -> None:
        self._tape: Tape | None = None
        self._more: dict[Key, int] = {}
        self._learnt = 0
        self._last: Pass | None = None
        self._since = 0
        self.seen = False

    def learn(self, tape: Tape) -> None:
        """Look at what has been recorded since the last time."""
        if tape is not self._tape:
            self._tape, self._last, self._since, self._learnt = tape, None, 0, 0
        for pass_ in tape.passes[self._learnt :]:
            if pass_.open:
                break
            self._learnt += 1
            if _is_call(pass_):
                self._follow(pass_, pass_.number - self._last.number if self._last is not None else 0)

    def coming(self, tape: Tape, pass_: Pass) -> int:
        """Return the number of a closed call whose pass is about to be put on the tape."""
        before, seen = tape.passes[-1] if tape.passes else None, self.seen
        if before is None:
            return 1
        if not seen:
            return before.number + self.between(before, pass_)
        self.seen = False
        self.learn(tape)
        if self._last is not None:
            self._more[self._key(pass_)] = before.number + 1 - self._last.number
        return before.number + 1

    def between(self, before: Pass, pass_: Pass) -> int:
        """By how much the number of a call is larger than that of the pass before it on the tape."""
        if before is not self._last:
            self.learn(before.tape)
        return self._more.get(self._key(pass_), 1) if before is self._last else 1

    def _key(self, pass_: Pass) -> Key:
        assert self._last is not None
        return (self._ordinal(pass_), own_place(self._last)[1:], own_place(pass_)[1:])

    def _ordinal(self, pass_: Pass) -> int:
        assert self._last is not None
        turn = self._last.kind == UPDATE_PASS and pass_.kind == GRADIENT_PASS
        return 0 if turn else self._since + 1

    def _follow(self, pass_: Pass, more: int) -> None:
        if self._last is not None:
            if not _is_closed(pass_) and not _is_closed(self._last):
                self._more[self._key(pass_)] = more
            self._since = self._ordinal(pass_)
        self._last = pass_


def _is_call(pass_: Pass) -> bool:
    """Whether a pass would be a closed call, or be part of one, if it had run natively: no arithmetic by hand."""
    if pass_.kind == GRADIENT_PASS or not len(pass_):
        return bool(len(pass_))
    last = pass_.tape.ops[pass_.end - 1]
    by_optimizer = last.scope is not None and last.scope.updating
    return pass_.kind == UPDATE_PASS and (by_optimizer or _is_closed(pass_))


def _is_closed(pass_: Pass) -> bool:
    return len(pass_) == 1 and isinstance(pass_.tape.ops[pass_.start], ClosedOp)


def own_place(pass_: Pass) -> tuple[Activation | None, CodeType | None, int]:
    """Where in the program's own code a pass was called: the call, its code, and where in that."""
    scope, lasti = pass_.scope, pass_.lasti
    last = pass_.tape.ops[pass_.end - 1] if pass_.kind == UPDATE_PASS and 0 < pass_.end <= len(pass_.tape) else None
    if last is not None and last.scope is not None and last.scope.updating:  # sums of gradients may come before it
        scope, lasti = last.scope, last.lasti
    while scope is not None and (scope.updating or is_library(scope.code.co_filename)):
        lasti, scope = scope.lasti, scope.parent
    return scope, None if scope is None else scope.code, lasti
