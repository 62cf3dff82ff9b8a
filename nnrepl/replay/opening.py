"""Opening: in a run along a tape, some steps that are closed on it are recorded op by op.

What is recorded takes the place of the closed ops, on the new tape and in what the run is expected to do, so that all
that follows stays where it is in both. What comes after it is recorded anew, too: its inputs have a history now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nnrepl.record.native import levels_of
from nnrepl.replay.remade import Remade
from nnrepl.tape import GRADIENT_PASS, ClosedCall, ClosedOp, Op, OpenedStep, Pass, Tape, Value
from nnrepl.tape.steps import begins_with, is_due, unit_at

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


class Opening:
    """Which calls of a run are recorded although the tape has them closed.

    Args:
        old: The tape.
        steps: The numbers of the steps that are to be opened.
        expected: The ops that the run is to make, in which what is recorded takes the place of closed ops.
        closing: Steps that had been opened, and are closed again: their calls take the place of their ops.

    Attributes:
        old: The tape.
        free: How many calls of the step that is being opened are still to be made, and one more for what comes after
            the last of them, which belongs to the step up to the next call; 0: none is being opened.
        pairs: Calls that ran natively in both runs.
        grown: Where on the old tape ops took the place of closed ones, and how many more they are.
        remade: Which op of the tape each one is that is recorded anew after a step that has been opened.
    """

    def __init__(
        self, old: Tape, steps: frozenset[int], expected: list[Op], closing: Sequence[OpenedStep] = ()
    ) -> None:
        self.old = old
        self.free = 0
        self.pairs: list[tuple[Op, ClosedOp]] = []
        self.grown: list[tuple[int, int]] = []
        self.remade = Remade()
        self._steps = steps
        self._expected = expected
        self._whole = len(expected) >= len(old)
        self._start = 0
        self._calls = 0
        self._shift = 0
        self._closing = {step.start: step for step in closing if step.end <= len(expected)}
        self._numbers: dict[int, int] = {}
        self._opened: list[OpenedStep] = []

    def natively(self, recorder: Recorder) -> bool:
        """Whether what the program does next is to run natively."""
        at = len(recorder.tape)
        if self.free > 1:
            return False
        self.close(recorder)
        self._close_again(at)
        # Only now: what has been closed or closed again has moved all that comes after it.
        levels = levels_of(recorder)
        native = levels is not None and levels.native
        late = self._is_late(at)
        if at >= len(self._expected):
            return native and (self._whole or late)
        if not isinstance(self._expected[at], ClosedOp):
            if levels is not None and native and late:
                levels.awaited = True
            return native and late
        if self._steps and self._step(at) in self._steps:
            self._begin(recorder, at)
            return False
        return True

    def stretches(self, recorder: Recorder) -> bool:
        """Whether a stretch begins here that stays closed; one that does not is recorded from here on."""
        at, levels = len(recorder.tape), levels_of(recorder)
        evaluations = 0 if levels is None else levels.evaluations
        if self.free and self._starts_turn(self._start + self._calls, evaluations):
            self.close(recorder)
        if not self.free and self._starts_turn(at, evaluations):
            self._close_again(at)
        if self.free or at >= len(self._expected) or not _is_stretch(self._expected[at]):
            return False
        if self._expected[at].pass_.turn != evaluations:
            return False
        if self._step(at) in self._steps:
            self._begin(recorder, at)
            return False
        return True

    def turns(self, recorder: Recorder, evaluations: int, since: int) -> bool | None:
        """Whether a closed turn of the setup ends with an evaluation, as `Intake.turns` tells."""
        at = len(recorder.tape)
        if at >= len(self._expected):
            return is_due(evaluations, since) or None
        if not self._starts_turn(at, evaluations):
            return None
        self._close_again(at)
        if self._step(at) in self._steps:
            self._begin(recorder, at)
            return False
        return isinstance(self._expected[at], ClosedOp)

    def _starts_turn(self, at: int, evaluations: int) -> bool:
        """Whether a turn begins at a position of what is expected, with the how manyth evaluation of the run, or what
        is recorded there does (after a change, or where the program waited)."""
        if at >= len(self._expected):
            return False
        recorded = None if isinstance(self._expected[at], ClosedOp) else self.old.turns.recorded.get(at - self._shift)
        return evaluations > 0 and evaluations in (begins_with(self._step(at)), recorded)

    def awake(self, recorder: Recorder) -> None:
        """Wake up: a call is about to be recorded that ends a stretch, if one is being opened; or a call that the tape
        has, whatever else it has not after the last one of the step that is being opened."""
        late = self.free == 1 and self._is_late(self._start + self._calls)
        if late:
            recorder.tape.late.add(len(recorder.tape))  # should the step be closed again
        if late or (self.free and _is_stretch(self.old.ops[self._start - self._shift])):
            self.close(recorder)

    def _step(self, at: int) -> int:
        """Return the step to which the op belongs that is expected at a position."""
        if at in self._numbers:
            return self._numbers[at]
        return unit_at(self.old, at - self._shift)

    def _begin(self, recorder: Recorder, at: int) -> None:
        steps, end = self.old.whole([self._step(at)]), at + 1
        expected = self._expected
        stretch = _is_stretch(expected[at])
        while not stretch and end < len(expected) and isinstance(expected[end], ClosedOp) and self._step(end) in steps:
            end += 1
        self._start = at
        self._calls = end - at
        # One more than its calls: what the program does after the last of them, up to the next call, is the step's too.
        self.free = 1 if stretch else self._calls + 1
        levels = levels_of(recorder)
        if levels is not None and not levels.native:
            levels.renew()

    def left(self, recorder: Recorder) -> None:
        """Note that a call has been recorded to its end. Where the tape goes on with a closed one, what lies between is
        closed too, but for what belongs to a step that is being opened."""
        if self.free > 2 or (self.free and self._goes_on()):
            self.free = max(self.free - 1, 1)
            return
        self.close(recorder)
        levels = levels_of(recorder)
        if len(recorder.tape) < len(self._expected) and self.natively(recorder) and levels is not None:
            levels.go_native()

    def _goes_on(self) -> bool:
        """Whether what comes after the last call of the step that is being opened is not on the tape."""
        after, expected = self._start + self._calls, self._expected
        return self._is_late(after) or (after < len(expected) and isinstance(expected[after], ClosedOp))

    def _is_late(self, position: int) -> bool:
        """Whether what the tape has at a position follows something that is not on it."""
        return position - self._shift in self.old.late

    def close(self, recorder: Recorder) -> None:
        """If a step is being opened, it ends here: before the next call, or a cell."""
        if self.free:
            self.free = 0
            self._splice(recorder)

    def _close_again(self, at: int) -> None:
        """If a step begins at a position that is to be closed again, its calls are expected there."""
        step = self._closing.pop(at - self._shift, None)
        if step is None:
            return
        end = at + step.end - step.start
        calls = _with_losses(self.old, step)
        turn = begins_with(step.number)
        self._expected[at:end] = [_closed_op(self.old, call, at + number, turn) for number, call in enumerate(calls)]
        self._numbers.update(dict.fromkeys(range(at, at + len(step.calls)), step.number))
        more = len(step.calls) - (end - at)
        self.grown.append((step.start, more))
        self._shift += more

    def _splice(self, recorder: Recorder) -> None:
        start, end = self._start, len(recorder.tape)
        calls = tuple([_call_of(op) for op in self._expected[start : start + self._calls] if isinstance(op, ClosedOp)])
        self._opened.append(OpenedStep(self._step(start), start, end, calls))
        self._expected[start : start + self._calls] = recorder.tape.ops[start:end]
        more = end - start - self._calls
        self.grown.append((start - self._shift, more))
        self._shift += more

    def end(self, recorder: Recorder) -> None:
        """Note that the program has ended; a step that is being opened ends with it."""
        self.close(recorder)

    def before(self, position: int) -> int:
        """Where on the old tape a position of the new one lies; of a step that is being opened, its beginning."""
        return (self._start if self.free else position) - self._shift

    def moved(self, position: int) -> int:
        """Where on the new tape a position of the old one lies."""
        return position + sum(max(more, start - position) for start, more in self.grown if start < position)

    def open_now(self) -> list[OpenedStep]:
        """Return the steps that are open where all has been done again, those that were opened in this run last."""
        closed = {start for start, more in self.grown if more < 0}
        before = [step for step in self.old.opened if step.start not in closed]
        return [
            *(replace(step, start=self.moved(step.start), end=self.moved(step.end)) for step in before),
            *self._opened,
        ]

    def parted(self) -> str:
        """Take over the losses that are known already. Returns where the numbers of this run are others than those of
        the run before, as the losses of closed calls tell; "" if they are the same as far as that is known."""
        for old, new in self.pairs:
            before, now = old.pass_.loss, new.pass_.loss
            if before is not None and before.held is None and not before.evaluated:
                before = None
            if now is None and before is not None:  # what the program evaluates later is known already
                now = new.pass_.loss = Value(new, 0, before.array)
                new.outputs = (now,)
            if before is None or now is None:
                continue
            a, b = before.array.item(), now.array.item()
            if a != b and not (a != a and b != b):  # two NaNs are no difference
                return (
                    f"from {new.step.title} on the numbers differ from those of the run before: its loss was {a!r} and "
                    f"is {b!r} now"
                )
        return ""

    def over(self, recorder: Recorder) -> bool:
        """Whether all that is expected has been done again."""
        return not self.free and len(recorder.tape) >= len(self._expected)

    @property
    def length(self) -> int:
        """How many ops the old tape has."""
        return len(self.old)

    @property
    def anew(self) -> bool:
        """Whether what the program does now is recorded anew: a step that is being opened, and all that comes after
        it, since that works on what is made there."""
        return self.free > 0 or bool(self.grown)

    @property
    def reached(self) -> int | None:
        """The position of the last op that is expected; None while a step is being opened."""
        return None if self.free else len(self._expected) - 1


def _call_of(op: ClosedOp) -> ClosedCall:
    pass_ = op.pass_
    loss = pass_.loss
    return ClosedCall(pass_.kind, pass_.title, pass_.by_hand, None if loss is None else loss.array)


def _with_losses(tape: Tape, step: OpenedStep) -> list[ClosedCall]:
    """Return the calls of a step that has been opened, with the losses that have been looked at meanwhile."""
    passes = [one for one in tape.passes if step.start <= one.start < step.end and one.kind == GRADIENT_PASS]
    calls = [call for call in step.calls if call.kind == GRADIENT_PASS]
    if len(calls) != len(passes):
        return list(step.calls)
    looked = {
        id(call): one.loss.array for call, one in zip(calls, passes) if one.loss is not None and one.loss.evaluated
    }
    return [call if call.loss is not None else replace(call, loss=looked.get(id(call))) for call in step.calls]


def _closed_op(tape: Tape, call: ClosedCall, at: int, turn: int) -> ClosedOp:
    """Return what stands for a call on a tape where it is expected to be made natively."""
    pass_ = Pass(tape, 0, call.kind, call.title, at, at + 1, at + 1, open=False, by_hand=call.by_hand, turn=turn)
    op = ClosedOp(call.kind, call.title, pass_)
    if call.loss is not None:
        pass_.loss = Value(op, 0, call.loss)
    return op


def _is_stretch(op: Op) -> bool:
    return isinstance(op, ClosedOp) and op.is_stretch
