"""Match: which op of the old tape an op of a new run is, once the edit has made their numbers different."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nnrepl.record.keys import frozen
from nnrepl.record.needs import needed_slots
from nnrepl.replay.divergence import OpDifference, compare, same_operation, same_place
from nnrepl.tape import BackwardOp, Leaf, Op, Tape, Value


class Plan:
    """What the old tape does from the edit on, each op to be met once.

    An op of the new run that calls the same, with the same constants, on what stands for the same values, is that op
    again. It has the same numbers, too, if these values are the very same.

    Args:
        ops: The forward ops, and (to be found again only where nothing has changed) the backward ops.
        tape: The old tape.
        goes_on: Whether the new run may go on where the old tape ends.

    Attributes:
        was: For each value of the new tape that is one of the old tape again, on the same array: that one.
        other: The first op that is none of the old tape's although what it works on is.
        parted: The tensors that an edit gave to a name and took from it, where others had the same object: one may be
            changed in place now, and the other not.
    """

    def __init__(self, ops: Iterable[Op], tape: Tape, goes_on: bool = False) -> None:
        self.was: dict[Value, Value] = {}
        self.other: OpDifference | None = None
        self.parted: set[Value] = set()
        self._tape = tape
        self._goes_on = goes_on
        self._stands_for: dict[Value, Value] = {}
        self._twins: dict[Op, Op] = {}
        self._strange: set[Op] = set()
        self._wrt = {leaf for pass_ in tape.passes for leaf in pass_.wrt}
        self._grads: dict[Value, Value] | None = None
        self._forward: dict[Any, list[Op]] = {}
        self._backward: dict[Any, list[Op]] = {}
        self._left: dict[Op, None] = {}
        for op in ops:
            if op.inner:  # it is made, or not, with its call
                continue
            if op in tape.notes.inserted:  # an edit further on, which is not made again
                target = tape.notes.edits.get(op)
                if target is not None:
                    self._stands_for[op.outputs[0]] = target
            elif isinstance(op, BackwardOp):
                key = self._backward_key(op)
                if key is not None:
                    self._backward.setdefault(key, []).append(op)
            else:
                self._left[op] = None
                self._forward.setdefault(self._forward_key(op), []).append(op)

    # -- finding -----------------------------------------------------------------------------------------

    def forward(self, op: Op) -> tuple[Op | None, bool]:
        """Return the op of the old tape that a forward op is, and whether it has the same numbers as well."""
        # Several ops may be the same call on the same values (`x * 2` in a loop): of those, the one whose inputs have
        # not changed at all first, else the first that is still to be met, which is in order of execution.
        candidates = self._forward.get(self._forward_key(op), ())
        alike = [old for old in candidates[:_LOOKED_AT] if compare(old, op) is None]
        found = next((old for old in alike if self._unchanged(old, op)), alike[0] if alike else None)
        if found is None:
            self._is_new(op)
            return None, False
        self._forward[self._forward_key(op)].remove(found)
        self._left.pop(found, None)
        self._twins[op] = found
        if op.operation.in_place and op.inputs and not self.parted.isdisjoint((op.inputs[0], found.inputs[0])):
            self.parted.update(found.outputs)  # here it is one object's, and there all others' as well
        return found, self._unchanged(found, op) and self._can_tell(found)

    def backward(self, op: BackwardOp) -> Op | None:
        """Return the backward op of the old tape that has the same numbers, if there is one."""
        key = self._backward_key(op)
        candidates = self._backward.get(key) if key is not None else None
        # In order: the same VJP on the same values may be asked for more than once, and each counts once.
        found = candidates.pop(0) if candidates else None
        if found is None:
            self._strange.add(op)
        else:
            self._twins[op] = found
        return found

    def stand_for(self, new: Value, old: Value) -> None:
        """Note that `new` is in this run what `old` was in the one before, with other numbers."""
        self._stands_for[new] = old

    def left(self, end: int) -> Op | None:
        """Return the first forward op of the old tape before position `end` that was not met again."""
        return next((op for op in self._left if op.position < end and op not in self._tape.notes.belonging), None)

    # -- keys --------------------------------------------------------------------------------------------

    def counterpart(self, value: Value) -> Value:
        """Return what stood on the old tape for a value of the new one."""
        # Step by step back: a leaf that entered again, an op that stood for another, a gradient of what stood for a
        # value. Each may itself stand for one of an earlier timeline.
        seen = value
        while True:
            found = self.was.get(seen) or self._stands_for.get(seen)
            twin = self._twins.get(seen.op) if found is None and seen.op is not None else None
            if twin is not None and seen.slot < len(twin.outputs):
                found = twin.outputs[seen.slot]
            elif found is None and seen.gradient_of is not None and seen.op in self._strange:
                found = self._gradient(self.counterpart(seen.gradient_of))
            if found is None or found is seen:
                return seen
            seen = found

    def _forward_key(self, op: Op) -> Any:
        inputs = tuple([self._sign(self.counterpart(value)) for value in op.inputs])
        return op.operation.name, op.operation.kind, inputs

    def _sign(self, value: Value) -> Any:
        """Return what a value is known by in both runs: a leaf that came from outside is another object in each, and so
        is one with which a checkpoint's second run begins."""
        # What is differentiated is known by itself: two parameters of one shape are not to be taken for each other.
        if not isinstance(value, Leaf) or value in self._wrt:
            return value
        came_from = value.label if value.origin is None else self._sign(self.counterpart(value.origin))
        return came_from, value.kind, value.shape, value.dtype

    def _backward_key(self, op: BackwardOp) -> Any:
        """Return what a backward op is computed from: the values whose numbers it needs, of the others the shape."""
        if op.operation.kind in ("opaque", "custom", "checkpoint") or op in self._tape.notes.errors:
            return None
        # The VJP of `a + b` needs no numbers of a and b: it is the same although an edit has changed them. So what
        # does not depend on the edit keeps its arrays, and nothing of it is computed again.
        needed = set(needed_slots(op))
        values = [
            self.was.get(value, value) if slot in needed else (value.shape, value.dtype)
            for slot, value in enumerate(op.inputs)
        ]
        rule = op.args[0]
        key = (op.operation, None if isinstance(rule, Value) else rule.shape_key(), *values)
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def _unchanged(self, old: Op, op: Op) -> bool:
        """Whether two ops work on the very same values."""
        was = self.was
        return all([was.get(value, value) is before for value, before in zip(op.inputs, old.inputs)])

    def _can_tell(self, op: Op) -> bool:
        """Whether what an op of the old tape computed is all in its arguments: what raised has to raise again."""
        if op.operation.kind in ("opaque", "custom", "checkpoint") or op in self._tape.notes.errors:
            return False
        try:
            hash(frozen([None if isinstance(arg, Value) else arg for arg in op.args]))
            hash(frozen(op.kwargs))
        except TypeError:
            return False
        return True

    # -- another way -------------------------------------------------------------------------------------

    def _is_new(self, op: Op) -> None:
        """Note the first op that the old tape has not, if all that it works on is known there."""
        self._strange.add(op)
        # rr asserts at each step that the replay is where the recording was; here only an op all of whose inputs were
        # there before can convict the program: the others are new because of the edit.
        over = self._goes_on and not self._left
        if over or self.other is not None or any([self._may_be_new(value) for value in op.inputs]):
            return  # what it works on is new itself
        near = [old for old in self._left if same_operation(old, op) and same_place(old, op)]
        expected = near[0] if near else next(iter(self._left), None)
        self.other = (compare(expected, op) if expected is not None else None) or OpDifference(expected, op)

    def _may_be_new(self, value: Value) -> bool:
        """Whether a value of the new run need not be one of the old tape's; what enters a checkpoint's second run is
        what its origin is."""
        old = self.counterpart(value)
        if value in self.parted or old in self.parted or old.op in self._strange:
            return True
        return isinstance(old, Leaf) and old.origin is not None and self._may_be_new(old.origin)

    def _gradient(self, of: Value) -> Value | None:
        """Return the gradient of a value on the old tape."""
        if self._grads is None:
            self._grads = {value: found[-1] for pass_ in self._tape.passes for value, found in pass_.grads.items()}
        return self._grads.get(of)


_LOOKED_AT = 64
"""So many ops of the old tape that call the same on the same values are compared, the first ones."""
