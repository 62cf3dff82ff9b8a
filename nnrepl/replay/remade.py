"""Remade: after a step that has been opened every op is recorded anew, and what the user put in is put in again.

An edit works on values of the tape. Where those are recorded anew, it works on what stands for them now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnrepl.record.rebuilt import exchange
from nnrepl.tape import ClosedOp, Gradient, Leaf, Op, Remnant, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


class Remade:
    """Which op and value of the tape each one is that is recorded anew.

    Attributes:
        now: For each value of the tape, as far as it is known, the one that stands for it.
        edits: For each op that the user put in, the one that stands for it.
    """

    def __init__(self) -> None:
        self.now: dict[Value, Value] = {}
        self.edits: dict[Op, Op] = {}
        self._pairs: list[tuple[Op, Op]] = []

    def note(self, old: Op, new: Op) -> None:
        """Note that an op is about to be recorded that is one of the tape."""
        self._pairs.append((old, new))

    def insert(self, recorder: Recorder, old: Op) -> Op:
        """Return the op that does to the values of now what one of the user's did; it is not on the tape yet."""
        self._fold()
        now, notes = self.now, recorder.tape.notes
        args, kwargs = exchange(old.args, now), exchange(old.kwargs, now)
        inputs = tuple([now.get(value, value) for value in old.inputs])
        twin = Op(old.operation, args, kwargs, inputs)
        twin.scope, twin.lasti, twin.pass_ = old.scope, old.lasti, old.pass_  # where it is called again from
        notes.carry_all(old, twin, now)
        with recorder.muted():
            arrays = twin.compute()
        outputs: list[Value] = []
        for slot, (value, array) in enumerate(zip(old.outputs, arrays)):
            of = value.gradient_of
            made = Value(twin, slot, array) if of is None else Gradient(twin, slot, array, now.get(of, of))
            notes.carry_value(value, made)
            now[value] = made
            outputs.append(made)
        twin.outputs = tuple(outputs)
        self.edits[old] = twin
        return twin

    def _fold(self) -> None:
        """Pair the values of what has been recorded meanwhile."""
        for old, new in self._pairs:
            for value, other in zip(old.inputs, new.inputs):
                self.now.setdefault(value, other)
            self.now.update(zip(old.outputs, new.outputs))
        self._pairs.clear()


def made_natively(one: Value, other: Value) -> bool:
    """Whether two values came out of the same closed call."""
    a, b = one.op, other.op
    return isinstance(a, ClosedOp) and isinstance(b, ClosedOp) and a.position == b.position and one.slot == other.slot


def unify(recorder: Recorder, expected: Value, found: Value) -> bool:
    """Whether two inputs are the same; a leaf that entered anew takes the place of the one it is."""
    if expected is found:
        return True
    if not made_natively(expected, found) and not (isinstance(expected, Leaf) and isinstance(found, Leaf)):
        return False
    # What was made in a step that has been closed since came in as no kind of its own.
    other = expected.kind != found.kind and not isinstance(expected, Remnant)
    if other or expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    recorder.unify(found, expected)
    recorder.watch.restated(lambda array: recorder.live.get(id(array)) is expected, found)
    return True
