"""Passing: where the program comes to lines that make no op, and to what may stop it while it runs natively. Only
Python itself tells of that, so it is asked where a stop at such a place is wanted, and only there; a stop at a line
without ops is at the op that comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType

from nnrepl.record.native import levels_of
from nnrepl.record.quiet import is_quiet
from nnrepl.record.recorder import Recorder
from nnrepl.replay.interrupts import at_work
from nnrepl.session.coming import Coming, lines_of
from nnrepl.session.entered import SourceLine
from nnrepl.session.goals import Goal, Until
from nnrepl.session.place import Place
from nnrepl.session.points import Condition, Within
from nnrepl.session.wires import NOWHERE, TruthWire, Wire, trips_of
from nnrepl.tape import Tape


class Passing:
    """Notes on the tape that is recorded where the program has come by.

    Args:
        tripped: Told where a wire is tripped between two calls that run natively. What it raises goes through the
            program.
    """

    def __init__(self, tripped: Callable[[], None]) -> None:
        self._tripped = tripped
        self._recorder: Recorder | None = None
        self._coming = Coming()
        self._files: dict[str, frozenset[int]] = {}
        self._wires: list[Wire] = []
        self._keys: list[str] = []
        self._at: dict[CodeType, list[tuple[frozenset[int], Wire]]] = {}

    def arm(self, recorder: Recorder, lines: Iterable[SourceLine], wires: list[Wire], asked: list[str]) -> None:
        """From now on, note where the program comes to some lines, and which wires it trips.

        Args:
            asked: What others note of this run.
        """
        self.disarm()
        wanted: dict[str, frozenset[int]] = {}
        for line in lines:
            wanted[line.file] = wanted.get(line.file, frozenset()) | {line.line}
        if not wanted and not wires and not asked:
            return
        self._recorder, self._files, self._wires = recorder, wanted, wires
        self._keys = [*[wire.key for wire in wires], *(asked if not recorder.intake.follows else [])]
        self._at.clear()
        trips_of(recorder.tape).begin(self._keys, len(recorder.tape))
        if wanted or wires:
            self._coming.arm(self._lines, self._came)

    def disarm(self) -> None:
        """Note no more."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            self._coming.disarm()
            trips_of(recorder.tape).end(self._keys, len(recorder.tape))

    def _lines(self, code: CodeType) -> frozenset[int]:
        at = self._at[code] = [(lines, wire) for wire in self._wires if (lines := wire.lines(code))]
        passed = self._files.get(code.co_filename, NOWHERE)
        return NOWHERE.union(passed & lines_of(code) if passed else NOWHERE, *[lines for lines, _ in at])

    def _came(self, frame: FrameType, line: int) -> None:
        recorder, code = self._recorder, frame.f_code
        if recorder is None or is_quiet():  # MLX traces what has been recorded: the program does not come by
            return
        tape = recorder.tape
        if line in self._files.get(code.co_filename, NOWHERE):
            found = tape.passed.setdefault((code.co_filename, line), [])
            if len(tape) not in found[-1:]:
                found.append(len(tape))
        for lines, wire in self._at[code]:
            if line in lines:
                self._trip(recorder, wire, frame, line)

    def _trip(self, recorder: Recorder, wire: Wire, frame: FrameType, line: int) -> None:
        if at_work(frame):
            return  # what nnrepl calls of Python's library has variables too
        levels, trips = levels_of(recorder), trips_of(recorder.tape)
        native = levels is not None and levels.native
        inside = recorder.differentiating if not native else levels is not None and levels.inside
        position, ops = len(recorder.tape), recorder.tape.ops
        if not inside and (
            native or not (ops and ops[-1].pass_.turn)
        ):  # a turn that is recorded begins with its first op
            position = max(position - 1, 0)
        if isinstance(wire, TruthWire):
            trips.say(wire.key, position, wire.trips(frame, line))
            return
        if (native or not inside) and wire.trips(frame, line):
            trips.note(wire.key, position, not inside)
            if native and not inside:
                self._tripped()


def without_ops(tape: Tape, places: Iterable[Place]) -> Iterator[SourceLine]:
    """Yield the lines among some places of which no op has come so far."""
    for place in places:
        for line in lines_in(place):
            if not line.cell and not line.makes_ops(tape):
                yield line


def lines_in(place: Place) -> Iterator[SourceLine]:
    """Yield the lines of which a place speaks."""
    if isinstance(place, SourceLine):
        yield place
    elif isinstance(place, Within):
        yield from lines_in(place.outer)
        yield from lines_in(place.inner)
    elif isinstance(place, Condition) and place.place is not None:
        yield from lines_in(place.place)


def place_of(goal: Goal | None) -> list[Place]:
    """Return the place that a goal looks for."""
    return [goal.place] if isinstance(goal, Until) else []


def passed_by(place: Place, tape: Tape, at: int) -> str:
    """Return what to say of a stop at a place whose line has made no op; "" where it has made the one that comes
    next."""
    for line in lines_in(place):
        if at in tape.passed.get((line.file, line.line), ()) and (at >= len(tape) or line.begins(tape, at) is None):
            asked = f", where {place.condition} is asked" if place.condition else ""
            return (
                f"{line.title} makes no op; {'this is the next one' if at < len(tape) else 'none came after it'}{asked}"
            )
    return ""
