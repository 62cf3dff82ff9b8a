"""Excerpts: pieces of the program's source, with the ops that each line made in the step where the user stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from nnrepl.classes import dataclass
from nnrepl.record import segments as sources
from nnrepl.session import places
from nnrepl.session.errors import UserError
from nnrepl.tape import Activation, Op, Site, Source, Tape, own_site

if TYPE_CHECKING:
    from nnrepl.session.reading import Reading

ROWS = 11
_MOST_OPS = 20_000
_RANGE = re.compile(r"(\d{1,9})\s*,\s*(\d{0,9})")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines of a file.

    Attributes:
        path: The file.
        first, last: The lines, counted from 1.
        here: Where in the file the op at the cursor is made; None if it is not.
        ops: For each line the ops that it made in this step, by their numbers; those of its calls too.
    """

    path: str
    first: int
    last: int
    here: Source | None
    ops: dict[int, list[int]]

    @property
    def lines(self) -> list[str]:
        """The text of the lines."""
        return sources.lines_of(self.path)[self.first - 1 : self.last]


def excerpt(session: Reading, text: str, begin: int | None = None) -> Excerpt:
    """Return the lines around the cursor or a place.

    Args:
        text: "" or "." for the cursor, `10,30`, "all", or a place; any line of a file, whether ops come from it or not.
        begin: Where to go on after an earlier one.

    Raises:
        UserError: If there is no such place, or no source.
    """
    site = _site(session)
    path, line = _file(site), sources.span_of(site.scope.code, site.lasti)[0]
    if text in ("", "."):
        return _cut(session, path, begin or line - ROWS // 2)
    if text == "all":
        return _cut(session, path, 1, len(sources.lines_of(path)))
    found = _RANGE.fullmatch(text)
    if found is not None:
        first, last = int(found[1]), int(found[2] or 0) or len(sources.lines_of(path))
        return _cut(session, path, first, last if last >= first else first + last)
    path, line = _line_of(session, text, path)
    return _cut(session, path, line - ROWS // 2)


def whole_function(session: Reading, text: str = "") -> Excerpt:
    """Return the function in which the cursor or a place is; the whole file, outside of functions.

    Raises:
        UserError: If there is no such place, or no source.
    """
    site = _site(session)
    path, line = _file(site), sources.span_of(site.scope.code, site.lasti)[0]
    if text:
        path, line = _line_of(session, text, path)
    spans = [span for span in session.program.file(path).functions.values() if span[0] <= line <= span[1]]
    first, last = max(spans, default=(1, len(sources.lines_of(path))))
    return _cut(session, path, first, last)


def _site(session: Reading) -> Site:
    ops = session.tape.ops
    op = session.op or (ops[-1] if ops else None)
    site = None if op is None else own_site(op, session.skip)
    if site is None:
        raise UserError("nothing has been recorded yet, so there is no source to show")
    return site


def _file(site: Site) -> str:
    path = sources.file_of(site.scope.code)
    if not sources.lines_of(path):
        where = sources.locate(site.scope.code, site.lasti)
        raise UserError(f"the source of {where.file}:{where.line} cannot be read")
    return path


def _line_of(session: Reading, text: str, here: str) -> tuple[str, int]:
    """Return the file and the line that a place means."""
    found = re.fullmatch(r"(?:(.*?):)?(\d{1,9})", text)
    if found is not None and " cell " not in text and not text.startswith("cell "):
        paths = session.program.named(found[1]) if found[1] else [here]
        if not paths:
            raise UserError(f"there is no file {found[1]}")
        return paths[0], int(found[2])
    place = session.place(text)
    if place.kind in ("function", "class") and " " not in place.title:
        file, _, name = place.title.rpartition(":")
        definition = session.program.definition(name, file)
        if definition is not None:
            return definition.path, definition.first
    site = own_site(session.op_at(text), session.skip)
    if site is None:
        raise UserError(f"the source of {place.title} is not known")
    return _file(site), sources.span_of(site.scope.code, site.lasti)[0]


def _cut(session: Reading, path: str, first: int, last: int | None = None) -> Excerpt:
    count = len(sources.lines_of(path))
    if not count:
        raise UserError(f"the source of {path} cannot be read")
    if first > count or (last is not None and last < 1):
        raise UserError(f"{places.base(path)} has {count} lines")
    if last is None:
        first = max(min(first, count - ROWS + 1), 1)
        last = first + ROWS - 1
    op = session.op
    return Excerpt(path, max(first, 1), min(last, count), _here(op, path), ops_by_line(session, path))


def _here(op: Op | None, path: str) -> Source | None:
    """Return the piece of a file in which an op, or the innermost call in that file that led to it, stands."""
    if op is None:
        return None
    scope, lasti = op.scope, op.lasti
    while scope is not None and sources.file_of(scope.code) != path:
        lasti = scope.lasti
        scope = scope.parent
    return None if scope is None else sources.locate(scope.code, lasti)


def ops_by_line(session: Reading, path: str) -> dict[int, list[int]]:
    """For each line of a file, the numbers of the ops of this step that it made: itself, or by its calls. Ops of the
    backward pass are left out; of a very long step only this pass is looked at."""
    tape = session.tape
    step, pass_ = tape.steps.at(session.cursor), tape.pass_at(session.cursor)
    start, end = step.start, step.end
    if len(step) > _MOST_OPS and pass_ is not None:
        start, end = pass_.start, min(pass_.start + _MOST_OPS, len(tape) if pass_.open else pass_.end)
    known = _known.get(tape)
    if known is None or not known.goes_on(tape, path, start, end):
        known = _known[tape] = _Lines(path, start, step.start)
    known.read(tape.ops, end)
    return {line: numbers[:] for line, numbers in known.found.items()}


class _Lines:
    """Which ops the lines of a file have made, in a stretch of a tape, as far as that has been read."""

    def __init__(self, path: str, start: int, first: int) -> None:
        self.path = path
        self.start = self.end = start
        self.first = first
        self.last: Op | None = None
        self.found: dict[int, list[int]] = {}
        self._callers: dict[Activation, int] = {}
        self._made: dict[Activation, dict[int, list[int]]] = {}
        """For each call and each place in it, the numbers of its line."""

    def goes_on(self, tape: Tape, path: str, start: int, end: int) -> bool:
        """Whether what has been read is the beginning of a stretch: no step in it has been opened or closed since."""
        same = path == self.path and start == self.start and end >= self.end
        return same and (self.last is None or tape.ops[self.end - 1] is self.last)

    def read(self, ops: Sequence[Op], end: int) -> None:
        """Go on up to a position."""
        scope, made, before = None, dict[int, list[int]](), self.first - 1
        for op in ops[self.end : end]:
            if op.of is not None or op.scope is None:
                continue
            if op.scope is not scope:
                scope = op.scope
                made = self._made.setdefault(scope, {})
            numbers = made.get(op.lasti)
            if numbers is None:
                line = self._line(scope, op.lasti)
                numbers = made[op.lasti] = self.found.setdefault(line, []) if line else []
            numbers.append(op.position - before)
        if end > self.end:
            self.end, self.last = end, ops[end - 1]

    def _line(self, scope: Activation, lasti: int) -> int:
        if sources.file_of(scope.code) == self.path:
            return sources.span_of(scope.code, lasti)[0]
        return _caller_line(scope, self.path, self._callers)


_known: WeakKeyDictionary[Tape, _Lines] = WeakKeyDictionary()


def forget(tape: Tape) -> None:
    """Note that ops of a tape lie elsewhere than they did."""
    _known.pop(tape, None)


def _caller_line(scope: Activation, path: str, known: dict[Activation, int]) -> int:
    """Return the line of the innermost caller in a file; 0 if none is in it."""
    if scope not in known:
        parent = scope.parent
        if parent is None:
            known[scope] = 0
        elif sources.file_of(parent.code) == path:
            known[scope] = sources.span_of(parent.code, scope.lasti)[0]
        else:
            known[scope] = _caller_line(parent, path, known)
    return known[scope]
