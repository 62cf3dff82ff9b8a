"""Replay: the intake of a run that follows a tape, and goes on from there.

Up to the edit, each op of the run must be the op of the tape (the same operation, with the same constants, at the same
place, on the same values); it is not computed, the program gets a fresh handle on what was recorded. Ops that the user
inserted follow at their places. After that, an op that is the same as one of the old tape, on the very same values,
gives those very values: only what depends on the edit is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.again import InsideFollowed
from nnrepl.record.custom import in_second_run
from nnrepl.record.objects import object_of, overwrite, refill
from nnrepl.replay.copies import ComingBy, become, copy_op, reopened_pass
from nnrepl.replay.divergence import Diverged, OpDifference, compare, said_of, same_operation, same_place
from nnrepl.replay.interrupts import check
from nnrepl.replay.match import Plan
from nnrepl.replay.opening import Opening
from nnrepl.replay.remade import unify
from nnrepl.replay.run import Changing, Run, Unchanging
from nnrepl.replay.second_run import InSecondRun
from nnrepl.replay.uncomputed import Forward, Led
from nnrepl.tape import (
    GRADIENT_PASS,
    SETUP_PASS,
    Activation,
    BackwardOp,
    ClosedOp,
    Gradient,
    Inside,
    Leaf,
    Op,
    Operation,
    Pass,
    Tape,
    Value,
)  # fmt: skip

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder
    from nnrepl.replay.operands import StillTaken

_copy = mx.array.__copy__


class Replay(Led):
    """Leads one run along a tape.

    Args:
        run: What runs again: up to its position the old tape is followed op by op; what the old tape has from there
            on is what the program should do again, with other numbers.
        end: Where on the old tape what runs again ends (its own end by default).
        alone: Whether nobody looks at `other_way`: a run that goes another way, not for the edit, then ends there.
        changes: Told how far the run has come, and whether the op there is about to be made (`due`).

    Attributes:
        expected: The ops that the new tape begins with (from its first op on), inserted ones among them.
        final: The last edit of each value that is edited.
        wants_losses: Whether the losses of what runs natively are to be computed.
        was: For each value of the new tape that is one of the old tape again, on the same array: that one.
    """

    follows = True

    def __init__(self, run: Run, end: int | None = None, alone: bool = False, changes: Changing | None = None) -> None:
        self.expected = run.expected
        self.tape = run.old
        self.end = len(run.old) if end is None else end
        self.final: dict[Value, Value] = {}
        self._made: set[Value] = set()
        self._in_place: set[Value] = set()
        self.plan = Plan(run.old.ops[run.position : self.end], run.old, alone)
        self.was = self.plan.was
        self._run = run
        self.pending: StillTaken | None = None
        self._alone = alone
        self._changes = changes or Unchanging()
        for op in self.expected:
            if (target := self.tape.notes.edits.get(op)) is not None:
                self.final[target] = op.outputs[0]
        for op in run.ops:
            target = self.tape.notes.edits.get(op)
            if target is not None:
                self.plan.stand_for(op.outputs[0], target)
        self.opens = any(isinstance(op, ClosedOp) for op in run.old.ops)
        self.opening = Opening(run.old, run.opened, self.expected, run.closing)
        self.forward, self.wants_losses = Forward(run), run.losses
        self._passes = [pass_ for pass_ in self.tape.passes if pass_.kind == GRADIENT_PASS]

    # -- what the recorder asks --------------------------------------------------------------------------

    def passed(self, recorder: Recorder) -> None:
        """Note that an op inside a gradient call is on the tape: what the user did after it is done."""
        self._changes.reach(self.opening.before(len(recorder.tape.ops)))
        if recorder.mirrors:
            recorder.mirrors[-1].passed()

    def enter(self, recorder: Recorder, calling: bool = False, due: bool = True) -> None:
        """Put the ops that the user inserted here on the tape, and let their results take effect. What gives another
        tensor to a variable of a function that is about to be called waits for it."""
        check()
        self._changes.reach(self.opening.before(len(recorder.tape.ops)), due=due and not calling)
        if recorder.mirrors:
            recorder.mirrors[-1].passed(due=due and not calling)
        standing: ComingBy | None = None
        while (op := self._inserted(recorder, due)) is not None:
            if self._waits(recorder, op, calling):
                return
            standing = standing or ComingBy(recorder)
            pass_ = recorder.pass_ if recorder.pass_ is not None else reopened_pass(recorder)
            at = len(recorder.tape.ops)
            twin = self.opening.remade.insert(recorder, op) if self.opening.anew else copy_op(op, pass_, at)
            twin.pass_, twin.position, twin.scope = pass_, at, standing.scope_of(op)
            if recorder.started and pass_ is not recorder.pass_ and at == recorder.tape.origin:
                recorder.tape.origin += 1  # what is changed before #1 is setup
            recorder.tape.ops.append(twin)
            for value in [value for value in op.outputs if value.op is op]:
                value.op = twin
            if pass_ is not recorder.pass_:
                pass_.end = at + 1
            target = recorder.tape.notes.edits.get(twin)
            if target is not None:
                self.final[target] = twin.outputs[0]
                self._made.add(twin.outputs[0])
                self._take_effect(recorder, twin, target)
        if recorder.mirrors and not self.replaying(len(recorder.tape.ops)):
            recorder.mirrors[-1].due(InSecondRun(recorder, self.plan, self._take_effect), calling)

    def has_line(self, recorder: Recorder, count: int, passing: bool = False) -> bool:
        start = self.opening.before(len(recorder.tape))
        ends = [end for begin, end in self.tape.compiled if begin == start]  # edits may have made it longer
        return self._changes.has_line(start, max([start + count, *ends]), passing)

    def given(self, recorder: Recorder, op: Op, frame: FrameType) -> Op | None:
        """Return the op of the tape that `op` is: it is put on the new tape, and nothing is computed."""
        # Not on a tape yet, it is compared with one that is: where they stand tells ops apart (`same_place`).
        op.scope, op.lasti = recorder.stack.place(frame)
        if self.opening.anew:
            self._check_anew(recorder, op)
            return None
        if not self.replaying(len(recorder.tape)):
            if not self._found_again(recorder, op):
                return None
            recorder.put(op, frame)
            return op
        old = self._expect(recorder, op)
        twin = copy_op(old, old.pass_, 0)  # the old op stays where it is, on the timeline that is kept
        self._take(twin)
        recorder.put(twin, frame)
        error = recorder.tape.notes.errors.get(old)
        if error is not None:  # the program may catch it, and what it did then is on the tape
            raise error
        return twin

    def is_made(self, value: Value) -> bool:
        return value not in self.was and value.op is not None and not self.replaying(value.op.position)

    def has_inside(self, recorder: Recorder) -> bool:
        """Whether a call that is about to be made is one of the tape: what happens inside is there, too."""
        return self.replaying(len(recorder.tape))

    def inside(self, recorder: Recorder, scope: Activation | None, lasti: int) -> Inside | None:
        """Put what happened inside of a call of the tape before its op."""
        if not self.has_inside(recorder):
            return None
        return InsideFollowed(recorder, self.expected, self.tape.bindings, copy_op, scope, lasti).run()

    def repeated(self, recorder: Recorder, op: Op, of: Sequence[Value]) -> bool:
        """Whether an op of a compiled function is one of the tape; then it has the values of that."""
        if isinstance(op, BackwardOp):
            return self.swept(recorder, op, of)
        if self.opening.anew:
            self._pair(recorder, op)
            return False
        if self.replaying(len(recorder.tape)):
            expected = self._expect(recorder, op)
            become(op, expected)
            self._take(op)
            return True
        return self._found_again(recorder, op)

    def swept(self, recorder: Recorder, op: BackwardOp, of: Sequence[Value]) -> bool:
        """Whether a backward op is one of the tape; then it has the values of that, or raises what that raised."""
        if self.opening.anew:
            self._pair(recorder, op)
            return False
        if not self.replaying(len(recorder.tape)):
            known = self.plan.backward(op)
            if known is None:
                return False
            self._take_over(recorder, op, known, of)
            return True
        old = self._expect(recorder, op)
        become(op, old)
        self._take(op)
        error = recorder.tape.notes.errors.get(old)
        if error is not None:
            recorder.tape.notes.errors[op] = error
        return True

    def ended(self, recorder: Recorder, error: BaseException | None = None) -> None:
        """Note that what was to run again has run, to its end or to an exception.

        Raises:
            Diverged: If it ended before the tape did.
        """
        self.opening.end(recorder)
        reached = len(recorder.tape)
        if reached < len(self.expected):
            raise Diverged(OpDifference(self.expected[reached], None, "" if error is None else said_of(error)))

    @property
    def other_way(self) -> OpDifference | None:
        """Where the program went another way after the edit: the first op that the old tape has not, or that only the
        old tape has. None if it did again what it had done, with other numbers."""
        if self._run.recoded:
            return None
        missing = self.plan.left(self.end)
        return self.plan.other or (None if missing is None else OpDifference(missing, None))

    def content(self, value: Value) -> Value:
        """Return what the program is to hold where the tape has `value`: the last edit of it; natively it computes with
        that, so that there only edits count that it has come by."""
        while value in self.final and self.final[value] in self._made:
            value = self.final[value]
        return value

    def edited_in_place(self, value: Value) -> bool:
        """Whether an edit has put `value` into a container of the program's, or into the object that lies there."""
        return value in self._in_place

    def pass_kind(self, op: Op) -> str | None:
        """Return the kind of the pass in which an op of the tape stands. Where ops are recorded anew, the first forward
        pass begins where it did: what reads a parameter then may be known by another object."""
        at, opening = op.position, self.opening
        if self.replaying(at):  # an op for which a pass is asked before what happens inside of it has none yet
            return self.expected[at].pass_.outermost.kind
        near = [] if opening.free else [one.pass_.kind for one in self.expected[max(at - 1, 0) : at + 1]]
        return near[-1] if opening.anew and len(near) > 1 and SETUP_PASS in near else None

    def leaf(self, recorder: Recorder, number: int, array: mx.array, kind: str, label: str, origin: Value) -> Value:
        """Return the leaf of the run before, if it came from the same value."""
        pass_ = self._old_pass(recorder.tape)
        before = pass_.wrt[number] if pass_ is not None and number < len(pass_.wrt) else None
        if self.opening.anew:
            fresh = recorder.leaf(array, kind, label, origin)
            if before is not None:
                self.opening.remade.now[before] = fresh
            return fresh
        if before is None or not self._same_origin(recorder, before.origin, origin):
            fresh = recorder.leaf(array, kind, label, origin)
            if before is not None:
                self.plan.stand_for(fresh, before)
            return fresh
        if self.replaying(len(recorder.tape)):
            recorder.link(array, before)
            return before
        value = recorder.leaf(array, kind, label, origin)
        self.was[value] = before
        return value

    def seed(self, recorder: Recorder, number: int, array: mx.array, of: Value) -> Value:
        """Return the gradient from which the backward pass of the run before started, if this one starts from the
        same."""
        if self.opening.anew:
            return super().seed(recorder, number, array, of)
        pass_ = self._old_pass(recorder.tape)
        found = pass_.roots[number][1] if pass_ is not None and number < len(pass_.roots) else None
        known = isinstance(found, Leaf) and (found.shape, found.dtype) == (array.shape, array.dtype)
        if found is not None and known and self.replaying(len(recorder.tape)):
            return found
        value = super().seed(recorder, number, array, of)
        if found is not None and known:
            self.was[value] = found
        return value

    def disconnected(self, recorder: Recorder, number: int, zeros: mx.array, label: str) -> Value:
        pass_ = self._old_pass(recorder.tape) if self.replaying(len(recorder.tape)) else None
        for before in () if pass_ is None else pass_.given[number : number + 1]:
            if isinstance(before, Leaf):
                recorder.link(zeros, before)
                return before
        return super().disconnected(recorder, number, zeros, label)

    def gradient(self, recorder: Recorder, value: Value) -> mx.array:
        """Return a fresh handle, with the content that an edit further on gives to it."""
        return recorder.handle(value)

    def _same_origin(self, recorder: Recorder, before: Value | None, origin: Value) -> bool:
        """Whether two leaves continue the same: what was made natively is another leaf in each run."""
        if before is self.was.get(origin, origin):
            return True
        at = len(recorder.tape)
        return before is not None and self.replaying(at) and self._unify(recorder, before, origin)

    def _take(self, op: Op) -> None:
        """Note that what stands for an op of the old tape makes its values, where positions move."""
        for value in op.outputs if self._run.opened else ():
            value.op = op

    # -- closed calls ------------------------------------------------------------------------------------

    def natively(self, recorder: Recorder) -> bool:
        """Whether the call that comes next runs natively: where the tape has it closed, unless it is to be opened."""
        return self.opening.natively(recorder)

    def closed(self, recorder: Recorder, op: ClosedOp) -> None:
        """Note that a call has run natively.

        Raises:
            Diverged: If the tape has something else here.
        """
        if op.position < len(self.expected):
            old = self.expected[op.position]
            if old.operation is not op.operation:
                raise Diverged(OpDifference(old, op))
            self.opening.pairs.append((old, op))
            op.pass_.by_hand = old.pass_.by_hand

    def _check_anew(self, recorder: Recorder, op: Op) -> None:
        """Check an op that is recorded after a step that has been opened: it must be the one that the tape has there,
        on other values.

        Raises:
            Diverged: If it is not.
        """
        at = len(recorder.tape)
        if not self.opening.free and at < len(self.expected):
            expected = self.expected[at]
            if not same_operation(expected, op) or not same_place(expected, op):
                raise Diverged(OpDifference(expected, op))
            self.opening.remade.note(expected, op)

    def _pair(self, recorder: Recorder, op: Op) -> None:
        """Note which op of the tape one is that is recorded anew, where the program cannot go another way."""
        at = len(recorder.tape)
        if not self.opening.free and at < len(self.expected) and self.expected[at].operation is op.operation:
            self.opening.remade.note(self.expected[at], op)

    def stretches(self, recorder: Recorder) -> bool:
        return self.opening.stretches(recorder)

    def turns(self, recorder: Recorder, evaluations: int, since: int) -> bool | None:
        return self.opening.turns(recorder, evaluations, since)

    def awake(self, recorder: Recorder) -> None:
        self.opening.awake(recorder)

    def left(self, recorder: Recorder) -> None:
        self.opening.left(recorder)

    # -- following the tape ------------------------------------------------------------------------------

    def replaying(self, position: int) -> bool:
        """Whether an op at `position` must be one of the tape."""
        return not self.opening.anew and position < len(self.expected)

    def _inserted(self, recorder: Recorder, due: bool) -> Op | None:
        """Return the op that the user inserted here, if it is due: in a second run, once that has begun."""
        at = len(recorder.tape)
        op = None if self.opening.free or at >= len(self.expected) else self.expected[at]
        if op is None or op not in self.tape.notes.inserted or (op in self.tape.notes.following and not due):
            return None
        return op if recorder.mirrors or not in_second_run(op) else None

    def _waits(self, recorder: Recorder, op: Op, calling: bool) -> bool:
        from nnrepl.replay.assigned_paths import waits  # needed where something was edited

        return waits(recorder, self._edit_of(op), self.tape.notes.edits, calling)

    def _edit_of(self, op: Op) -> Op:
        """Return the op that makes the change to which an inserted one belongs."""
        notes, at = self.tape.notes, self.expected.index(op)
        return next((other for other in self.expected[at:] if other in notes.edits), op)

    def _old_pass(self, tape: Tape) -> Pass | None:
        """Return the gradient pass of the old tape that the last one of the new tape is."""
        number = sum(pass_.kind == GRADIENT_PASS for pass_ in tape.passes)
        return self._passes[number - 1] if 0 < number <= len(self._passes) else None

    def _expect(self, recorder: Recorder, op: Op) -> Op:
        """Return the op of the tape that `op` must be.

        Raises:
            Diverged: If the tape has another op here.
        """
        expected = self.expected[len(recorder.tape.ops)]
        with recorder.muted() if op.operation.kind == "data" else nullcontext():
            difference = compare(expected, op)
        if difference is not None:
            raise Diverged(difference)
        for a, b in zip(expected.inputs, op.inputs):
            if not self._unify(recorder, a, b):
                raise Diverged(OpDifference(expected, op, f"{b.name} instead of {a.name}"))
        return expected

    def _unify(self, recorder: Recorder, expected: Value, found: Value) -> bool:
        """Whether two inputs are the same; a leaf that entered anew takes the place of the one it is."""
        return unify(recorder, expected, found)

    # -- after the edit ----------------------------------------------------------------------------------

    def _found_again(self, recorder: Recorder, op: Op) -> bool:
        """Whether a forward op has the numbers that it had; then it takes them over.

        Raises:
            Diverged: If the old tape has no such op, and that cannot be because of the edit.
        """
        with recorder.muted() if op.operation.kind == "data" else nullcontext():
            known, same = self.plan.forward(op)
        if (
            known is None
            and self._alone
            and self.plan.other is not None
            and not self._run.is_noticed(recorder, self.was)
        ):
            raise Diverged(self.plan.other)
        if known is None or not same:
            return False
        self._take_over(recorder, op, known)
        return True

    def _take_over(self, recorder: Recorder, op: Op, old: Op, of: Sequence[Value] = ()) -> None:
        """Give an op the results of an old one that computed the same: values of its own on the same arrays.

        Args:
            of: What they are the gradients of, in the backward pass.
        """
        notes = recorder.tape.notes
        outputs = []
        for slot, value in enumerate(old.outputs):
            # `x[i] = v` writes into the object (`overwrite_descriptor`, mlx/array.h): the old timeline keeps its own.
            held = None if value.held is None else _copy(value.held)
            twin = Gradient(op, slot, held, of[slot]) if of else Value(op, slot, held)
            notes.carry_value(value, twin)
            self.was[twin] = value
            outputs.append(twin)
        op.outputs = tuple(outputs)
        if old in notes.structures:
            notes.structures[op] = notes.structures[old]

    # -- the program's objects ---------------------------------------------------------------------------

    def _take_effect(self, recorder: Recorder, op: Op, target: Value) -> None:
        """Note that an edit has been put on the tape: everything holds its result, or what it assigns to does."""
        from nnrepl.replay.operands import StillTaken
        from nnrepl.replay.rebinding import Rebinding

        with recorder.muted():
            rebinding = Rebinding(recorder, op, target)
            rebinding.begin()
            if rebinding.place is not None or rebinding.is_entry:
                self._in_place.add(op.outputs[0])
            if rebinding.is_inside:
                self.final.pop(target, None)
                for sweep in recorder.sweeps:
                    sweep.exchange(target, op.outputs[0])
                return
            self._exchange(recorder, target, op.outputs[0])
            if rebinding.found:
                # All else that holds the old value goes on with it: `content` must not give the new one for it.
                self.final.pop(target, None)
                rebinding.keep()
                self.plan.parted |= {target, op.outputs[0]} if rebinding.parted else set()
                self.pending = StillTaken(rebinding.operands)

    def taken(self, operation: Operation, args: tuple[Any, ...], frame: FrameType) -> tuple[Any, ...]:
        """Return an op's arguments, of which the program had read some before an edit gave a name another."""
        return args if self.pending is None else self.pending.taken(operation, args, frame)

    def _exchange(self, recorder: Recorder, old: Value, new: Value) -> None:
        """Let all that held `old` hold `new`. Arrays that the program has had for longer are changed in place."""
        content = self.content(new)
        for key, value in recorder.live.copy().items():
            if value is old:
                array = object_of(recorder, key, old)
                if array is not None:
                    overwrite(recorder, array, old, content)
        recorder.relink({old: new})
        recorder.watch.restated(lambda array: recorder.live.get(id(array)) is new, old)
        for sweep in recorder.sweeps:
            sweep.exchange(old, new)

    def refresh(self, recorder: Recorder) -> None:
        """Give the program's objects the content that they are to have on this timeline: at the entry of a pass some
        may hold what an edit further on, of another timeline, had made of them."""
        for op in self.expected[: len(recorder.tape)]:  # what holds the old value still is to hold it
            self.final.pop(recorder.tape.notes.edits.get(op), None)  # type: ignore[arg-type]
        edited = set(recorder.tape.notes.edits.values())
        for key, value in recorder.live.copy().items():
            array = object_of(recorder, key, value) if value in edited else None
            if array is not None:
                refill(array, self.content(value).array)
