"""Natively: when the program may run as MLX runs it, with its calls closed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from nnrepl.replay.replay import Replay
from nnrepl.session import goals
from nnrepl.session.errors import UserError
from nnrepl.session.hooks import OPENED
from nnrepl.session.state import Going
from nnrepl.tape import UPDATE_PASS, ClosedOp, Tape

if TYPE_CHECKING:
    from nnrepl.session.session import Session


def wanted(session: Session, step: int) -> bool:
    """Whether a gradient call that is about to be made in a step is to run natively: nothing that is asked for needs
    its ops, no call of the step is recorded, and the steps before were updated by an optimizer. In a run along a tape,
    what is closed there, and is not to be opened, runs natively."""
    recorder = session.recorder
    if recorder is not None and isinstance(recorder.intake, Replay):
        return recorder.intake.natively(recorder)
    tape = session.tape
    fresh = step > len(tape.steps) or not tape.steps.differentiated()
    return fresh and step < _needed_from(session) and _by_optimizer(session)


def goes_on(session: Session, op: ClosedOp) -> bool:
    """Whether the program goes on natively behind a call that has run so."""
    recorder = session.recorder
    if os.getpid() != session.process or recorder is None:
        return True
    if isinstance(recorder.intake, Replay):
        session.closed_again()
    if isinstance(recorder.intake, Replay):
        return recorder.intake.natively(recorder)
    last = op.part.kind == UPDATE_PASS
    return len(session.tape.steps) + last < _needed_from(session)


def _needed_from(session: Session) -> int:
    """The first step of which ops are needed."""
    now = session.course.now
    if not isinstance(now, Going) or now.interrupted or session.settings["native"] != "on" or session.stops.enabled:
        return 0
    return goals.needed_from(now.goal)


def _by_optimizer(session: Session) -> bool:
    """Whether what updates the weights is an optimizer. What a program does by hand is noticed only op by op."""
    steps = session.tape.steps
    if len(steps) < 2:
        return True
    return all(
        any(op.operation.kind == "closed" or (op.scope is not None and op.scope.updating) for op in part.ops)
        for part in steps[-2].updates
    )


class Frontier:
    """The last op that a run along a tape is expected to make, wherever that comes to lie.

    Args:
        reached: Tells its position; None while steps are being opened.
    """

    reason = sought = ""

    def __init__(self, reached: Callable[[], int | None]) -> None:
        self._reached = reached

    def find(self, tape: Tape) -> int | None:
        position = self._reached()
        return position if position is not None and position < len(tape) else None


def open_at(session: Session, position: int) -> None:
    """Open the step in which a position lies: the program runs again, and what it does there is recorded. The command
    that needed it is then run once more.

    Raises:
        UserError: If that cannot be done.
        RunAgain: Unwinds the program.
    """
    tape = session.tape
    step = tape.steps.at(position)
    if not session.changes.can_run_again:
        raise UserError(f"{step.title} ran natively and is closed; there is no program here that could run again")
    behind = {id(value) for op in tape.ops[step.start :] for value in op.outputs}
    for other in session.changes.timelines:
        if other.tape is not tape and any(id(value) in behind for op in other.tape.ops for value in op.outputs):
            raise UserError(f"{step.title} is closed, and timeline {other.number} shares with this what comes after it")
    session.hooks.opening(step.title)
    session.changes.open(frozenset([step.number]))


def opened(session: Session) -> bool:
    """A run that opened a step has come to where the run before was: the user stands where they stood. Returns False if
    this was no such run."""
    opening, session.opening = session.opening, None
    if opening is None:
        return False
    timeline = session.changes.timelines.current
    timeline.seen = opening.moved(timeline.seen)
    end = len(session.tape)
    session.hooks.opened(opening.moved, timeline.seen + (timeline.seen >= end))
    session.arrive(opening.moved(session.stood), OPENED)
    return True
