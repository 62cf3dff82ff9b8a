"""Saving: writes what a session knows into one safetensors file, arrays as tensors and the rest as JSON.

The JSON is a set of tables whose rows refer to each other by number, always backwards: `files` (the lines of
the source), `codes`, `owners`, `scopes`, `values`, `operations`, `ops`, `tapes`, `timelines`, and what the variables
held (`nnrepl.programs.bound`). Rows that timelines share stand there once. `nnrepl.programs.saved` reads it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import mlx.core as mx

from nnrepl._version import VERSION
from nnrepl.classes import dataclass
from nnrepl.programs import insides
from nnrepl.programs.arrays import SUFFIX
from nnrepl.programs.bound import BoundRows
from nnrepl.programs.savefile import check_target, harmless, write
from nnrepl.programs.standins import class_name
from nnrepl.programs.whereabouts import AROUND, CodeFiles, Owners
from nnrepl.record import segments as sources
from nnrepl.record.names import ProgramNames
from nnrepl.record.stack import is_module, is_optimizer
from nnrepl.record.titles import message_of
from nnrepl.record.verify import same_bits
from nnrepl.record.vjp import Rule
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.tape import Activation, BackwardOp, Leaf, Op, Pass, Tape, Value, text_of
from nnrepl.timeline.timelines import Timeline

if TYPE_CHECKING:
    from nnrepl.session.session import TapeSession

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written.

    Attributes:
        path: The file.
        ops: How many ops the tape has that the user looks at.
        timelines: How many timelines.
        values, kept: How many values there are, and of how many the numbers are in the file.
        size: The length of the file in bytes.
    """

    path: str
    ops: int
    timelines: int
    values: int
    kept: int
    size: int


def save(session: TapeSession, name: str, everything: bool = False) -> Saved:
    """Write the tape, with all its timelines, into a file; a file of that name is replaced when the new one is
    complete, never before.

    Args:
        name: The file; `.safetensors` is added where it is missing.
        everything: Evaluate what has not been evaluated yet, and keep all values; else those that are evaluated.

    Raises:
        UserError: If it cannot be written; then nothing has changed.
    """
    path = name if name.endswith(SUFFIX) else name + SUFFIX
    check_target(path)
    if not session.tape.ops:
        raise UserError("nothing has been recorded yet; step to the first op, then save")
    tables = Tables()
    timelines = tables.timelines(session)
    values = list(tables.values)
    forgotten = [value for value in values if value.dropped] if everything else []
    try:
        if everything:
            session.evaluate([value for value in values if not value.refusal])
        with aside():
            arrays, stored = _arrays(values)
            text = json.dumps(tables.document(session, timelines, stored), separators=(",", ":"))
            size = write(path, arrays, text)
    finally:
        for value in forgotten:
            value.forget()
    return Saved(path, len(session.tape), len(session.changes.timelines), len(values), len(stored), size)


def _arrays(values: list[Value]) -> tuple[dict[str, mx.array], dict[Value, tuple[str, int]]]:
    """Return the tensors to write, and for each value that has its numbers which one is its own, with a checksum. A
    leaf that goes on with an older value's numbers shares them."""
    having = [value for value in values if value.evaluated]
    twins = _twins(having)
    arrays: dict[str, mx.array] = {}
    stored: dict[Value, tuple[str, int]] = {}
    for number, value in enumerate(having):
        older = twins.get(value)
        if older is not None and older in stored:
            stored[value] = stored[older]
            continue
        array = value.array
        if array.dtype == mx.float64:  # the format has it, MLX does not write it
            array = array.reshape(-1).view(mx.uint64, stream=mx.cpu)
        data: Any = array.reshape(-1).view(mx.uint8)
        arrays[f"v{number}"] = array
        stored[value] = (f"v{number}", zlib.crc32(memoryview(data)))
    return arrays, stored


def _is_gone(value: Value) -> bool:
    return isinstance(value, Leaf) and value.is_gone


def _twins(having: list[Value]) -> dict[Value, Value]:
    """Return the leaves whose numbers are those of the value that they came from."""
    pairs = [
        (value, value.origin)
        for value in having
        if value.origin is not None
        and value.origin.evaluated
        and (value.shape, value.dtype) == (value.origin.shape, value.origin.dtype)
    ]
    found: dict[Value, Value] = {}
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        same = [same_bits(value.array, older.array) for value, older in batch]
        mx.eval(same)
        found.update({value: older for (value, older), flag in zip(batch, same) if flag.item()})
    return found


class Tables:
    """The rows of the file, as they are found.

    Attributes:
        values: Every value, with its number; those that it refers to come before it.
    """

    def __init__(self) -> None:
        self.values: dict[Value, int] = {}
        self._files = CodeFiles()
        self._owners = Owners()
        self._bound = BoundRows(self)
        self._scopes: dict[Activation, int] = {}
        self._scope_rows: list[dict[str, Any]] = []
        self._operations: dict[str, int] = {}
        self._ops: dict[str, int] = {}
        self._made: set[Value] = set()

    def document(
        self, session: TapeSession, timelines: dict[str, Any], stored: dict[Value, tuple[str, int]]
    ) -> dict[str, Any]:
        """Everything but the arrays."""
        return {
            "made": {
                "nnrepl": VERSION,
                "mlx": mx.__version__,  # type: ignore[attr-defined]  # its stubs do not know it
                "program": harmless(_program(session.tape)),
                "cursor": min(session.cursor, len(session.tape)),
            },
            "files": self._files.rows(),
            "codes": self._files.codes(),
            "owners": self._owners.names,
            "owned": self._owners.rows(self.argument),
            "roots": self._owners.roots(),
            "scopes": self._scope_rows,
            "values": [self._value_row(value, stored.get(value)) for value in self.values],
            "operations": [json.loads(text) for text in self._operations],
            "ops": [json.loads(text) for text in self._ops],
            **timelines,
        }

    # -- timelines and tapes -------------------------------------------------------------------------------

    def timelines(self, session: TapeSession) -> dict[str, Any]:
        """All timelines, each with its tape."""
        every = list(session.changes.timelines)
        current = session.changes.timelines.current
        tapes = [self._tape(timeline.tape, timeline.names) for timeline in every]
        rows = [self._timeline(timeline) for timeline in every]
        for row, timeline in zip(tapes, every):
            row["bound"] = self._bound.tape(timeline.tape, timeline.names)
        bound = self._bound.document(current.names)
        return {"tapes": tapes, "timelines": rows, "current": every.index(current), **bound}

    def _timeline(self, timeline: Timeline) -> dict[str, Any]:
        row: dict[str, Any] = {}
        if timeline.parent is not None:
            row["parent"] = timeline.parent.number - 1
        code = timeline.code
        if code is not None:
            row["code"] = {"text": harmless(code.text), "said": [harmless(line) for line in code.said],
                           "position": code.position}  # fmt: skip
        edit = timeline.edit
        if edit is not None:
            row["edit"] = {
                "target": self.value(edit.target),
                "name": harmless(edit.name),
                "text": harmless(edit.text),
                "position": edit.position,
                "count": len(edit.ops),
            }
        return row

    def _tape(self, tape: Tape, names: ProgramNames) -> dict[str, Any]:
        ops = [self._op(op, tape) for op in tape.ops]
        row: dict[str, Any] = {
            "origin": tape.origin,
            "steps": [step.start for step in tape.steps],
            "ops": ops,
            "passes": [self._pass(pass_) for pass_ in tape.passes],
            "insides": insides.rows(tape, self._pass, self.value),
            "marks": [
                [mark.position, harmless(mark.how), self._left(mark.values), *self._place(mark.scope, mark.lasti)]
                for mark in tape.marks
            ],
            "holes": [[self.value(hole.value), hole.position, harmless(hole.reason)] for hole in tape.holes],
            "compiled": [list(span) for span in tape.compiled],
        }
        for name, noted in tape.notes.rows(tape.ops):
            row[name] = [self._noted(op, thing) for op, thing in noted]
        row["names"] = self._index(names)
        row["aliases"] = list(self._alias_rows(tape))
        return row

    def _noted(self, op: Op, thing: Any) -> Any:
        """Return what is noted of an op: an exception, a value, another op; None where the op says it all."""
        if thing is None:
            return op.position
        if isinstance(thing, BaseException):
            return [op.position, _error(thing)]
        return [op.position, thing.position if isinstance(thing, Op) else self.value(thing)]

    def _index(self, names: ProgramNames) -> list[list[Any]]:
        """Which value each name means, from which position on."""
        return [
            [
                harmless(name),
                [[position, self.value(value)] for position, value in names.versions(name) if not _is_gone(value)],
            ]
            for name in names.known()
        ]

    def _alias_rows(self, tape: Tape) -> Iterator[list[int]]:
        for value in list(self.values):
            if value in tape.notes.aliases:
                yield [self.value(value), self.value(value.canonical)]

    def _pass(self, pass_: Pass) -> dict[str, Any]:
        return {
            "number": pass_.number,
            "kind": pass_.kind,
            "title": harmless(pass_.title),
            "range": [pass_.start, pass_.end, pass_.backward],
            "loss": None if pass_.loss is None else self.value(pass_.loss),
            "gives loss": pass_.gives_loss,
            "wrt": self._all(pass_.wrt),
            "roots": [self._all(pair) for pair in pass_.roots],
            "grads": [[self.value(of), self._all(grads)] for of, grads in pass_.grads.items()],
            "given": self._all(pass_.given),
            "error": None if pass_.error is None else _error(pass_.error),
            "place": self._place(pass_.scope, pass_.lasti),
            "open": pass_.open,
        }

    # -- values --------------------------------------------------------------------------------------------

    def value(self, value: Value) -> int:
        """Return the number of a value; what it refers to is entered before it."""
        known = self.values.get(value)
        if known is not None:
            return known
        stack = [value]
        while stack:
            top = stack[-1]
            if top in self.values:
                stack.pop()
                continue
            missing = [other for other in (top.origin, top.gradient_of) if other is not None]
            missing = [other for other in missing if other not in self.values]
            if missing:
                stack.extend(missing)
            else:
                self.values[top] = len(self.values)
        return self.values[value]

    def is_known(self, value: Value) -> bool:
        """Whether a value lies on one of the tapes."""
        return value.op is None or value in self._made

    def owner(self, module: Any) -> int:
        """Return the number of a module of the program."""
        return self._owners.enter(module)

    def _all(self, values: Any) -> list[int]:
        return [self.value(value) for value in values]

    def _left(self, values: Any) -> list[int]:
        return self._all(value for value in values if not _is_gone(value))

    def _value_row(self, value: Value, stored: tuple[str, int] | None) -> dict[str, Any]:
        row: dict[str, Any] = {"dtype": str(value.dtype).removeprefix("mlx.core.")}
        if stored is not None:
            row["tensor"], row["sum"] = stored
        row["shape"] = list(value.shape)
        if value not in self._made:
            row["kind"] = value.kind or "captured"
        if value.label is not None:
            row["label"] = harmless(value.label)
        if value.origin is not None:
            row["origin"] = self.values[value.origin]
        if value.gradient_of is not None:
            row["of"] = self.values[value.gradient_of]
        elif value in self._made:
            names = [harmless(name) for name in cast(ProgramNames, value.tape.names).all_names(value)]
            if names:
                row["names"] = names
        if value.dropped:
            row["dropped"] = True
        return row

    # -- ops -----------------------------------------------------------------------------------------------

    def _op(self, op: Op, tape: Tape) -> int:
        row: dict[str, Any] = {"operation": self._operation(op)}
        if isinstance(op, BackwardOp):
            row["backward"] = -1 if op.of is None else op.of.position
            rule = op.args[0] if op.args else None
            if isinstance(rule, Rule):
                row["rule"] = [self._all(rule.inputs), rule.wanted, rule.outputs, rule.continued]
            row["inputs"] = self._all(op.inputs)
        else:
            row["args"] = [self.argument(arg) for arg in op.args]
            if op.kwargs:
                row["kwargs"] = {harmless(key): self.argument(arg) for key, arg in op.kwargs.items()}
            row["inputs"] = self._all(op.inputs)
        row["outputs"] = self._all(op.outputs)
        self._made.update(op.outputs)
        row["place"] = self._place(op.scope, op.lasti, AROUND)
        module = tape.names.module(op)
        if module:
            row["module"] = harmless(module)
        return self._ops.setdefault(json.dumps(row), len(self._ops))

    def _operation(self, op: Op) -> int:
        called = op.operation
        row = [harmless(called.name), harmless(called.spelling), called.infix, called.kind, called.in_place]
        return self._operations.setdefault(json.dumps(row), len(self._operations))

    def argument(self, arg: Any) -> Any:
        """Return an argument as JSON: plain things as they are, others as one table that says what they are."""
        kind = type(arg)
        if isinstance(arg, Value):
            return {"v": self.value(arg)}
        if arg is None or kind is bool or (kind is int and abs(arg) < 2**64):
            return arg
        if isinstance(arg, float):
            return float(arg)
        if kind is str:
            return harmless(arg, True)
        if kind is list or kind is tuple:
            return {"l" if kind is list else "t": [self.argument(item) for item in arg]}
        if kind is dict:
            return {"d": [[harmless(str(key)), self.argument(item)] for key, item in arg.items()]}
        if kind is slice:
            return {"s": [self.argument(end) for end in (arg.start, arg.stop, arg.step)]}
        if kind is complex:
            return {"c": [arg.real, arg.imag]}
        return {"x": [class_name(type(arg)), harmless(text_of(arg)[:200], True)]}

    # -- places --------------------------------------------------------------------------------------------

    def _place(self, scope: Activation | None, lasti: int, around: int = 1) -> list[int]:
        """In which call something stands, and where in its source."""
        if scope is None:
            return [-1, 0]
        return [self.scope(scope), self._files.place(scope.code, lasti, around)]

    def scope(self, scope: Activation) -> int:
        """Return the number of a call; those that led to it come before it."""
        missing: list[Activation] = []
        step: Activation | None = scope
        while step is not None and step not in self._scopes:
            missing.append(step)
            step = step.parent
        for new in reversed(missing):
            row: dict[str, Any] = {"code": self._files.code(new.code)}
            if new.parent is not None:
                row["place"] = [self._scopes[new.parent], self._files.place(new.parent.code, new.lasti, 1)]
            if is_module(new.owner):
                row["owner"] = self._owners.number(new)
            elif is_optimizer(new.owner):
                row["owner"] = self._owners.enter(new.owner)
            if new.updating:
                row["updating"] = True
            row["globals"] = self._bound.globals_of(new)
            self._scopes[new] = len(self._scope_rows)
            self._scope_rows.append(row)
        return self._scopes[scope]


def _error(error: BaseException) -> list[str]:
    return [class_name(type(error)), harmless(message_of(error), True)]


def _program(tape: Tape) -> str:
    """Return the file of the outermost function."""
    scope = next((op.scope for op in tape.ops if op.scope is not None), None)
    return "" if scope is None else os.path.basename(sources.locate(scope.path()[0].code, 0).file)
