"""Native: the program runs as MLX runs it, and only its calls are noticed.

While nobody needs what is inside of them, a gradient call and an optimizer's update are each one closed op of the
tape: what was called, from where, its loss. None of the wrappers of MLX's operations is in its place meanwhile, so a
step costs what plain Python costs. Opening such a step is a matter of running the program again (`nnrepl.replay`).

A program that makes no gradient calls (it generates, it evaluates) is one closed op from one of its evaluations on: a
stretch, which ends where a call is made that has to be seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import Any

from nnrepl.record.by_hand import HandChanges, Weights
from nnrepl.record.closed_losses import ClosedLosses, gives
from nnrepl.record.closing import Arriving, Call, note_span, put_closed
from nnrepl.record.frame_variables import first_argument
from nnrepl.record.handing_back import hand_back
from nnrepl.record.intake import RECORDING
from nnrepl.record.noting import Loss, Noting
from nnrepl.record.numbering import BY_OPTIMIZER, Numbering
from nnrepl.record.patches import Patches
from nnrepl.record.recorder import NATIVE, RECORD, Recorder, here
from nnrepl.record.stack import outside_of_mlx
from nnrepl.record.watch import BindingWatch
from nnrepl.tape import GRADIENT_PASS, RUN_PASS, SETUP_PASS, UPDATE_PASS, Activation, ClosedOp, Pass
from nnrepl.tape.collector import set_aside
from nnrepl.tape.native_run import MadeCall
from nnrepl.tape.steps import earliest

_getframe = sys._getframe


class Quiet:
    """Stands in for the watch over variables: natively nobody looks at any. What it held it lets go of as calls return:
    a frame that is held keeps all that its variables hold.

    Args:
        watch: What looked at them before.
    """

    notes, native = False, True

    def __init__(self, watch: BindingWatch) -> None:
        # The first argument of a function may be a Module or an Optimizer. Nothing else is asked at each call.
        self.enter: Callable[[FrameType], Any] = first_argument
        self.leave: Callable[[FrameType], None] = watch.forget
        self._forget_all = watch.forget_all

    def release(self, rests: bool = False) -> None:
        self._forget_all()

    def belong(self, frame: FrameType, scope: Activation) -> None:
        """Nothing is noted."""

    def see(self, frame: FrameType) -> None:
        """Nothing is noted."""


class Levels:
    """Switches between recording every op and noticing calls only.

    Args:
        recorder: What records.
        everything: Puts in what records every op.
        calls: Puts in what notices calls.

    Attributes:
        recorder: What records.
        inside: Whether a closed call is running.
        blocked: Why this program cannot run natively; "" if it can.
        losses: What becomes of the losses of closed calls.
        numbering: Numbers their passes.
        changes: Tells whether weights are changed between gradient calls.
        resting: Whether the program is in a closed stretch: until the next call.
        awaited: Whether the next call is recorded, as in the run before, whatever comes before it.
        evaluations: How many evaluations the program has forced up to now at its top level.
        remember: Returns what puts back all that can be reached from some things; None if nobody can.
        undisturbed: Tells whether nothing but the user can stop the program at a call, and nothing is to be done there;
            None as long as that is not known.
        returned: What the call gives back that has just been closed; `calling`: the frame in which it was made,
            `compiled`: whether in a compiled function; `making`: the one that is being made.
    """

    def __init__(
        self,
        recorder: Recorder,
        everything: Callable[[Patches], None],
        calls: Callable[[Levels, Patches], None],
    ) -> None:
        self.recorder = recorder
        self._everything = everything
        self._calls = calls
        self._patches = Patches()
        recorder.levels = self
        self.inside = False
        self.blocked = ""
        self.losses = ClosedLosses()
        self.numbering = Numbering()
        self._arriving = Arriving(self.numbering)
        self.changes = HandChanges()
        self.resting = self.awaited = False
        self.evaluations = 0
        self.returned: Any = None
        self.calling: FrameType | None = None
        self.compiled = False
        self.making: Callable[[], Any] | None = None
        self.remember: Callable[[tuple[Any, ...]], Callable[[], None] | None] | None = None
        self.undisturbed: Callable[[], bool] | None = None
        self._noting = Noting(recorder, self.numbering, self._arriving, self.losses, self.changes)
        self._depth = 0
        self._sparse = False
        self._turn, self._due = 0, sys.maxsize

    def begin(self) -> None:
        """Record every op."""
        self._everything(self._patches)

    def undo(self) -> None:
        """Take out what is in."""
        self._patches.undo()

    @contextmanager
    def out(self) -> Iterator[None]:
        """While this lasts nothing is noticed: MLX is as it was before."""
        self._patches.undo()
        try:
            yield
        finally:
            if self._sparse:
                self._calls(self, self._patches)
            else:
                self._everything(self._patches)

    @property
    def native(self) -> bool:
        """Whether calls only are noticed."""
        return self.recorder.mode == NATIVE

    # -- switching -------------------------------------------------------------------------------------------

    def go_native(self) -> None:
        """From here on only calls are noticed. The program stands between two calls of its top level."""
        recorder = self.recorder
        recorder.close_pass()
        self._noting.forget()
        for frame in recorder.stack.watched(Quiet(recorder.watch)):
            if frame is not None:
                recorder.watch.see(frame)  # what they have got since their last op is not known later
        recorder.watch.rest()
        if recorder.tape.notes.updates:
            from nnrepl.record.giving_way import give_way

            give_way(recorder, unseen=True)
        hand_back(recorder)
        self._patches.undo()
        self._calls(self, self._patches)
        self._sparse = True
        recorder.mode = NATIVE
        set_aside()  # what is on the tape stays there: Python need not walk it again and again
        if not recorder.intake.follows:
            from nnrepl.record.heap import fill

            fill()

    def record(self) -> None:
        """From here on every op is recorded."""
        recorder = self.recorder
        self.resting = self.awaited = False
        recorder.intake.wakes(recorder)
        self.losses.link(recorder)
        self.changes.forget()
        self._noting.forget()
        self.renew()
        recorder.mode = RECORD
        recorder.native_until = len(recorder.tape)
        recorder.older.clear()
        recorder.seeded(("native", len(recorder.tape.steps)))
        recorder.watch.resume(recorder.stack.watched(recorder.watch))
        from nnrepl.record.heap import release

        release()

    def renew(self) -> None:
        """Put in anew what records every op, since what is asked of it has changed."""
        self._patches.undo()
        self._everything(self._patches)
        self._sparse = False

    @contextmanager
    def awake(self) -> Iterator[None]:
        """While this lasts ops can be recorded, also where the program runs natively."""
        sparse = self._sparse
        if sparse:
            self.renew()
        try:
            yield
        finally:
            if sparse:
                self._patches.undo()
                self._calls(self, self._patches)
                self._sparse = True

    # -- stretches -------------------------------------------------------------------------------------------

    def forced(self, scope: Activation | None, frame: FrameType) -> None:
        """Tell that the program has forced an evaluation while ops are recorded. What it does next becomes a closed
        stretch, if nobody needs what is in it."""
        recorder, listener = self.recorder, self.recorder.listener
        self.evaluations += 1
        recorder.tape.turns.evaluated(recorder.stack.places(frame), len(recorder.tape), self.evaluations)
        recorder.tape.turns.move(len(recorder.tape), recorded=True)
        if listener is None:
            return
        listener.evaluation_forced()
        if self.blocked or recorder.tracing or not listener.rests():
            return
        recorder.intake.enter(recorder)
        self.resting = True
        self.go_native()
        self._stretch(scope, frame.f_lasti)

    def _stretch(self, scope: Activation | None, lasti: int) -> None:
        recorder = self.recorder
        op = put_closed(self.numbering, recorder.tape, Call(RUN_PASS if recorder.started else SETUP_PASS), scope, lasti)
        op.pass_.turn = self.evaluations
        self._turn, self._due = op.pass_.turn, earliest(op.pass_.turn)
        recorder.intake.closed(recorder, op)
        self._left(op)

    def wake(self) -> None:
        """Note that a call is about to be made that has to be seen: a stretch ends here, closed or opened."""
        if self.resting or self.awaited:
            self.record_late()
        elif not self.native:
            self.recorder.intake.awake(self.recorder)

    def evaluated(self, frame: FrameType) -> None:
        """Note that the program has forced an evaluation in a closed stretch. In the setup another one may begin."""
        recorder = self.recorder
        if recorder.mode != NATIVE or get_ident() != recorder.thread or self.inside:
            return
        self.evaluations += 1
        stack, turns = recorder.stack, recorder.tape.turns
        places = stack.places_again(frame)  # as mostly
        if places is None:
            frame = stack.program_frame(frame)
            places = stack.places(frame)
        turns.evaluated(places, len(recorder.tape) - 1, self.evaluations)
        if recorder.listener is not None:
            self.calling = frame
            recorder.listener.evaluated_natively(self.evaluations)
            self.calling = None
        due = self.evaluations >= self._due  # asked at every evaluation, so no more is asked than that
        closed = recorder.intake.turns(recorder, self.evaluations, self._turn) if due else None
        if closed:
            self._stretch(recorder.stack.enter(frame), frame.f_lasti)
        elif closed is False:
            self.record()
        if closed is not None:
            turns.move(len(recorder.tape) - (closed is True), recorded=not closed)

    # -- calls -----------------------------------------------------------------------------------------------

    def begins(self, frame: FrameType) -> bool:
        """Note that a gradient call is about to be made while ops are recorded. Returns whether it is to run
        natively."""
        recorder = self.recorder
        listener = recorder.listener
        if not recorder.differentiating:
            recorder.tape.turns.stop()  # from here on there are steps
        if listener is None or self.blocked or recorder.differentiating or recorder.tracing:
            return False
        if not (listener.may_run_natively() or recorder.intake.opens):
            return False
        self.losses.settle()
        recorder.close_pass()  # the gradient call begins one of its own
        frame = recorder.stack.program_frame(frame)
        step = recorder.tape.steps.coming(recorder.stack.enter(frame), frame.f_lasti)
        if not listener.runs_natively(step):
            return False
        recorder.intake.enter(recorder)
        self.go_native()
        self.numbering.seen = True
        return True

    def run(
        self,
        calls: Sequence[Call],
        frame: FrameType,
        call: Callable[[], Any],
        loss: Loss | None = None,
        weights: Weights | None = None,
    ) -> Any:
        """Make a call natively; it becomes a closed op, or several, which are put on the tape when it is over.

        Args:
            calls: What they are.
            loss: Picks the loss out of what comes back; None where there is none.
            weights: By what they differentiate, where that is known.
        """
        recorder = self.recorder
        result, error = None, None
        if self.undisturbed is not None and recorder.intake is RECORDING and self.undisturbed():
            place = self._noting.place(calls, frame, weights)
            if place is not None:
                return self._noting.run(self, place, call, loss, weights)
        len(recorder.tape)  # what is noted of calls before comes to lie there
        self._begin(calls[0], call, weights)
        frame = outside_of_mlx(frame)
        scope, lasti = recorder.stack.enter(frame), frame.f_lasti
        self.inside = True
        try:
            result = call()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.inside, self.making = False, None
            there = calls if error is None else calls[:1]  # which of several raised is not known: the first began
            for made in there:
                op = self._arriving.put_one(recorder.tape, made, scope, lasti)
                if error is not None:
                    op.pass_.error = recorder.tape.notes.errors[op] = error
                elif loss is not None and made.kind == GRADIENT_PASS:
                    op.pass_.gives_loss = gives(result)
                    self.losses.made(op, loss(result))
                recorder.intake.closed(recorder, op)
                self._expect_update(op.pass_, weights)
            note_span(recorder.tape, there)
            self.compiled = calls[0].scope is not None
            self._left(op, result, frame)
        return result

    def _begin(self, first: Call, call: Callable[[], Any], weights: Weights | None) -> None:
        """Note that a call is about to be made natively."""
        recorder, gradient = self.recorder, first.kind == GRADIENT_PASS
        if gradient:
            self.losses.settle()
            self._look_for_update(weights)
        recorder.intake.enter(recorder)
        self.making = call
        if gradient and recorder.listener is not None:
            recorder.listener.closed_call_started()

    def within(self, made: Call, scope: Activation | None, lasti: int) -> Activation | None:
        """Return in which call of a compiled function a call is made."""
        return self._arriving.within(made, scope, lasti)

    def _look_for_update(self, weights: Weights | None) -> None:
        """See whether the program has changed the weights since their last gradient call, and that was expected."""
        found = None if weights is None or not self.changes.knows else self.changes.unexpected(weights)
        if found is not None and self.recorder.listener is not None:
            self.recorder.listener.not_expected(found)

    def _expect_update(self, pass_: Pass, weights: Weights | None) -> None:
        """Note what is expected to update weights next: an optimizer, which is noticed, or the program by hand."""
        if pass_.kind == UPDATE_PASS:
            self.changes.forget()
        elif weights is not None and pass_.error is None and self.numbering.update != BY_OPTIMIZER:
            self.changes.hold(weights, pass_, closed=True)

    def _left(self, op: ClosedOp, result: Any = None, frame: FrameType | None = None) -> None:
        listener, self.returned, self.calling = self.recorder.listener, result, frame
        if listener is not None and not listener.call_closed(op) and self.native:
            self.record()
        self.returned = self.calling = None

    def comes(self, run: Callable[[], Any], gradient: bool, frame: FrameType) -> None:
        """Note that a call comes that is recorded op by op, and whether it is known that it takes gradients: what is
        too old may be closed before, and what the program holds be kept, as if `run` made the call natively."""
        if self.recorder.listener is not None and not self._depth:
            self.making, self.calling = run, frame
            try:
                self.recorder.listener.call_comes(gradient)
            finally:
                self.making = self.calling = None

    @contextmanager
    def noted(self, calls: list[Call], frame: FrameType) -> Iterator[None]:
        """Note where a call is recorded op by op that would be closed ops if it ran natively: `calls`, known when it is
        over."""
        recorder, outermost = self.recorder, not self._depth
        start = len(recorder.tape)
        yield
        if outermost:
            frame = outside_of_mlx(frame)
            made = MadeCall(start, len(recorder.tape), tuple(calls), recorder.stack.enter(frame), frame.f_lasti)
            recorder.tape.made.append(made)

    @contextmanager
    def recorded(self, calls: list[Call], frame: FrameType) -> Iterator[None]:
        """Record such a call, of which a run along a tape is told."""
        with self.noted(calls, frame), self._told(calls):
            yield

    @contextmanager
    def _told(self, calls: list[Call]) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                for _ in calls:
                    self.recorder.intake.left(self.recorder)
        if calls and not self._depth and self.recorder.listener is not None:
            self.recorder.listener.call_left()

    def count(self, pass_: Pass) -> None:
        """Give the pass of a recorded call its number, where a closed one comes before it: what lies between was not
        seen."""
        tape = self.recorder.tape
        if tape.ops and isinstance(tape.ops[-1], ClosedOp):
            before = tape.passes[-2]
            pass_.number = before.number + self.numbering.between(before, pass_)

    def over(self) -> None:
        """Note that the program has ended: the last loss is looked at."""
        self.losses.settle()

    def record_late(self) -> None:
        """Note that what is about to be called has to be recorded, although what came just before has not been."""
        self.recorder.tape.late.add(len(self.recorder.tape))
        self.record()


def levels_of(recorder: Recorder) -> Levels | None:
    """Return what switches a recorder's levels; None before anything is installed."""
    levels = recorder.levels
    return levels if isinstance(levels, Levels) else None


def noticing() -> Levels | None:
    """Return what notices a call made natively here and now, not within another one; None if nothing does."""
    recorder = here()
    levels = recorder.levels if recorder is not None and recorder.mode == NATIVE else None
    return levels if isinstance(levels, Levels) and not levels.inside else None
