"""Noting: a call that runs natively where nothing can stop the program takes a note, and no look at the tape.

It is made at every step, and a step of a small model takes a tenth of a millisecond. So what does not change from step
to step is known by the place from which the call is made, and that place by a look at the frames on the way to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

from nnrepl.record.by_hand import HandChanges, Weights
from nnrepl.record.closed_losses import ClosedLosses, gives
from nnrepl.record.closing import Arriving, Call, NotedCalls, WaitingCalls, gradients_in
from nnrepl.record.numbering import BY_HAND, BY_OPTIMIZER, Numbering
from nnrepl.record.recorder import Recorder
from nnrepl.record.stack import Way, outside_of_mlx
from nnrepl.tape import Activation, Tape

_MANY = 256
Loss = Callable[[Any], Any]
"""Picks the loss out of what a call returns."""


class Making(Protocol):
    """Who makes calls natively (`nnrepl.record.native.Levels`).

    Attributes:
        inside: Whether one is running.
    """

    inside: bool


class CallPlace:
    """Where calls are made natively.

    Args:
        calls: What they are.
        way: How they are come to; None where nothing tells that.
        scope, lasti: In which call of the program's, and where in that.
        gradients: How many of them take gradients.
        update: What is expected to update weights after them, if they begin a step.
    """

    __slots__ = ("calls", "gradients", "lasti", "scope", "update", "way")

    def __init__(
        self, calls: Sequence[Call], way: Way | None, scope: Activation | None, lasti: int, gradients: int, update: str
    ) -> None:
        self.calls = calls
        self.way = way
        self.scope = scope
        self.lasti = lasti
        self.gradients = gradients
        self.update = update


class Noting:
    """Makes calls natively, and notes them: they become closed ops when somebody looks at the tape.

    Args:
        recorder: On whose tape they will lie.
        numbering, arriving: How they come to lie there.
        losses: What becomes of their losses.
        changes: Tells whether weights are changed between gradient calls.
    """

    def __init__(
        self,
        recorder: Recorder,
        numbering: Numbering,
        arriving: Arriving,
        losses: ClosedLosses,
        changes: HandChanges,
    ) -> None:
        self._recorder = recorder
        self._numbering = numbering
        self._arriving = arriving
        self._losses = losses
        self._changes = changes
        self._waiting = WaitingCalls(self._put)
        self._places: dict[tuple[int, int], CallPlace] = {}

    def forget(self) -> None:
        """Note that ops are recorded next, or have been: what comes from where may be something else then."""
        self._places.clear()

    def place(self, calls: Sequence[Call], frame: FrameType, weights: Weights | None) -> CallPlace | None:
        """Return from where calls are made, in a frame of the program's or of MLX's that it calls, where a note
        suffices: it is known without the tape what comes of them, that they are the first of a step, and what updates
        the weights after them, if they take gradients; and nothing unexpected has become of those before."""
        known = self._places.get((id(calls), frame.f_lasti))
        if known is None or not (known.calls is calls and self._recorder.stack.is_way(known.way, frame)):
            if self._numbering.seen:
                return None
            known = self._place(calls, frame)
        held = self._changes.held
        if weights is None:
            return None if held else known
        if not self._waiting.are_updated(self._recorder.tape):
            return None
        if known.update == BY_OPTIMIZER:
            return None if held else known
        return known if known.update == BY_HAND and self._changes.are_expected(weights) else None

    def _place(self, calls: Sequence[Call], frame: FrameType) -> CallPlace:
        outer, stack = outside_of_mlx(frame), self._recorder.stack
        scope, lasti = stack.enter(outer), outer.f_lasti
        update = self._numbering.expected(scope, lasti)
        place = CallPlace(calls, stack.way(frame, scope), scope, lasti, gradients_in(calls), update)
        if len(self._places) >= _MANY:
            self._places.clear()
        self._places[id(calls), frame.f_lasti] = place
        return place

    def run(
        self, levels: Making, place: CallPlace, call: Callable[[], Any], loss: Loss | None, weights: Weights | None
    ) -> Any:
        """Make a call natively, and note it."""
        tape, gradients, changes = self._recorder.tape, place.gradients, self._changes
        if not changes.held:
            weights = None  # nothing tells what becomes of them
        if gradients:
            self._losses.settle()
            self._waiting.begins(tape, gradients)
        levels.inside = True
        try:
            result = call()
        except BaseException as error:
            if weights is not None:
                changes.forget_of(weights)
            op = self._arriving.put_one(tape, place.calls[0], place.scope, place.lasti)
            op.pass_.error = tape.notes.errors[op] = error
            raise
        finally:
            levels.inside = False
        noted = NotedCalls(place.calls, place.scope, place.lasti, weights is not None)
        if loss is not None and gradients:
            noted.gives_loss = gives(result)
            self._losses.made(noted, loss(result))
        if weights is not None:
            changes.hold_again(weights, noted)
        self._waiting.add(tape, noted, gradients)
        return result

    def _put(self, tape: Tape, noted: deque[NotedCalls]) -> None:
        """Put calls on the tape that are noted."""
        try:
            self._arriving.put(tape, noted)
        finally:
            self._losses.arrived()
            self._changes.arrived()
