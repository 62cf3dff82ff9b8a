"""Matching: where on a tape a breakpoint's place is.

A line, a module and a function are *entered*: they match the first op that an execution of them makes, and, in the
backward pass, the first op that differentiates one of that execution's ops. The other places match single ops.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from types import CodeType
from typing import Any, Protocol

from nnrepl.record import source as sources
from nnrepl.record.names import GRADIENT_SIGN, ProgramNames
from nnrepl.record.stack import is_module
from nnrepl.session.lookup import NUMBER
from nnrepl.session.places import is_operation, operation_is
from nnrepl.tape import (
    BACKWARD,
    GRADIENT_PASS,
    PHASES,
    UPDATE_PASS,
    Activation,
    Leaf,
    Op,
    Operation,
    Pass,
    Tape,
    Value,
)


class Matcher(Protocol):
    """Finds a place.

    Attributes:
        kind: "op", "line", "phase", "value", "operation", "module" or "function".
    """

    kind: str

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        """The positions of the place from `start` to before `end`, in the order in which they are come by."""


def matcher(text: str, tape: Tape, names: ProgramNames, seen: int = 0) -> Matcher | None:
    """What finds the place that a text names; None if nothing on the tape is called so (yet).

    Args:
        seen: How many of the tape's ops were looked at before, in vain.
    """
    phase, _, rest = text.partition(" ")
    if phase in PHASES and rest.strip():
        inner = matcher(rest.strip(), tape, names, seen)
        return None if inner is None else Limited(inner, phase)
    number = NUMBER.fullmatch(text)
    if number is not None:
        step = 0 if number["setup"] else int(number["step"]) if number["step"] else tape.here
        return Number(int(number["number"]), step)
    line = LINE.fullmatch(text)
    if line is not None:
        return Line(line["file"], int(line["line"]), int(line["cell"] or 0))
    if text in PHASES:
        return Phase(text)
    number = re.fullmatch(r"(pass|step) (\d{1,9})", text)
    if number is not None:
        return PassStart(int(number[2])) if number[1] == "pass" else StepStart(int(number[2]))
    return _named(text, tape, names, seen)


LINE = re.compile(r"(?P<file>.*?)(?: ?cell (?P<cell>\d{1,9}))?:(?P<line>\d{1,9})")


def _named(text: str, tape: Tape, names: ProgramNames, seen: int) -> Matcher | None:
    of = gradient_name(text)
    if of is not None:
        return Written(of, names, gradient=True) if names.versions(of) else None
    if names.versions(text):
        return Written(text, names)
    operation = text.removeprefix("mx.")
    if is_operation(operation, tape) if not seen else any(operation_is(op, operation) for op in tape.ops[seen:]):
        return Called(operation)
    for made in (InModule(text.rstrip(".")), InFunction(text)):
        if any(True for _ in made.positions(tape, seen, len(tape), False)):
            return made
    return None


def gradient_name(text: str) -> str | None:
    """`z1` for `grad(z1)` and `∂L/∂z1`; None for anything else."""
    found = re.fullmatch(r"grad\((.+)\)", text)
    if found is not None:
        return found[1].strip()
    return text.removeprefix(GRADIENT_SIGN) if text.startswith(GRADIENT_SIGN) else None


def _run(positions: Iterable[int], start: int, end: int, reverse: bool) -> Iterator[int]:
    """Sorted positions, cut to a range and in the order wanted."""
    within = sorted({at for at in positions if start <= at < end}, reverse=reverse)
    return iter(within)


def _range(tape: Tape, start: int, end: int, reverse: bool) -> range:
    end = min(end, len(tape))
    return range(end - 1, start - 1, -1) if reverse else range(start, end)


class Limited:
    """A place in one phase only."""

    def __init__(self, inner: Matcher, phase: str) -> None:
        self.kind = inner.kind
        self._inner = inner
        self._phase = phase

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        for at in self._inner.positions(tape, start, end, reverse):
            if at < len(tape) and tape.ops[at].phase == self._phase:
                yield at


class Number:
    """An op by its number."""

    kind = "op"

    def __init__(self, index: int, step: int) -> None:
        self.index = index
        self._step = step

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        at = tape.position(self.index, self._step)
        found = at is not None and self.index and at < len(tape) and tape.steps.number_at(at) == self._step
        return _run([at] if found and at is not None else [], start, end, reverse)


class Phase:
    """The first op of each forward pass, backward pass, update, or of the setup."""

    kind = "phase"

    def __init__(self, phase: str) -> None:
        self._phase = phase

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        found = []
        for part in tape.passes:
            at = part.backward if self._phase == BACKWARD and part.kind == GRADIENT_PASS else part.start
            if at < len(tape) and tape.ops[at].part is part and tape.ops[at].phase == self._phase:
                found.append(at)
        return _run(found, start, end, reverse)


class PassStart:
    """The first op of a pass."""

    kind = "pass"

    def __init__(self, number: int) -> None:
        self._number = number

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        return _run([part.start for part in tape.passes if part.number == self._number], start, end, reverse)


class StepStart:
    """The first op of a training step."""

    kind = "step"

    def __init__(self, number: int) -> None:
        self._number = number

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        at = tape.steps.start_of(self._number) if self._number else None
        return _run([] if at is None else [at], start, end, reverse)


class Written:
    """The ops that make a value of some name, or a gradient with respect to one."""

    kind = "value"

    def __init__(self, name: str, names: ProgramNames, gradient: bool = False) -> None:
        self.name = name
        self._names = names
        self._gradient = gradient

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        makers = [value.op for value in self.values(tape)]
        return _run([op.position for op in makers if op is not None], start, end, reverse)

    def values(self, tape: Tape) -> Iterator[Value]:
        """Every version of the value, or of its gradient (the parts of a sum count)."""
        for position, value in self._names.versions(self.name):
            if not self._gradient:
                yield value
                continue
            part = tape.pass_at(position if isinstance(value, Leaf) else position - 1)
            if part is not None:
                yield from part.grads.get(value.canonical, ())


class Called:
    """The ops of an operation, and those that differentiate them."""

    kind = "operation"

    def __init__(self, name: str) -> None:
        self._name = name
        self._known: dict[tuple[Operation, Operation], bool] = {}

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        known, ops = self._known, tape.ops
        for at in _range(tape, start, end, reverse):
            op = ops[at]
            key = (op.operation, op.root.operation)
            found = known.get(key)
            if found is None:
                found = known[key] = operation_is(op, self._name)
            if found:
                yield at


class Entered:
    """A place that is entered: what an execution of it makes belongs together."""

    kind = ""

    def __init__(self) -> None:
        self._passes: dict[Pass, tuple[int, list[int]]] = {}

    def begins(self, tape: Tape, at: int) -> bool | None:
        """Whether the op at a position is the first of an execution; None if it belongs to none."""
        raise NotImplementedError

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        parts = [part for part in tape.passes if part.start < end and (part.open or part.end > start)]
        for part in reversed(parts) if reverse else parts:
            if part.kind == GRADIENT_PASS and not part.open:
                yield from _run(self._in_pass(tape, part), start, end, reverse)
                continue
            last = len(tape) if part.open else part.end
            for at in _range(tape, max(start, part.start), min(end, last), reverse):
                if self.begins(tape, at):
                    yield at

    def _in_pass(self, tape: Tape, part: Pass) -> list[int]:
        """Where the place is entered in a gradient pass, and where its gradients begin."""
        length, found = self._passes.get(part, (-1, []))
        if length == len(part):
            return found
        executions: dict[Op, int] = {}
        found, number = [], 0
        for at in range(part.start, part.backward):
            begins = self.begins(tape, at)
            if begins:
                number += 1
                found.append(at)
            if begins is not None:
                executions[tape.ops[at]] = number
        seen: set[int] = set()
        for at in range(part.backward, part.end):
            execution = executions.get(tape.ops[at].root, 0)
            if execution and execution not in seen:
                seen.add(execution)
                found.append(at)
        self._passes[part] = (len(part), found)
        return found


def _previous(tape: Tape, at: int) -> Op | None:
    """The op before a position, if it is in the same pass and phase."""
    if at == 0 or tape.ops[at - 1].part is not tape.ops[at].part:
        return None
    return tape.ops[at - 1]


class InCall(Entered):
    """Ops in a call of a function: entered with each call."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[Activation, Activation | None] = {}

    def accepts(self, call: Activation) -> bool:
        """Whether a call is one of those meant."""
        raise NotImplementedError

    def call(self, scope: Activation | None) -> Activation | None:
        """The outermost call of those meant in which a scope lies."""
        if scope is None:
            return None
        if scope not in self._calls:
            self._calls[scope] = self.call(scope.parent) or (scope if self.accepts(scope) else None)
        return self._calls[scope]

    def begins(self, tape: Tape, at: int) -> bool | None:
        call = self.call(tape.ops[at].scope)
        if call is None:
            return None
        before = _previous(tape, at)
        return before is None or before.scope is None or not before.scope.within(call)


class InModule(InCall):
    """Ops of a module, by its path with wildcards; in an update, of the parameters below the path."""

    kind = "module"

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = pattern
        self._paths: dict[int, tuple[Any, dict[int, str]]] = {}

    def accepts(self, call: Activation) -> bool:
        if not is_module(call.owner):
            return False
        roots = [step.owner for step in call.path() if is_module(step.owner)]
        path = self._path(roots[0], call.owner)
        return bool(path) and fnmatchcase(path, self._pattern)

    def _path(self, root: Any, module: Any) -> str:
        if id(root) not in self._paths:
            self._paths[id(root)] = (root, {id(part): path for path, part in root.named_modules()})
        return self._paths[id(root)][1].get(id(module), "")

    def begins(self, tape: Tape, at: int) -> bool | None:
        op = tape.ops[at]
        if op.part.kind != UPDATE_PASS:
            return super().begins(tape, at)
        path = op.module
        if not (path and (fnmatchcase(path, self._pattern) or fnmatchcase(path, f"{self._pattern}.*"))):
            return None
        before = _previous(tape, at)
        return before is None or before.module != path


class InFunction(InCall):
    """Ops of a Python function, by its name: `loss_fn`, `Attention.__call__`, `train.py:loss_fn`."""

    kind = "function"

    def __init__(self, name: str) -> None:
        super().__init__()
        self._file, _, self._name = name.rpartition(":")

    def accepts(self, call: Activation) -> bool:
        code = call.code
        named = self._name in (code.co_name, code.co_qualname) or code.co_qualname.endswith("." + self._name)
        return named and code.co_name != "<module>" and is_file(code.co_filename, self._file)


def is_file(path: str, wanted: str) -> bool:
    """Whether a path is the file that a person names by its end."""
    return not wanted or path == wanted or path.endswith("/" + wanted.lstrip("./")) or os.path.basename(path) == wanted


class Line(Entered):
    """A line of source: entered each time the program comes to it, directly or for a call that it makes."""

    kind = "line"

    def __init__(self, file: str, line: int, cell: int = 0) -> None:
        super().__init__()
        self.file, self.line, self.cell = file, line, cell
        self._places: dict[tuple[CodeType, int], bool] = {}
        self._callers: dict[Activation, list[Activation]] = {}

    def _covers(self, code: CodeType, lasti: int) -> bool:
        key = (code, lasti)
        found = self._places.get(key)
        if found is None:
            source = sources.locate(code, lasti)
            found = source.line <= self.line <= source.end_line and is_file(source.file, self.file)
            found = self._places[key] = found and (not self.cell or source.cell == self.cell)
        return found

    def _calls(self, scope: Activation) -> list[Activation]:
        """The calls around (and with) a scope that were made from the line."""
        known = self._callers.get(scope)
        if known is None:
            parent = scope.parent
            known = [] if parent is None else list(self._calls(parent))
            if parent is not None and self._covers(parent.code, scope.lasti):
                known.append(scope)
            self._callers[scope] = known
        return known

    def begins(self, tape: Tape, at: int) -> bool | None:
        op = tape.ops[at]
        if op.scope is None:
            return None
        before = _previous(tape, at)
        found: bool | None = None
        for call in self._calls(op.scope):
            found = found or not self._goes_on(before, call.parent, call, call.lasti)
        if self._covers(op.scope.code, op.lasti):
            found = found or not self._goes_on(before, op.scope, None, op.lasti)
        return found

    def _goes_on(self, before: Op | None, where: Activation | None, call: Activation | None, lasti: int) -> bool:
        """Whether the op before belongs to the same execution of the line: the same call, or further left."""
        if before is None or before.scope is None or where is None or not before.scope.within(where):
            return False
        step: Activation | None = before.scope
        offset = before.lasti
        while step is not None and step is not where:
            if step is call:
                return True
            offset = step.lasti
            step = step.parent
        return self._covers(where.code, offset) and offset < lasti


def lines_with_ops(tape: Tape, file: str) -> tuple[str, list[int]]:
    """A file on the tape, and the lines of it from which ops, or calls that make ops, come."""
    path = ""
    lines: set[int] = set()
    known: set[Activation | None] = {None}
    places: set[tuple[CodeType, int]] = set()
    for op in tape.ops:
        scope, lasti = op.scope, op.lasti
        while scope is not None:
            if (scope.code, lasti) not in places and is_file(scope.code.co_filename, file):
                path = scope.code.co_filename
                first, last = sources.span_of(scope.code, lasti)[:2]
                lines.update(range(first, last + 1))
            places.add((scope.code, lasti))
            caller = None if scope in known else scope.parent
            known.add(scope)
            lasti, scope = scope.lasti, caller
    return path, sorted(lines)


def lines_with_code(path: str) -> set[int]:
    """The lines of a file that Python runs; empty if that cannot be told."""
    try:
        pending = [compile("".join(sources.lines_of(path)), path, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return set()
    lines: set[int] = set()
    while pending:
        code = pending.pop()
        lines.update(line for _, _, line in code.co_lines() if line)
        pending.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return lines


def nearest(lines: list[int], line: int) -> list[int]:
    """The lines before and behind one."""
    at = bisect_left(lines, line)
    return [*lines[max(at - 1, 0) : at], *lines[at : at + 1]]
