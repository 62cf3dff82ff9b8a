"""Printed: what the user has seen of what the program printed on each timeline.

A timeline is a run of its own. What it prints is shown when the cursor comes by, unless another timeline has printed
that already, word for word: nothing is shown twice. As soon as it prints something else, all is shown that it has
printed since the user's change, so that its output can be read as a whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import field, replace
from typing import Any
from weakref import WeakKeyDictionary

from nnrepl.classes import dataclass
from nnrepl.tape import Tape

_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class PrintedPiece:
    """Something that was printed.

    Attributes:
        position: The position of the op that came next.
        stream: Where to.
        data: What.
    """

    position: int
    stream: Any
    data: bytes


@dataclass(slots=True)
class _Same:
    """A stream on which nothing has been printed yet that other timelines have not.

    Attributes:
        others: What they printed from here on.
        withheld: What has been printed.
    """

    others: list[bytes]
    withheld: list[PrintedPiece] = field(default_factory=list)


@dataclass(slots=True)
class TapeOutput:
    """What was printed on one tape.

    Attributes:
        passed: What the cursor has passed, in order. A long run may print without end; the oldest is forgotten.
        forgotten: How many bytes of each stream have been forgotten.
        waiting: What the cursor has not come to yet.
        seen: What is printed up to this position has been passed, and is in `passed` as it was printed first.
        same: The streams on which nothing new has been printed.
        again: What a run that opens steps prints once more: natively all that a call prints has the call's position.
        waited: What had been waiting on the tape before, where steps of that are opened.
    """

    passed: list[PrintedPiece] = field(default_factory=list)
    forgotten: dict[Any, int] = field(default_factory=dict)
    waiting: list[PrintedPiece] = field(default_factory=list)
    seen: int = -1
    same: dict[Any, _Same] = field(default_factory=dict)
    again: list[PrintedPiece] = field(default_factory=list)
    waited: list[PrintedPiece] = field(default_factory=list)

    def take(self, position: int | None) -> list[PrintedPiece]:
        """Return the cursor comes to a position (or to the end): what waits no more."""
        taken = [piece for piece in self.waiting if position is None or piece.position <= position]
        if taken:
            self.waiting = [] if position is None else [piece for piece in self.waiting if piece.position > position]
        return taken

    def fresh(self, piece: PrintedPiece) -> list[PrintedPiece]:
        """Note that the cursor passes a piece. Returns what is to be shown for it."""
        self.passed.append(piece)
        if len(self.passed) > _REMEMBERED:
            self._forget()
        same = self.same.get(piece.stream)
        if same is None:
            return [piece]
        data = piece.data
        agreeing = [other[len(data) :] for other in same.others if other.startswith(data)]
        if agreeing:
            same.others = agreeing
            same.withheld.append(piece)
            return []
        del self.same[piece.stream]
        over = [len(other) for other in same.others if data.startswith(other)]
        if over:  # the others have come no further: from here on it is new
            return [replace(piece, data=data[max(over) :])]
        return [*same.withheld, piece]

    def retake(self, moved: Callable[[int], int]) -> None:
        """Give what has been passed, and what waits, the positions at which it was printed once more. Where something
        else was printed, the positions are those of before, moved."""
        again, self.again = self.again, []
        waited, self.waited = self.waited, []
        passed: list[PrintedPiece] = []
        waiting = self.waiting
        for stream in dict.fromkeys(piece.stream for piece in [*self.passed, *again, *waited]):
            old = [replace(piece, position=moved(piece.position)) for piece in self.passed if piece.stream is stream]
            new = _after(self.forgotten.get(stream, 0), [piece for piece in again if piece.stream is stream])
            before, after = _joined(old), _joined(new)
            if after.startswith(before):
                passed += _until(len(before), new)
            else:
                passed += [*new, *_after(len(after), old)] if before.startswith(after) else old
            rest = [replace(piece, position=moved(piece.position)) for piece in waited if piece.stream is stream]
            if after.startswith(before + _joined(rest)):
                rest = _until(len(_joined(rest)), _after(len(before), new))
            waiting += rest
        self.passed = sorted(passed, key=lambda piece: piece.position)
        self.waiting = sorted(waiting, key=lambda piece: piece.position)

    def move(self, moved: Callable[[int], int]) -> None:
        """Give all that was printed the positions that these have now."""
        self.passed = [replace(piece, position=moved(piece.position)) for piece in self.passed]
        self.waiting = [replace(piece, position=moved(piece.position)) for piece in self.waiting]
        self.seen = moved(self.seen)
        for same in self.same.values():
            same.withheld = [replace(piece, position=moved(piece.position)) for piece in same.withheld]

    def until(self, position: int) -> TapeOutput:
        """Return a tape begins that shares what was printed up to a position."""
        return TapeOutput([piece for piece in self.passed if piece.position <= position], dict(self.forgotten))

    def withheld(self, position: int) -> dict[Any, _Same]:
        """Return what was printed up to a position, and not shown so far: with the first other piece it will be."""
        return {
            stream: _Same([], [piece for piece in same.withheld if piece.position <= position])
            for stream, same in self.same.items()
        }

    def beyond(self, other: TapeOutput, stream: Any) -> bytes:
        """Return what has been printed to a stream after what it shares with another; nothing where that is not all."""
        (start, mine), (begin, theirs) = self._text(stream), other._text(stream)
        known = max(start, begin)
        mine, theirs = mine[known - start :], theirs[known - begin :]
        return mine[len(theirs) :] if mine.startswith(theirs) else b""

    def later(self, other: TapeOutput, stream: Any) -> bytes:
        """Return what has been printed to a stream after as much as another has."""
        (start, mine), (begin, theirs) = self._text(stream), other._text(stream)
        return mine[max(begin + len(theirs) - start, 0) :]

    def _text(self, stream: Any) -> tuple[int, bytes]:
        """Return what is known of a stream, and how much came before."""
        return self.forgotten.get(stream, 0), b"".join([piece.data for piece in self.passed if piece.stream is stream])

    def _forget(self) -> None:
        for old in self.passed[: _REMEMBERED // 2]:
            self.forgotten[old.stream] = self.forgotten.get(old.stream, 0) + len(old.data)
        del self.passed[: _REMEMBERED // 2]


def _joined(pieces: list[PrintedPiece]) -> bytes:
    return b"".join([piece.data for piece in pieces])


def _after(count: int, pieces: list[PrintedPiece]) -> list[PrintedPiece]:
    """Return what some pieces hold after so many bytes."""
    found = []
    for piece in pieces:
        data, count = piece.data[count:], max(count - len(piece.data), 0)
        if data:
            found.append(replace(piece, data=data))
    return found


def _until(count: int, pieces: list[PrintedPiece]) -> list[PrintedPiece]:
    """Return what some pieces hold before so many bytes."""
    found = []
    for piece in pieces:
        data, count = piece.data[:count], max(count - len(piece.data), 0)
        if data:
            found.append(replace(piece, data=data))
    return found


class Printed:
    """What was printed, tape by tape."""

    def __init__(self) -> None:
        self._outputs: WeakKeyDictionary[Tape, TapeOutput] = WeakKeyDictionary()
        self._latest: TapeOutput | None = None

    def on(self, tape: Tape) -> TapeOutput:
        """Return what was printed on a tape."""
        output = self._outputs.get(tape)
        if output is None:
            output = self._outputs[tape] = TapeOutput()
        return output

    def passing(self, tape: Tape, streams: list[Any]) -> TapeOutput:
        """Return what was printed on a tape, of which more is passed now: held against what was shown meanwhile of
        others."""
        output = self.on(tape)
        if output is not self._latest:
            self._compare(output, streams)
        return output

    def forget(self) -> None:
        """Begin with a program of which nothing has been seen."""
        self._outputs.clear()
        self._latest = None

    def begin_again(
        self, tape: Tape, old: Tape, position: int, seen: int, streams: list[Any], *, along: bool = False
    ) -> None:
        """Take note that the program runs again.

        Args:
            tape: The one that it writes now.
            old: The one along which it runs.
            position: What was printed there up to this position has been seen.
            seen: Up to which position on the new tape that is.
            along: Whether it is the same timeline: what was withheld there is not shown yet.
        """
        begun = self.on(old).until(position)
        if along:
            begun.same = self.on(old).withheld(position)
        begun.seen = seen
        if seen == sys.maxsize:
            begun.waited = list(self.on(old).waiting)
        self._outputs[tape] = begun
        self._compare(begun, streams)

    def new(self, output: TapeOutput) -> None:
        """Take what is printed from now on as never seen."""
        self._latest, output.same = output, {}

    def _compare(self, output: TapeOutput, streams: list[Any]) -> None:
        self._latest = output
        for stream in streams:
            withheld = output.same.pop(stream, _Same([])).withheld
            others = {other.beyond(output, stream) for other in self._outputs.values()} - {b""}
            if others:
                output.same[stream] = _Same(list(others), withheld)

    def goes_on(self, tape: Tape, old: Tape) -> None:
        """Take note that the program goes on, and writes another tape, which shares all with the old one."""
        before = self.on(old)
        self._outputs[tape] = TapeOutput(list(before.passed), dict(before.forgotten), list(before.waiting))

    def elsewhere(self, tape: Tape, streams: list[Any]) -> set[bytes]:
        """Return the lines that have been seen on other tapes only."""
        mine = self.on(tape)
        others = [output for output in self._outputs.values() if output is not mine]
        return {line for other in others for to in streams for line in other.later(mine, to).splitlines(keepends=True)}

    def moved(self, tape: Tape, moved: Callable[[int], int], seen: int) -> None:
        """Take note that the positions of a tape have moved; what was printed up to `seen` has been seen."""
        output = self.on(tape)
        output.retake(moved)
        output.seen = seen
