"""Entered: the places that are entered: lines, functions, classes and modules.

They match the first op that an execution of them makes and, in the backward pass, the first op that differentiates
one of that execution's ops; where an execution takes the gradients itself (a function that trains), that is all one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from types import CodeType
from typing import Any

from nnrepl.installed import is_library
from nnrepl.record import segments as sources
from nnrepl.record.stack import is_module
from nnrepl.session.errors import UserError
from nnrepl.session.place import Here, Place, ordered, passes_between, within
from nnrepl.session.program import is_called, is_file
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, Op, Pass, Tape
from nnrepl.timeline.typed_cells import filename


class Entered(Place):
    """A place that is entered: what an execution of it makes belongs together."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._passes: dict[Pass, tuple[int, list[int]]] = {}

    def begins(self, tape: Tape, at: int) -> bool | None:
        """Whether the op at a position is the first of an execution; None if it belongs to none."""
        raise NotImplementedError

    def around(self, tape: Tape, at: int, pass_: Pass) -> bool:
        """Whether the execution that makes an op of a gradient pass has called for the gradients as well: it goes on
        through the backward pass, which is then not another coming to it."""
        raise NotImplementedError

    def holds(self, tape: Tape, at: int) -> bool:
        """Whether an op, or the forward op that it differentiates, was made by an execution of the place."""
        return at < len(tape) and self.begins(tape, tape.ops[at].root.position) is not None

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        passes = passes_between(tape, start, end)
        for pass_ in reversed(passes) if reverse else passes:
            if pass_.kind == GRADIENT_PASS and not pass_.open:
                yield from ordered(self._in_pass(tape, pass_), start, end, reverse)
                continue
            last = len(tape) if pass_.open else pass_.end
            for at in within(tape, max(start, pass_.start), min(end, last), reverse):
                if self.begins(tape, at):
                    yield at

    def _in_pass(self, tape: Tape, pass_: Pass) -> list[int]:
        """Where the place is entered in a gradient pass, and where its gradients begin."""
        length, found = self._passes.get(pass_, (-1, []))
        if length == len(pass_):
            return found
        executions: dict[Op, int] = {}
        found, number = [], 0
        for at in range(pass_.start, pass_.backward):
            begins = self.begins(tape, at)
            if begins:
                number += 1
                found.append(at)
            if begins is not None:
                executions[tape.ops[at]] = 0 if self.around(tape, at, pass_) else number
        seen: set[int] = set()
        for at in range(pass_.backward, pass_.end):
            op = tape.ops[at]
            # What a custom function's own vjp makes are ops of the program's, which runs only here.
            if op.of is None and op.root.operation.kind == "custom" and op.root not in executions:
                begins = self.begins(tape, at)
                number += bool(begins)
                found += [at] if begins else []
                if begins is not None:
                    executions[op] = number
            execution = executions.get(op.root, 0)
            if execution and execution not in seen:
                seen.add(execution)
                found.append(at)
        self._passes[pass_] = (len(pass_), found)
        return found


_CALLED_LATER = frozenset(("<lambda>", "<genexpr>"))
"""What functions are called that stand in a line of another one, and are called from elsewhere. Other comprehensions
are functions up to Python 3.11 only: in them the user stands within."""


def _before(tape: Tape, at: int) -> Op | None:
    """Return the op before a position, of whatever pass: a function that trains goes through many."""
    return tape.ops[at - 1] if at else None


class InCall(Entered):
    """Ops in a call of a function: entered with each call."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._calls: dict[Activation, Activation | None] = {}

    def accepts(self, call: Activation, tape: Tape, at: int) -> bool:
        """Whether a call is one of those meant, in which an op of a tape lies."""
        raise NotImplementedError

    def call(self, tape: Tape, at: int, scope: Activation | None) -> Activation | None:
        """Return the outermost call of those meant in which a scope lies that an op of a tape lies in."""
        if scope is None:
            return None
        if scope not in self._calls:
            outer = self.call(tape, at, scope.parent)
            self._calls[scope] = outer or (scope if self.accepts(scope, tape, at) else None)
        return self._calls[scope]

    def begins(self, tape: Tape, at: int) -> bool | None:
        call = self.call(tape, at, tape.ops[at].scope)
        if call is None:
            return None
        before = _before(tape, at)
        return before is None or before.scope is None or not before.scope.within(call)

    def frame(self, tape: Tape, at: int) -> Activation | None:
        return self.call(tape, at, tape.ops[at].root.scope) if at < len(tape) else None

    def around(self, tape: Tape, at: int, pass_: Pass) -> bool:
        call = self.call(tape, at, tape.ops[at].scope)
        return call is not None and pass_.scope is not None and pass_.scope.within(call)


class InModule(InCall):
    """Ops of a module, by its path with wildcards; in an update, of the parameters below the path.

    Args:
        title: How it is spelled: with the variable that holds the model, where that is said.
        pattern: The path within its model.
        model: The model that is meant; None for any.
    """

    kind, words = "module", "a module, where it is entered"
    whole = by_name = True  # what an update makes is a module's by the name of the weight

    def __init__(self, title: str, pattern: str, model: Any = None) -> None:
        super().__init__(title)
        self.pattern = pattern
        self._model = model

    def accepts(self, call: Activation, tape: Tape, at: int) -> bool:
        if not is_module(call.owner):
            return False
        root = self._model
        if root is None:
            root = next(step.owner for step in call.path() if is_module(step.owner))
        path = tape.names.path_in(root, call.owner, at)
        return path is not None and (bool(path) or not self.pattern) and fnmatchcase(path, self.pattern)

    def begins(self, tape: Tape, at: int) -> bool | None:
        op = tape.ops[at]
        if op.pass_.kind != UPDATE_PASS:
            return super().begins(tape, at)
        path = op.module
        if not (path and (fnmatchcase(path, self.pattern) or fnmatchcase(path, f"{self.pattern}.*"))):
            return None
        before = _before(tape, at)
        return before is None or before.pass_.outermost is not op.pass_.outermost or before.module != path


class InNamed(InCall):
    """Ops of what the program's source calls by a name."""

    whole = True

    def __init__(self, title: str, name: str, file: str = "") -> None:
        super().__init__(title)
        self._file, self.name = file, name

    def accepts(self, call: Activation, tape: Tape, at: int) -> bool:
        return self.means(call.code, call.owner)

    def means(self, code: CodeType, owner: Any) -> bool:
        """Whether a call of some code is meant, whose first argument is `owner`."""
        raise NotImplementedError


class InFunction(InNamed):
    """Ops of a Python function, by the end of its qualified name: `loss_fn`, `Attention.__call__`."""

    kind, words = "function", "a function, where it is entered"

    def means(self, code: CodeType, owner: Any) -> bool:
        named = self.name == code.co_name or is_called(code.co_qualname, self.name)
        return named and code.co_name != "<module>" and is_file(code.co_filename, self._file)


class InTyped(InCall):
    """Ops of what was typed at the prompt: `prompt 3`."""

    kind, words = "prompt", "what was typed, where it begins"
    form = r"<?prompt (?P<number>\d{1,9})>?(?::(?P<line>\d{1,9}))?"
    whole = True

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """`prompt 3`, what was typed there and the calls that it makes; `prompt 3:2` its second line."""
        number, line = int(written["number"]), int(written["line"] or 0)
        name = filename(number)
        if not sources.lines_of(name):
            raise UserError(f"nothing was typed as prompt {number}")
        return SourceLine(f"prompt {number}:{line}", name, line, 0) if line else cls(f"prompt {number}", name)

    def __init__(self, title: str, filename: str) -> None:
        super().__init__(title)
        self._filename = filename

    def accepts(self, call: Activation, tape: Tape, at: int) -> bool:
        return call.code.co_filename == self._filename and call.code.co_name == "<module>"


class InClass(InNamed):
    """Ops of a class: of its methods, and of the modules that are its instances."""

    kind, words = "class", "a class, where its methods are entered"

    def means(self, code: CodeType, owner: Any) -> bool:
        kind = type(owner).__qualname__ if is_module(owner) and _is_method(code, type(owner)) else ""
        holder = code.co_qualname.rpartition(".")[0]
        named = is_called(holder, self.name) or (bool(kind) and is_called(kind, self.name))
        return named and is_file(code.co_filename, self._file)


def _is_method(code: CodeType, kind: type) -> bool:
    """Whether some code that is called with an object of a class is that of a method: `loss_fn(model, x)` is none."""
    holder = code.co_qualname.rpartition(".")[0]
    if (holder and not holder.endswith("<locals>")) or is_library(code.co_filename):
        return True  # of the class, or of one that it has inherited
    return any(getattr(part, "__code__", None) is code for base in kind.__mro__ for part in vars(base).values())


class InCell(InCall):
    """Ops that a cell of a notebook makes as it runs: entered once, whatever passes begin in it.

    Args:
        number: Which cell; 0 for any.
    """

    kind, words = "cell", "a cell, where it begins"
    form = r"cell \d{1,9}"
    whole = True

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """`cell 3` of the notebook that runs."""
        number, known = int(written[0].split()[1]), cells_of(here.tape)
        if not known:
            raise UserError("this program has no cells: only notebooks have")
        if number not in known:
            raise UserError(f"there is no cell {number}; the notebook has cells {known[0]} to {known[-1]}")
        return cls(number)

    def __init__(self, number: int) -> None:
        super().__init__(f"cell {number}" if number else "next cell")
        self.number = number

    def accepts(self, call: Activation, tape: Tape, at: int) -> bool:
        number = sources.cell_of(call.code)[1]
        return call.code.co_name == "<module>" and bool(number) and self.number in (0, number)

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        return (at for at in within(tape, start, end, reverse) if self.begins(tape, at))


class SourceLine(Entered):
    """A line of source: entered each time the program comes to it, directly or for a call that it makes."""

    kind, words = "line", "a line"
    whole = True

    def __init__(self, title: str, file: str, line: int, cell: int = 0) -> None:
        super().__init__(title)
        self.file, self.line, self.cell = file, line, cell
        self._places: dict[tuple[CodeType, int], bool] = {}
        self._callers: dict[Activation, list[Activation]] = {}
        self._seen = 0

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        made = super().positions(tape, start, end, reverse)
        passed = [at for at in tape.passed.get((self.file, self.line), ()) if start <= at < end]
        return ordered({*made, *passed}, start, end, reverse) if passed else made

    def makes_ops(self, tape: Tape) -> bool:
        """Whether an op has come from the line so far. Costs time in the ops that are new since it was asked last."""
        while self._seen < len(tape):
            if self.begins(tape, self._seen) is not None:
                return True
            self._seen += 1
        return False

    def _covers(self, code: CodeType, lasti: int) -> bool:
        key = (code, lasti)
        found = self._places.get(key)
        if found is None:
            source = sources.locate(code, lasti)
            found = source.line <= self.line <= source.end_line and is_file(source.file, self.file)
            found = self._places[key] = found and (not self.cell or source.cell == self.cell)
        return found

    def _calls(self, scope: Activation) -> list[Activation]:
        """Return the calls around (and with) a scope that were made from the line."""
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
        before = _before(tape, at)
        found: bool | None = None
        for call in self._calls(op.scope):
            found = found or not self._goes_on(before, call.parent, call, call.lasti)
        if self._covers(op.scope.code, op.lasti):
            found = found or not self._goes_on(before, op.scope, None, op.lasti)
        return found

    def frame(self, tape: Tape, at: int) -> Activation | None:
        if at >= len(tape):
            return None
        scope, lasti = tape.ops[at].root.scope, tape.ops[at].root.lasti
        while scope is not None and not self._covers(scope.code, lasti):
            lasti = scope.lasti
            scope = scope.parent
        for call in [] if scope is None else reversed(self._calls(scope)):
            # As in pdb, which comes to a line before it comes to the lambda that stands in it.
            around = call.parent
            if scope is None or scope.code.co_name not in _CALLED_LATER or around is None:
                break
            begins = sources.locate(around.code, call.lasti).line == self.line
            if not begins or self._goes_on(_before(tape, at), around, call, call.lasti):
                break
            scope = around
        return scope

    def around(self, tape: Tape, at: int, pass_: Pass) -> bool:
        scope = pass_.scope
        return scope is not None and (bool(self._calls(scope)) or self._covers(scope.code, pass_.lasti))

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


WRITTEN: tuple[type[Place], ...] = (InTyped, InCell)
"""Those that are told by how they are written."""


def check_cells(tape: Tape) -> None:
    """Raise UserError unless a notebook runs."""
    if not cells_of(tape):
        raise UserError("this program has no cells: only notebooks have; next step goes to the next training step")


def cells_of(tape: Tape) -> list[int]:
    """Return the numbers of the cells of the notebook on a tape; empty for another program."""
    for op in tape.ops:
        path = sources.cell_of(op.scope.path()[0].code)[0] if op.scope is not None else ""
        if path:
            return sources.cells_in(path)
    return []
