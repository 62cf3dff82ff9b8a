"""Wires: what Python tells of a program that runs natively: that it has come to a line, entered a function, or given a
variable a value of which a condition speaks. Where a wire is tripped, something may be hit, and it is worth a look.

A wire may be tripped where nothing is hit, but never the other way round.
"""

from __future__ import annotations

import ast
import dis
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from nnrepl.installed import is_library
from nnrepl.record.frame_variables import OPTIMIZED, namespace, read
from nnrepl.session.coming import lines_of
from nnrepl.session.entered import InClass, InFunction, SourceLine
from nnrepl.session.own_names import OWN_NAMES
from nnrepl.session.parsed import Parsed
from nnrepl.session.program import is_file
from nnrepl.tape import UNBOUND, Tape
from nnrepl.tape.steps import is_turn, unit

NOWHERE: frozenset[int] = frozenset()


class Wire(Protocol):
    """One thing to be told of.

    Attributes:
        key: Tells it from others: the same key, the same moments.
    """

    key: str

    def lines(self, code: CodeType) -> frozenset[int]:
        """At which lines of a function it may be tripped; 0 for its entry."""

    def trips(self, frame: FrameType, line: int) -> bool:
        """Whether it is tripped where the program has come to one of them."""


class LineWire:
    """Tripped where the program comes to a line, or to a statement that goes over it."""

    def __init__(self, line: SourceLine) -> None:
        self._line = line
        self.key = f"{line.file}:{line.line}"

    def lines(self, code: CodeType) -> frozenset[int]:
        if not is_file(code.co_filename, self._line.file):
            return NOWHERE
        wanted = self._line.line
        found = {
            start
            for step, (start, end, _, _) in zip(dis.get_instructions(code), _positions(code))
            if start is not None and end is not None and start <= wanted <= end and _may_make_ops(step.opname)
        }
        return frozenset(found | ({wanted} & lines_of(code)))

    def trips(self, frame: FrameType, line: int) -> bool:
        return True


def _positions(code: CodeType) -> Iterator[tuple[int | None, int | None, int | None, int | None]]:
    positions = list(code.co_positions())
    return iter([positions[step.offset // 2] for step in dis.get_instructions(code)])


def _may_make_ops(name: str) -> bool:
    return name.startswith(("CALL", "BINARY", "COMPARE", "UNARY", "LOAD_ATTR", "LOAD_METHOD", "STORE_SUBSCR"))


class EntryWire:
    """Tripped where the program enters a function, or a method of a class."""

    def __init__(self, place: InFunction | InClass) -> None:
        self._place = place
        self.key = place.title

    def lines(self, code: CodeType) -> frozenset[int]:
        by_owner = isinstance(self._place, InClass) and bool(code.co_argcount)
        return frozenset([0]) if by_owner or self._place.means(code, None) else NOWHERE

    def trips(self, frame: FrameType, line: int) -> bool:
        code = frame.f_code
        owner = _local(frame, code.co_varnames[0], sys.gettrace() is not None) if code.co_argcount else None
        return self._place.means(code, owner)


class TruthWire:
    """Tells where a condition on variables of the program's has become true, or false."""

    def __init__(self, parsed: Parsed) -> None:
        self.key = f", {parsed.text}"
        self._names = [name for name in dict.fromkeys(parsed.plain_names) if name not in OWN_NAMES]
        self._code = compile(ast.Expression(parsed.only()), "<prompt>", "eval", dont_inherit=True)

    def lines(self, code: CodeType) -> frozenset[int]:
        return frozenset(lines_of(code)) if not _sets(code).isdisjoint(self._names) else NOWHERE

    def trips(self, frame: FrameType, line: int) -> bool:
        found: dict[str, Any] = {}
        for name in self._names:
            thing = variable(frame, name)
            if thing is UNBOUND:
                return False
            if not isinstance(thing, (bool, int, float, str, type(None))):
                return True  # what becomes of it between two lines is not seen
            found[name] = thing
        try:
            return bool(eval(self._code, found))
        except Exception:
            return True  # what is wrong is said where it is asked


def variable(frame: FrameType, name: str) -> Any:
    """Return what a variable holds as the program sees it in a call, else what it holds in a call around it."""
    outer: FrameType | None = frame
    while outer is not None:
        own = not is_library(outer.f_code.co_filename)
        if own or outer is frame:
            thing = _local(outer, name, outer is frame and sys.gettrace() is not None)
            if thing is UNBOUND and own:
                thing = outer.f_globals.get(name, UNBOUND)
            if thing is not UNBOUND:
                return thing
        outer = outer.f_back
    return UNBOUND


def _local(frame: FrameType, name: str, traced: bool) -> Any:
    if traced:  # Python gives the variables back to the frame when this is over: they must all be there
        return namespace(frame).get(name, UNBOUND)
    return read(frame, (name,), bool(frame.f_code.co_flags & OPTIMIZED))[0]


@lru_cache(1024)
def _sets(code: CodeType) -> frozenset[str]:
    """Return the variables that some code sets, or may see being set by a function in it."""
    ways = ("STORE_GLOBAL",) if code.co_flags & OPTIMIZED else ("STORE_NAME", "STORE_GLOBAL")
    stored = {step.argval for step in dis.get_instructions(code) if step.opname in ways}
    return frozenset((*stored, *code.co_varnames, *code.co_cellvars, *code.co_freevars))


def asks_variables_only(parsed: Parsed) -> bool:
    """Whether a condition speaks of nothing but variables, as they are: what it says changes where one is set."""
    allowed = (ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Name, ast.Constant, ast.operator, ast.cmpop,
               ast.boolop, ast.unaryop, ast.expr_context, ast.Tuple, ast.List, ast.IfExp)  # fmt: skip
    plain = not parsed.words and all(isinstance(node, allowed) for node in ast.walk(parsed.only()))
    return plain and bool(parsed.plain_names)


class Trips:
    """Where the wires on one tape were tripped.

    A trip in a call stands at the position of its op, one between two calls at that of the op before.
    """

    def __init__(self) -> None:
        self._at: dict[str, list[int]] = {}
        self._between: dict[str, list[int]] = {}
        self._truths: dict[str, list[tuple[int, bool]]] = {}
        self._known: dict[str, tuple[int, int]] = {}

    def begin(self, keys: Iterable[str], position: int) -> None:
        """From a position on it is known where these are tripped."""
        for key in keys:
            start, end = self._known.get(key, (position, -1))
            self._known[key] = (start if end >= position else position, sys.maxsize)

    def end(self, keys: Iterable[str], position: int) -> None:
        """From a position on it is not known any more."""
        for key in keys:
            if key in self._known:
                self._known[key] = (self._known[key][0], position)

    def note(self, key: str, position: int, between: bool = False) -> None:
        """Note that one has been tripped; `between` two calls, or in one."""
        places = (self._between if between else self._at).setdefault(key, [])
        if places[-1:] != [position]:
            places.append(position)

    def say(self, key: str, position: int, truth: bool) -> None:
        """Note whether what one tells of is true from a position on."""
        said = self._truths.setdefault(key, [])
        if not said or said[-1][1] != truth:
            said.append((position, truth))

    def may(self, key: str, tape: Tape, number: int) -> bool:
        """Whether one was, or may have been, tripped where that counts in a step."""
        step = unit(tape, number)
        start, end = self._known.get(key, (0, -1))
        if step.start < start or step.end > end:
            return True
        said = self._truths.get(key)
        if said is not None:
            first = bisect_left(said, step.start - (not is_turn(number)), key=_first)
            return (first > 0 and said[first - 1][1]) or any(
                [truth for position, truth in said[first:] if position < step.end]
            )
        before = step.start if is_turn(number) else tape.steps[number - 2].start if number > 1 else 0
        inside, between = self._at.get(key, []), self._between.get(key, [])
        return _any_in(inside, step.start, step.end) or _any_in(between, before, step.end)

    def carry(self, old: Trips, length: int, moved: Callable[[int], int]) -> None:
        """Take over what is not known from this run: what was known on a tape of some length, whose positions have
        moved."""
        for key in old._known.keys() - self._known.keys():
            start, end = old._known[key]
            self._known[key] = (moved(start), moved(min(end, length)))
            self._at[key] = [moved(at) for at in old._at.get(key, [])]
            self._between[key] = [moved(at) for at in old._between.get(key, [])]
            if key in old._truths:
                self._truths[key] = [(moved(at), truth) for at, truth in old._truths[key]]

    def move(self, moved: Callable[[int], int]) -> None:
        """Note that positions of the tape have moved."""
        far = sys.maxsize
        self._known = {key: (moved(a), b if b == far else moved(b)) for key, (a, b) in self._known.items()}
        for places in (self._at, self._between):
            for key in places:
                places[key] = list(dict.fromkeys(map(moved, places[key])))
        self._truths = {key: [(moved(at), truth) for at, truth in said] for key, said in self._truths.items()}


def _first(entry: tuple[int, bool]) -> int:
    return entry[0]


def _any_in(places: list[int], start: int, end: int) -> bool:
    at = bisect_left(places, start)
    return at < len(places) and places[at] < end


_TRIPS: WeakKeyDictionary[Tape, Trips] = WeakKeyDictionary()


def trips_of(tape: Tape) -> Trips:
    """Return where the wires on a tape were tripped."""
    if tape not in _TRIPS:
        _TRIPS[tape] = Trips()
    return _TRIPS[tape]
