"""Guide: what a re-run is held against, so that it does again what the tape says, and goes on from there.

Up to the edit, each op of the re-run must be the op of the tape (the same operation, at the same source, on the
same values); it is not computed, the program gets a fresh handle on what was recorded. Ops that a person
inserted follow at their places. Behind that, an op that is the same as one of the old tape, on the very same
values, gives the very same values: only what depends on the edit is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nnrepl.tape import GRADIENT_PASS, BackwardOp, DrawnKey, Leaf, Op, Pass, Tape, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


_NOTHING: Mapping[Value, Value] = {}


class Unwinding(BaseException):
    """Ends the program from within, at the wish of the person or because it cannot go on as it should. It is
    no Exception, so that programs do not catch it."""


class Diverged(Unwinding):
    """The re-run did something else than the tape says.

    Attributes:
        expected: The op that should have come, None if none should.
        found: What the program did, in words.
    """

    def __init__(self, expected: Op | None, found: str) -> None:
        self.expected = expected
        self.found = found
        wanted = "the end" if expected is None else f"{expected.label} {expected.name}"
        super().__init__(f"the program went another way: where the tape has {wanted}, it {found}")


class Guide:
    """Leads one re-run.

    Args:
        expected: The ops that the new tape begins with (from its first op on), inserted ones among them.
        old: The tape of the run before.
        position: From where on the old tape is no longer expected: its ops from there are candidates for being
            the same again.

    Attributes:
        final: The last edit of each value that is edited.
        was: For each value of the new tape that is one of the old tape again, on the same array: that one.
    """

    def __init__(self, expected: list[Op], old: Tape, position: int) -> None:
        self.expected = expected
        self.tape = old
        self.final: dict[Value, Value] = {}
        self.was: dict[Value, Value] = {}
        for op in expected:
            target = old.edits.get(op)
            if target is not None:
                self.final[target] = op.outputs[0]
        self._passes = [part for part in old.passes if part.kind == GRADIENT_PASS]
        self._known: dict[Any, list[Op]] = {}
        for op in old.ops[position:]:
            key = self.key(op)
            if key is not None:
                self._known.setdefault(key, []).append(op)

    def content(self, value: Value) -> Value:
        """What the program is to hold where the tape has `value`: the last edit of it."""
        while value in self.final:
            value = self.final[value]
        return value

    def replaying(self, position: int) -> bool:
        """Whether an op at `position` must be one of the tape."""
        return position < len(self.expected)

    def inserted(self, position: int) -> Op | None:
        """The op that a person inserted at `position`, if one is due."""
        if position < len(self.expected):
            op = self.expected[position]
            if op in self.tape.inserted:
                return op
        return None

    def old_pass(self, tape: Tape) -> Pass | None:
        """The gradient pass of the old tape that the last one of the new tape is."""
        number = sum(part.kind == GRADIENT_PASS for part in tape.passes)
        return self._passes[number - 1] if 0 < number <= len(self._passes) else None

    def expect(self, recorder: Recorder, op: Op) -> Op:
        """The op of the tape that `op` must be.

        Raises:
            Diverged: If the tape has another op here.
        """
        expected = self.expected[len(recorder.tape.ops)]
        if not self._same(recorder, expected, op):
            raise Diverged(expected, f"called {op.name}")
        return expected

    def same(self, op: Op) -> Op | None:
        """The op of the old tape that computed what `op` computes, if there is one."""
        key = self.key(op)
        candidates = self._known.get(key) if key is not None else None
        return candidates.pop(0) if candidates else None

    def _same(self, recorder: Recorder, expected: Op, op: Op) -> bool:
        if expected.operation is not op.operation and (
            expected.operation.name != op.operation.name or expected.operation.kind != op.operation.kind
        ):
            return False
        if len(expected.inputs) != len(op.inputs):
            return False
        return all(self._unify(recorder, a, b) for a, b in zip(expected.inputs, op.inputs))

    def _unify(self, recorder: Recorder, expected: Value, found: Value) -> bool:
        """Whether two inputs are the same; a leaf that entered anew takes the place of the one it is."""
        if expected is found:
            return True
        if not (isinstance(expected, Leaf) and isinstance(found, Leaf)):
            return False
        if expected.kind != found.kind or expected.shape != found.shape or expected.dtype != found.dtype:
            return False
        recorder.relink({found: expected})
        return True

    def key(self, op: Op) -> Any:
        """What makes two ops the same computation; None where that cannot be told."""
        if op.operation.kind in ("opaque", "custom", "checkpoint") or op in self.tape.errors:
            return None
        key: Any
        if isinstance(op, BackwardOp):
            key = (op.operation, self._taken(op))
        else:
            was = self.was
            key = (op.operation, frozen(op.args, was), frozen(op.kwargs, was), None if op.inputs else _place(op))
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def _taken(self, op: BackwardOp) -> Any:
        """What a backward op is computed from: the values whose numbers it needs, of the others the shape."""
        from nnrepl.record.needs import needed_slots

        needed = set(needed_slots(op))
        values = [
            self.was.get(value, value) if slot in needed else (value.shape, value.dtype)
            for slot, value in enumerate(op.inputs)
        ]
        rule = op.args[0]
        return (None if isinstance(rule, Value) else rule.shape_key(), *values)


def _place(op: Op) -> Any:
    """An op without inputs (a constant, random numbers) is the same only where it stands."""
    return None if op.scope is None else (op.scope.code, op.lasti)


def frozen(part: Any, was: Mapping[Value, Value] = _NOTHING) -> Any:
    """An argument as a key, with the values that others were before."""
    kind = type(part)
    if kind is list or kind is tuple:
        return (kind, *(frozen(item, was) for item in part))
    if kind is dict:
        return tuple((name, frozen(item, was)) for name, item in part.items())
    if kind is slice:
        return "slice", frozen(part.start, was), frozen(part.stop, was), frozen(part.step, was)
    if kind is DrawnKey:
        return "drawn", part.serial
    if isinstance(part, Value):
        return was.get(part, part)
    if hasattr(part, "guide_key"):
        return part.guide_key()
    if hasattr(part, "__array_interface__"):
        return "numpy", part.shape, str(part.dtype), part.tobytes()
    return kind, part


def copy_op(op: Op, part: Pass, position: int) -> Op:
    """The same op on another tape: it shares its values."""
    if isinstance(op, BackwardOp):
        twin: Op = BackwardOp(op.operation, op.args, op.kwargs, op.inputs, op.of)
    else:
        twin = Op(op.operation, op.args, op.kwargs, op.inputs)
    twin.outputs = op.outputs
    twin.scope, twin.lasti, twin.part, twin.position = op.scope, op.lasti, part, position
    tape = part.tape
    for notes in (tape.errors, tape.streams, tape.belonging, tape.edits, tape.structures):
        table: dict[Op, Any] = notes
        if op in table:
            table[twin] = table[op]
    if op in tape.inserted:
        tape.inserted.add(twin)
    return twin
