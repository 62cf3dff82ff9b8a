"""Replay: the intake of a run that follows a tape, and goes on from there.

Up to the edit, each op of the run must be the op of the tape (the same operation, with the same constants, at
the same place, on the same values); it is not computed, the program gets a fresh handle on what was recorded. Ops
that the user inserted follow at their places. After that, an op that is the same as one of the old tape, on the very
same values, gives the very same values: only what depends on the edit is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.intake import Intake, Unwinding
from nnrepl.record.keys import frozen
from nnrepl.record.needs import needed_slots
from nnrepl.record.objects import object_of, refill
from nnrepl.tape import GRADIENT_PASS, SETUP_PASS, BackwardOp, Gradient, Leaf, Op, Pass, Tape, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_copy = mx.array.__copy__


class CannotExchange(Unwinding):
    """An array object of the program's cannot take another shape or dtype."""


class Diverged(Unwinding):
    """The run did something else than the tape says.

    Attributes:
        expected: The op that should have come, None if none should.
        found: What the program did, in words.
    """

    def __init__(self, expected: Op | None, found: str) -> None:
        self.expected = expected
        self.found = found
        wanted = "the end" if expected is None else f"#{expected.index} {expected.name}"
        super().__init__(f"the program went another way: where the tape has {wanted}, it {found}")


class Replay(Intake):
    """Leads one run along a tape.

    Args:
        expected: The ops that the new tape begins with (from its first op on), inserted ones among them.
        old: The tape of the run before.
        position: From where on the old tape is no longer expected: its ops from there are candidates for being
            the same again.

    Attributes:
        final: The last edit of each value that is edited.
        was: For each value of the new tape that is one of the old tape again, on the same array: that one.
    """

    follows = True

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
            key = self._key(op)
            if key is not None:
                self._known.setdefault(key, []).append(op)

    # -- what the recorder asks --------------------------------------------------------------------------

    def enter(self, recorder: Recorder) -> None:
        """Put the ops that the user inserted here on the tape, and let their results take effect."""
        while (op := self._inserted(len(recorder.tape.ops))) is not None:
            part = recorder.part if recorder.part is not None else _reopened_pass(recorder)
            twin = copy_op(op, part, len(recorder.tape.ops))
            if recorder.started and part is not recorder.part and twin.position == recorder.tape.origin:
                recorder.tape.origin += 1  # what is changed before #1 is setup
            recorder.tape.ops.append(twin)
            for value in op.outputs:
                if value.op is op:
                    value.op = twin
            if part is not recorder.part:
                part.end = len(recorder.tape.ops)
            target = recorder.tape.edits.get(op)
            if target is not None:
                self._exchange(recorder, target, op.outputs[0])

    def given(self, recorder: Recorder, op: Op, frame: FrameType) -> Op | None:
        """The op of the tape that `op` is: it is put on the new tape, and nothing is computed."""
        if not self.replaying(len(recorder.tape)):
            op.scope, op.lasti = recorder.stack.enter(frame), frame.f_lasti
            known = self._same(op)
            if known is None:
                return None
            self._take_over(recorder, op, known)
            recorder.put(op, frame)
            return op
        old = self._expect(recorder, op)
        twin = copy_op(old, old.part, 0)
        recorder.put(twin, frame)
        error = recorder.tape.errors.get(old)
        if error is not None:
            raise error
        return twin

    def repeated(self, recorder: Recorder, op: Op, of: Sequence[Value]) -> bool:
        """Whether an op of a compiled function is one of the tape; then it has the values of that."""
        if self.replaying(len(recorder.tape)):
            op.outputs = self._expect(recorder, op).outputs
            return True
        known = self._same(op)
        if known is None:
            return False
        self._take_over(recorder, op, known, of)
        return True

    def swept(self, recorder: Recorder, op: BackwardOp, of: Sequence[Value]) -> bool:
        """Whether a backward op is one of the tape; then it has the values of that, or raises what that raised."""
        if not self.replaying(len(recorder.tape)):
            known = self._same(op)
            if known is None:
                return False
            self._take_over(recorder, op, known, of)
            return True
        old = self._expect(recorder, op)
        op.outputs = old.outputs
        error = recorder.tape.errors.get(old)
        if error is not None:
            recorder.tape.errors[op] = error
        return True

    def content(self, value: Value) -> Value:
        """What the program is to hold where the tape has `value`: the last edit of it."""
        while value in self.final:
            value = self.final[value]
        return value

    def pass_kind(self, op: Op) -> str | None:
        """The kind of the pass in which an op of the tape stands."""
        return op.part.kind if self.replaying(op.position) else None

    def leaf(self, recorder: Recorder, number: int, array: mx.array, kind: str, label: str, origin: Value) -> Value:
        """The leaf of the run before, if it came from the same value."""
        part = self._old_pass(recorder.tape)
        before = part.wrt[number] if part is not None and number < len(part.wrt) else None
        if before is None or before.origin is not self.was.get(origin, origin):
            return recorder.leaf(array, kind, label, origin)
        if self.replaying(len(recorder.tape)):
            recorder.link(array, before)
            return before
        value = recorder.leaf(array, kind, label, origin)
        self.was[value] = before
        return value

    def seed(self, recorder: Recorder, number: int, array: mx.array, of: Value) -> Value:
        """The gradient from which the backward pass of the run before started, if this one starts from the same."""
        part = self._old_pass(recorder.tape)
        found = part.roots[number][1] if part is not None and number < len(part.roots) else None
        known = isinstance(found, Leaf) and (found.shape, found.dtype) == (array.shape, array.dtype)
        if found is not None and known and self.replaying(len(recorder.tape)):
            return found
        value = super().seed(recorder, number, array, of)
        if found is not None and known:
            self.was[value] = found
        return value

    def gradient(self, recorder: Recorder, value: Value) -> mx.array:
        """A fresh handle, with the content that an edit further on gives to it."""
        return recorder.handle(value)

    # -- following the tape ------------------------------------------------------------------------------

    def replaying(self, position: int) -> bool:
        """Whether an op at `position` must be one of the tape."""
        return position < len(self.expected)

    def _inserted(self, position: int) -> Op | None:
        """The op that the user inserted at `position`, if one is due."""
        if position < len(self.expected):
            op = self.expected[position]
            if op in self.tape.inserted:
                return op
        return None

    def _old_pass(self, tape: Tape) -> Pass | None:
        """The gradient pass of the old tape that the last one of the new tape is."""
        number = sum(part.kind == GRADIENT_PASS for part in tape.passes)
        return self._passes[number - 1] if 0 < number <= len(self._passes) else None

    def _expect(self, recorder: Recorder, op: Op) -> Op:
        """The op of the tape that `op` must be.

        Raises:
            Diverged: If the tape has another op here.
        """
        expected = self.expected[len(recorder.tape.ops)]
        if not self._is(recorder, expected, op):
            raise Diverged(expected, f"called {op.name}")
        return expected

    def _is(self, recorder: Recorder, expected: Op, op: Op) -> bool:
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

    # -- after the edit ----------------------------------------------------------------------------------

    def _same(self, op: Op) -> Op | None:
        """The op of the old tape that computed what `op` computes, if there is one."""
        key = self._key(op)
        candidates = self._known.get(key) if key is not None else None
        return candidates.pop(0) if candidates else None

    def _take_over(self, recorder: Recorder, op: Op, old: Op, of: Sequence[Value] = ()) -> None:
        """Give an op the results of an old one that computed the same: values of its own on the same arrays.

        Args:
            of: What they are the gradients of, in the backward pass.
        """
        tape = recorder.tape
        outputs = []
        for slot, value in enumerate(old.outputs):
            held = None if value.held is None else _copy(value.held)
            twin = Gradient(op, slot, held, of[slot]) if of else Value(op, slot, held)
            if held is None:
                tape.sketches[twin] = (value.shape, value.dtype)
                if value in tape.dropped:
                    tape.dropped.add(twin)
            if value in tape.labels:
                tape.labels[twin] = tape.labels[value]
            self.was[twin] = value
            outputs.append(twin)
        op.outputs = tuple(outputs)
        if old in tape.structures:
            tape.structures[op] = tape.structures[old]

    def _key(self, op: Op) -> Any:
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
        needed = set(needed_slots(op))
        values = [
            self.was.get(value, value) if slot in needed else (value.shape, value.dtype)
            for slot, value in enumerate(op.inputs)
        ]
        rule = op.args[0]
        return (None if isinstance(rule, Value) else rule.shape_key(), *values)

    # -- the program's objects ---------------------------------------------------------------------------

    def _exchange(self, recorder: Recorder, old: Value, new: Value) -> None:
        """From now on everything that held `old` holds `new`. Arrays that the program has had for longer are
        changed in place.

        Raises:
            CannotExchange: If one of them has another shape or dtype.
        """
        content = self.content(new)
        for key, value in list(recorder.live.items()):
            if value is old:
                array = object_of(recorder, key, old)
                if array is not None:
                    _overwrite(recorder, array, old, content)
        recorder.relink({old: new})
        for sweep in recorder.sweeps:
            sweep.exchange(old, new)

    def refresh(self, recorder: Recorder) -> None:
        """Give the program's objects the content that they are to have on this timeline: at the entry of a pass some
        may hold what an edit further on, of another timeline, had made of them."""
        edited = set(recorder.tape.edits.values())
        for key, value in list(recorder.live.items()):
            array = object_of(recorder, key, value) if value in edited else None
            if array is not None:
                refill(array, self.content(value).array)


def _place(op: Op) -> Any:
    """An op without inputs (a constant, random numbers) is the same only where it stands."""
    return None if op.scope is None else (op.scope.code, op.lasti)


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


def _reopened_pass(recorder: Recorder) -> Pass:
    """The pass before the one that begins: what is inserted at its end belongs to it."""
    passes = recorder.tape.passes
    if not passes:
        part = recorder.open_pass(SETUP_PASS, "")
        recorder.part = None
        return part
    passes[-1] = replace(passes[-1], tape=recorder.tape)
    return passes[-1]


def _overwrite(recorder: Recorder, array: mx.array, old: Value, content: Value) -> None:
    same = array.shape == content.shape
    if array.dtype != content.dtype or not (same or mx.issubdtype(array.dtype, mx.floating)):
        raise CannotExchange(
            f"the program holds it as {array.shape} {array.dtype}, which cannot become {content.shape} {content.dtype}"
        )
    if old.held is array:
        old.held = _copy(array)
        recorder.overwritten.append((old, array))
    refill(array, content.array)
