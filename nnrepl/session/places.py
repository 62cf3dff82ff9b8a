"""Places: what a person may write where a command wants a point on the tape."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nnrepl.session.errors import UserError
from nnrepl.session.lookup import Lookup
from nnrepl.tape import BACKWARD, FORWARD, PHASES, SETUP, UPDATE, Op, Tape

FIXED = ("start", "end", "setup", "forward", "backward", "update", "first", "last")


@dataclass(frozen=True, slots=True)
class Place:
    """Something that ops can be at.

    Attributes:
        text: As the person wrote it.
        kind: "op", "prompt", "line", "pass", "phase", "operation", "module", "value" or "edge".
        matches: Whether an op is there.
        phase: The phase it is limited to, or "".
    """

    text: str
    kind: str
    matches: Callable[[Op], bool]
    phase: str = ""


def parse(text: str, lookup: Lookup) -> Place:
    """Read a place: an op number, a line, a phase, an op's name, a module path, or a value's name; with a
    phase before it where it is meant only there (`backward matmul`).

    Raises:
        UserError: If it is none of these.
    """
    text = text.strip()
    phase, _, rest = text.partition(" ")
    if rest.strip() and phase in PHASES:
        inner = parse(rest, lookup)
        return Place(text, inner.kind, lambda op: op.phase == phase and inner.matches(op), phase)
    for reader in (_number, _prompt, _line, _pass, _phase, _named):
        place = reader(text, lookup)
        if place is not None:
            return place
    raise UserError(
        f"no op, value or module is called {text}{lookup.suggest(text)}; "
        "a place is #12, train.py:31, pass 2, a value, an op such as matmul, or a module path"
    )


def _number(text: str, lookup: Lookup) -> Place | None:
    match = re.fullmatch(r"#?(-?\d+)", text)
    if match is None:
        return None
    index = int(match[1][:12])
    if index == 0:
        raise UserError("ops count from #1; setup counts backwards from #-1")
    position = lookup.tape.position(index)
    return Place(f"#{index}", "op", lambda op: op.position == position)


def _prompt(text: str, lookup: Lookup) -> Place | None:
    """`prompt 3`: what a typed cell did, in the calls that it made as well; `prompt 3:2` its second line."""
    match = re.fullmatch(r"<?prompt (\d{1,9})>?(?::(\d{1,9}))?", text)
    if match is None:
        return None
    name, line = f"<prompt {match[1]}>", match[2]
    if line is not None:
        return _line(f"{name}:{line}", lookup)
    return Place(text, "prompt", lambda op: op.scope is not None and op.scope.path()[0].code.co_filename == name)


def _line(text: str, lookup: Lookup) -> Place | None:
    match = re.fullmatch(r"(.*?):(\d{1,9})", text)
    if match is None:
        return None
    file, line = match[1], int(match[2])
    in_cell = re.fullmatch(r"(.*?) ?cell (\d{1,9})", file)
    cell = int(in_cell[2]) if in_cell else None
    file = in_cell[1] if in_cell else file

    def matches(op: Op) -> bool:
        source = op.source
        if cell is not None and source.cell != cell:
            return False
        return source.line <= line <= source.end_line and _is_file(source.file, file)

    return Place(text, "line", matches)


def _is_file(path: str, wanted: str) -> bool:
    return not wanted or path == wanted or path.endswith("/" + wanted) or path.rsplit("/", 1)[-1] == wanted


def _pass(text: str, lookup: Lookup) -> Place | None:
    match = re.fullmatch(r"pass (\d{1,9})", text)
    if match is None:
        return None
    number = int(match[1])
    return Place(text, "pass", lambda op: op.part.number == number)


def _phase(text: str, lookup: Lookup) -> Place | None:
    if text in (SETUP, FORWARD, BACKWARD, UPDATE):
        return Place(text, "phase", lambda op: op.phase == text)
    return None


def _named(text: str, lookup: Lookup) -> Place | None:
    if re.fullmatch(r"grad\(.+\)|∂L/∂.+", text):
        inner = text[5:-1] if text.startswith("grad(") else text.removeprefix("∂L/∂")
        return Place(text, "value", lambda op: any(_is_gradient(value, inner, lookup) for value in op.outputs))
    if lookup.names.versions(text):
        return Place(text, "value", lambda op: any(text in lookup.names.all_names(value) for value in op.outputs))
    name = text.removeprefix("mx.")
    if is_operation(name, lookup.tape):
        return Place(text, "operation", lambda op: operation_is(op, name))
    pattern = text.rstrip(".")
    if any(_in_module(op, pattern) for op in lookup.tape.ops):
        return Place(text, "module", lambda op: _in_module(op, pattern))
    return None


def _is_gradient(value: object, name: str, lookup: Lookup) -> bool:
    of = getattr(value, "gradient_of", None)
    return of is not None and name in lookup.names.all_names(of)


def operation_is(op: Op, name: str) -> bool:
    """Whether an op, or the forward op that it differentiates, is an operation of that name."""
    return any(
        candidate in (name, f"vjp of {name}") or candidate.rpartition(".")[2] == name
        for candidate in (op.operation.name, op.root.operation.name)
    )


def is_operation(name: str, tape: Tape) -> bool:
    """Whether MLX has an operation of that name, or the tape an op."""
    from nnrepl.record import catalog

    if any(operation_is(op, name) for op in tape.ops):
        return True
    names = {catalog.operation(callee).name for callee in catalog.CALLEES if callee.treatment in ("op", "augmented")}
    return name in names or any(known.rpartition(".")[2] == name for known in names)


def _in_module(op: Op, pattern: str) -> bool:
    path = op.module
    return bool(path) and (fnmatchcase(path, pattern) or path.startswith(pattern + "."))


def find_on_line(line: int, lookup: Lookup, near: Op | None) -> Place:
    """`until 31`: a line of the file in which the person stands."""
    file = near.source.file if near is not None else ""
    place = _line(f"{file}:{line}", lookup)
    assert place is not None
    return place
