"""Saved: a tape from a file, to be looked at without its program. What `nnrepl.programs.saving` writes.

Nothing in a file is trusted: every number is checked before it is used, nothing is unpickled, nothing is run.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.programs import insides
from nnrepl.programs.arrays import SUFFIX, Tensors, is_counts, product, read_header
from nnrepl.programs.bound import Bound
from nnrepl.programs.codes import LARGEST, Codes, Scopes
from nnrepl.programs.savefile import FORMAT, unpacked
from nnrepl.programs.standins import (
    Damaged,
    SavedBackwardOp,
    SavedGradient,
    SavedLeaf,
    SavedNames,
    SavedOp,
    SavedValue,
    Shown,
    as_number,
    as_text,
    as_word,
    demand,
    no_run,
)
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.record.vjp import Rule
from nnrepl.replay.run import Run
from nnrepl.session.errors import UserError
from nnrepl.session.session import END_OF_TAPE, TapeSession
from nnrepl.tape import (
    KEPT,
    LEAF_KINDS,
    Activation,
    Hole,
    Leaf,
    Mark,
    Op,
    Operation,
    Pass,
    Steps,
    Tape,
    Value,
)
from nnrepl.tape.passes import GRADIENT_PASS, RUN_PASS, SETUP_PASS, UPDATE_PASS
from nnrepl.tape.steps import is_update
from nnrepl.timeline.code import CodeChange, recalled
from nnrepl.timeline.edits import Edit
from nnrepl.timeline.timelines import Timelines

_DTYPES: dict[str, mx.Dtype] = {
    name: getattr(mx, name if name != "bool" else "bool_")
    for name in (
        "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
        "float16", "bfloat16", "float32", "float64", "complex64",
    )
}  # fmt: skip
_NESTING = 40


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says of itself.

    Attributes:
        path: The file.
        program: The program that was recorded.
        nnrepl, mlx: The versions that recorded it.
        values, kept: How many values the tape has, and of how many the file has the numbers.
        cursor: Where the user stood.
    """

    path: str
    program: str
    nnrepl: str
    mlx: str
    values: int
    kept: int
    cursor: int


def find(path: str) -> str:
    """Return the file that a user means: `.safetensors` may be left out."""
    if os.path.exists(path) or (os.path.splitext(path)[1] and not os.path.exists(path + SUFFIX)):
        return path
    return path + SUFFIX


def open_session(path: str) -> tuple[TapeSession, Facts]:
    """Return a session on a saved tape.

    Raises:
        UserError: If the file cannot be read, is damaged, or holds no tape.
    """
    header = read_header(path)
    if "nnrepl" not in header.metadata:
        raise UserError(f"{path} is not a tape that nnrepl saved; compare {path} compares its arrays with a tape")
    if header.metadata["nnrepl"] != str(FORMAT):
        raise UserError(f"{path} was saved by another version of nnrepl, in a form that this one does not know")
    try:
        document = json.loads(unpacked(header.metadata))
        timelines, facts = _Reader(header, document).read()
        session = TapeSession(timelines.current.tape, timelines.current.names)
    except (Damaged, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path} is damaged: what it says of its tape does not hold together") from None
    session.changes.timelines = timelines
    session.changes.restarts = _NoProgram(path)
    session.arrive(facts.cursor, END_OF_TAPE if facts.cursor >= len(session.tape) else "")
    return session, facts


class _NoProgram:
    """Says that nothing can be run again."""

    def __init__(self, path: str) -> None:
        self._refusal = f"this tape was loaded from {path}: nothing can be changed there; run the program to change it"

    def computing(self) -> AbstractContextManager[Recorder]:
        """Refuses. Raises UserError."""
        raise UserError(self._refusal)

    def reaches(self, position: int) -> bool:
        """Leave it to `again` to refuse."""
        return True

    def again(self, run: Run, codes: object, things: object = ()) -> tuple[Tape, ProgramNames]:
        """Refuses. Raises UserError."""
        raise UserError(self._refusal)


class _Reader:
    """Builds timelines from the rows of a file."""

    def __init__(self, header: Tensors, document: dict[str, Any]) -> None:
        self.header = header
        self.document = document
        self.given: dict[Value, list[str]] = {}
        self.values: list[Value] = []
        self.scopes: list[Activation] = []
        self._met: set[Value] = set()
        first = SavedNames(header.path, self.given).tape
        self.tapes = [first, *(SavedNames(header.path, self.given, first).tape for _ in document["tapes"][1:])]
        self.notes = first.notes

    def read(self) -> tuple[Timelines, Facts]:
        """Everything."""
        document = self.document
        codes = Codes(document["files"], document["codes"]).codes
        scopes = Scopes(codes, document)
        self.scopes = scopes.scopes
        self._values(document["values"])
        self.operations = [self._operation(row) for row in document["operations"]]
        self.rows = document["ops"]
        bound = Bound(document, scopes.owners, self.value, self._argument)
        bound.fill(scopes.variables, self.scopes)
        for tape, row in zip(self.tapes, document["tapes"]):
            self._tape(tape, row)
            cast(SavedNames, tape.names).places = bound.places
            if "bound" in row:  # (not in tapes of 0.1.0)
                bound.tape(tape, row["bound"], self.scopes)
        for value in self.values:
            demand(isinstance(value, Leaf) or value.op is not None)
        timelines = self._timelines(document["timelines"], document["current"])
        bound.furnish(timelines.current.tape)
        made = document["made"]
        cursor = as_number(made["cursor"], len(timelines.current.tape) + 1)
        kept = sum(value.held is not None for value in self.values)
        versions = as_text(made["nnrepl"]), as_text(made["mlx"])
        facts = Facts(self.header.path, as_text(made["program"]), *versions, len(self.values), kept, cursor)
        return timelines, facts

    def value(self, number: Any) -> Value:
        """Return the value with a number."""
        return self.values[as_number(number, len(self.values))]

    def _all(self, numbers: Any) -> tuple[Value, ...]:
        demand(isinstance(numbers, list))
        return tuple([self.value(number) for number in numbers])

    # -- values --------------------------------------------------------------------------------------------

    def _values(self, rows: list[dict[str, Any]]) -> None:
        arrays: dict[str, mx.array] = {}
        if self.header.entries:
            try:
                arrays = dict(mx.load(self.header.path, format="safetensors"))  # type: ignore[arg-type]
            except Exception:  # whatever MLX's own reader says
                raise Damaged from None
        sums: dict[str, int] = {}
        notes = self.notes
        depths: list[int] = []
        for row in rows:
            held = self._held(row, arrays, sums)
            of = self.value(row["of"]) if "of" in row else None
            depths.append(0 if of is None else depths[row["of"]] + 1)
            demand(depths[-1] < _NESTING)
            value = self._new(row, held, of)
            if held is None:
                demand(is_counts(row["shape"], 2**31))
                product(row["shape"])
                notes.sketches[value] = (tuple(row["shape"]), _DTYPES[row["dtype"]])
            if "label" in row:
                notes.labels[value] = as_text(row["label"])
            if "names" in row:
                self.given[value] = [as_text(name) for name in row["names"]]
            elif not isinstance(value, Leaf) and of is None:
                self.given[value] = []
            if held is None and row.get("dropped"):
                notes.dropped.add(value)
            self.values.append(value)

    def _new(self, row: dict[str, Any], held: Any, of: Value | None) -> Value:
        if "kind" in row:
            demand(row["kind"] in LEAF_KINDS)
            origin = self.value(row["origin"]) if "origin" in row else None
            leaf = SavedLeaf(self.tapes[0], held, row["kind"], None, origin)
            leaf.gradient_of = of
            return leaf
        return SavedValue(None, 0, held) if of is None else SavedGradient(cast(Op, None), 0, held, of)

    def _held(self, row: dict[str, Any], arrays: dict[str, mx.array], sums: dict[str, int]) -> mx.array | None:
        """Return the tensor of a value, of which the numbers are read when they are looked at."""
        if "tensor" not in row:
            return None
        name, dtype = row["tensor"], _DTYPES[row["dtype"]]
        array = arrays[name]
        if name not in sums:
            sums[name] = zlib.crc32(self.header.bytes_of(name))
        demand(sums[name] == row["sum"])
        demand(is_counts(row["shape"], 2**31))
        if dtype == mx.float64:
            demand(array.dtype == mx.uint64)
            array = array.view(mx.float64, stream=mx.cpu).reshape(row["shape"], stream=mx.cpu)
        demand(array.dtype == dtype and array.shape == tuple(row["shape"]))
        return array

    # -- ops -----------------------------------------------------------------------------------------------

    def _operation(self, row: list[Any]) -> Operation:
        name, spelling, infix, kind, in_place = row
        infix = None if infix is None else as_text(infix)
        return Operation(as_text(name), no_run, as_text(spelling), infix, as_text(kind), in_place is True)

    def _tape(self, tape: Tape, row: dict[str, Any]) -> None:
        numbers = row["ops"]
        demand(is_counts(numbers, len(self.rows)))
        names = cast(SavedNames, tape.names)
        for position, number in enumerate(numbers):
            op = self._op(tape, self.rows[number], position)
            tape.ops.append(op)
            module = self.rows[number].get("module")
            if module is not None:
                names.modules[op] = as_text(module)
        tape.origin = as_number(row["origin"], len(tape) + 1)
        self._passes(tape, row["passes"])
        insides.read(tape, row.get("insides", []), self._pass, self.value)  # (none in tapes of 0.1.0)
        starts = row["steps"] if "steps" in row else _counted(tape)  # (none in tapes of 0.1.0)
        demand(is_counts(starts, len(tape)) and starts == sorted(set(starts)))
        tape.steps = Steps.known(tape, starts)
        self._notes(tape, row)
        for name, versions in row["names"]:
            names.enter(as_text(name), [(as_number(at, len(tape) + 1), self.value(value)) for at, value in versions])

    def _op(self, tape: Tape, row: dict[str, Any], position: int) -> Op:
        operation = self.operations[as_number(row["operation"], len(self.operations))]
        inputs = self._all(row["inputs"])
        op: Op
        if "backward" in row:
            of = as_number(row["backward"], position, -1)
            forward = None if of < 0 else tape.ops[of]
            args = (*self._rule(row["rule"], forward), *inputs) if "rule" in row else ()  # (not in tapes of 0.1.0)
            op = SavedBackwardOp(operation, args, {}, inputs, forward)
        else:
            args = tuple([self._argument(arg) for arg in row["args"]])
            kwargs = {as_text(key): self._argument(arg) for key, arg in row.get("kwargs", {}).items()}
            demand({*_taken(args), *_taken(kwargs)} <= set(inputs))
            op = SavedOp(operation, args, kwargs, inputs)
        op.position = position
        op.scope, op.lasti = self._place(row["place"])
        for value in inputs:
            demand(isinstance(value, Leaf) or value.op is not None)
            self._meet(value, tape)
        op.outputs = self._all(row["outputs"])
        for slot, value in enumerate(op.outputs):
            demand(not isinstance(value, Leaf))
            if value.op is None:
                value.op, value.slot = op, slot
        return op

    def _rule(self, said: Any, of: Op | None) -> tuple[Any, ...]:
        """How a backward op differentiates its forward op."""
        if of is None:
            raise Damaged
        values, *slots = said
        inputs = self._all(values)
        limits = len(inputs), len(of.outputs), len(inputs)
        wanted, outputs, continued = (
            tuple([as_number(slot, limit) for slot in some]) for some, limit in zip(slots, limits, strict=True)
        )
        return (Rule(of, inputs, wanted, outputs, continued),)

    def _meet(self, value: Value, tape: Tape) -> None:
        """Note that a leaf lies on the first tape that speaks of it."""
        if isinstance(value, SavedLeaf) and value not in self._met:
            self._met.add(value)
            value.lie_on(tape)

    def _argument(self, said: Any, depth: int = 0) -> Any:
        demand(depth < _NESTING)
        if said is None or type(said) in (bool, int, float):
            return said
        if isinstance(said, str):
            return as_text(said, True)
        ((kind, content),) = said.items()
        if kind == "v":
            return self.value(content)
        if kind == "x":
            name, text = content
            return type(as_word(name), (Shown,), {})(as_text(text, True))
        if kind == "c":
            real, imaginary = content
            return complex(real, imaginary)
        if kind == "d":
            return {as_text(key): self._argument(item, depth + 1) for key, item in content}
        parts = [self._argument(item, depth + 1) for item in content]
        demand(kind in "lts" and (kind != "s" or len(parts) == 3))
        return slice(*parts) if kind == "s" else tuple(parts) if kind == "t" else parts

    def _place(self, said: Any) -> tuple[Activation | None, int]:
        scope, place = said
        number = as_number(scope, len(self.scopes), -1)
        return (None if number < 0 else self.scopes[number]), 2 * as_number(place, LARGEST)

    # -- passes and notes ----------------------------------------------------------------------------------

    def _passes(self, tape: Tape, rows: list[dict[str, Any]]) -> None:
        before = 0
        for row in rows:
            start = row["range"][0]
            pass_ = Pass(tape, as_number(row["number"], LARGEST, -1), row["kind"], as_text(row["title"]), start)
            as_number(start, len(tape) + 1, before)
            self._pass(pass_, row)
            before = pass_.end
            for op in tape.ops[pass_.start : pass_.end]:
                op.pass_ = pass_
            tape.passes.append(pass_)
        demand(all(hasattr(op, "pass_") for op in tape.ops))

    def _pass(self, pass_: Pass, row: dict[str, Any]) -> None:
        """Read what a file says of a pass, or of what happened inside of a call."""
        tape = pass_.tape
        start, end, backward = row["range"]
        demand(pass_.kind in (SETUP_PASS, GRADIENT_PASS, UPDATE_PASS, RUN_PASS))
        pass_.start = as_number(start, len(tape) + 1)
        pass_.end = as_number(end, len(tape) + 1, pass_.start)
        pass_.backward = as_number(backward, LARGEST)
        pass_.loss = None if row["loss"] is None else self.value(row["loss"])
        given = row.get("gives loss", "alone")
        pass_.gives_loss = given if given in ("", "first") else "alone"
        pass_.wrt = self._all(row["wrt"])
        pass_.roots = tuple([(self.value(value), self.value(seed)) for value, seed in row["roots"]])
        pass_.grads = {self.value(of): list(self._all(grads)) for of, grads in row["grads"]}
        pass_.given = self._all(row.get("given", []))
        pass_.error = None if row["error"] is None else _exception(row["error"])
        pass_.scope, pass_.lasti = self._place(row["place"])
        pass_.open = row["open"] is True
        for leaf in pass_.wrt:
            self._meet(leaf, tape)

    def _notes(self, tape: Tape, row: dict[str, Any]) -> None:
        length = len(tape)

        def op(position: Any) -> Op:
            return tape.ops[as_number(position, length)]

        for position, how, values, *place in row["marks"]:
            at = as_number(position, length + 1)
            tape.marks.append(Mark(at, as_text(how), self._all(values), *self._place(place)))
        for value, position, reason in row["holes"]:
            tape.holes.append(Hole(self.value(value), as_number(position, length + 1), as_text(reason)))
        read = {BaseException: _exception, Value: self.value, Op: op}
        for name, kind in KEPT.items():
            for said in row[name]:
                if kind is None:
                    self.notes.enter(name, op(said), None)
                else:
                    at, thing = said
                    self.notes.enter(name, op(at), read[kind](thing))
        for start, end in row.get("compiled", []):
            tape.compiled.append((as_number(start, length + 1), as_number(end, length + 1)))
        aliases = {self.value(value): self.value(of) for value, of in row["aliases"]}
        demand(not any(of in aliases for of in aliases.values()))
        self.notes.aliases.update(aliases)

    def _timelines(self, rows: list[dict[str, Any]], current: Any) -> Timelines:
        demand(0 < len(rows) == len(self.tapes))
        timelines = Timelines(self.tapes[0], cast(SavedNames, self.tapes[0].names))
        for number, (tape, row) in enumerate(zip(self.tapes, rows)):
            if not number:
                continue
            if "code" in row:
                timelines.switch(timelines[as_number(row["parent"], number) + 1])
                timelines.branch(tape, cast(SavedNames, tape.names), _code_change(row["code"], len(tape)))
                continue
            said = row["edit"]
            position = as_number(said["position"], len(tape) + 1)
            made = tape.ops[position : position + as_number(said["count"], len(tape) + 1 - position, 1)]
            target = self.value(said["target"])
            edit = Edit(target, as_text(said["name"]), as_text(said["text"]), position, made)
            timelines.switch(timelines[as_number(row["parent"], number) + 1])
            timelines.branch(tape, cast(SavedNames, tape.names), edit)
        timelines.switch(timelines[as_number(current, len(rows)) + 1])
        for timeline in timelines:
            timeline.ended = True  # no program goes on there
        return timelines


def _taken(part: Any) -> Iterator[Value]:
    """Yield the values in an argument."""
    if isinstance(part, Value):
        yield part
    elif isinstance(part, slice):
        yield from _taken((part.start, part.stop, part.step))
    elif isinstance(part, (list, tuple, dict)):
        for item in part.values() if isinstance(part, dict) else part:
            yield from _taken(item)


def _counted(tape: Tape) -> list[int]:
    """Where the steps of a tape begin that does not say so: with the first gradient call after an optimizer's
    update."""
    starts = [tape.origin] if tape.origin < len(tape) else []
    updated = False
    for pass_ in tape.passes:
        if updated and pass_.kind == GRADIENT_PASS and len(pass_):
            starts.append(pass_.start)
        updated = is_update(pass_, set()) or (updated and pass_.kind != GRADIENT_PASS)
    return starts


def _code_change(said: Any, length: int) -> CodeChange:
    """Return a change of the program's source that only says what it was."""
    lines = tuple(as_text(line) for line in said["said"])
    return recalled(as_text(said["text"]), lines, as_number(said["position"], length + 1))


def _exception(said: Any) -> BaseException:
    """Return an exception of the program's that only says what it said."""
    name, text = said
    made: BaseException = type(as_word(name), (Exception,), {"__module__": "builtins"})(as_text(text, True))
    return made
