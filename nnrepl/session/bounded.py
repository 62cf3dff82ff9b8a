"""Bounded: what a recorded run keeps stays within the history's budget, its bookkeeping too.

Of the budget a quarter is for ops. Where more of them have been recorded, the oldest steps are closed: they are opened
again as those that ran natively, by running the program again.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from nnrepl.record.intake import RECORDING
from nnrepl.record.native import levels_of
from nnrepl.record.process import this_process
from nnrepl.record.recorder import Recorder
from nnrepl.replay.interrupts import held
from nnrepl.session import excerpts, goals
from nnrepl.session.standing import Standing
from nnrepl.session.state import Going
from nnrepl.session.wires import trips_of
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Tape
from nnrepl.tape.native_run import MadeCall
from nnrepl.timeline.history import History

if TYPE_CHECKING:
    from nnrepl.record.dropped import Dropping

_RECENT = 4
"""So many of the newest steps are never closed: the user may be about to look at them."""

_LONG = goals.Never, goals.Ending, goals.InStep, goals.NextPass


def bound(session: Standing, recorder: Recorder, history: History, room: int) -> None:
    """Close the oldest steps, so that no more ops are left than half of what there is room for. Where the numbers of
    the weights have been let go of with which later ones begin, all are closed: a gradient call comes now."""
    if not _may(session, recorder):
        return
    found = _oldest(recorder, room // 2) or _all(recorder)
    if found is not None:
        with held():
            _close(session, history, found)
        _give_back()
    history.due = len(recorder.tape) + max(room // (4 if found is None else 2), 1)


def _may(session: Standing, recorder: Recorder) -> bool:
    """Whether steps may be closed now: the program goes on and can run again, and nobody has changed anything."""
    now, tape = session.course.now, recorder.tape
    notes, timelines = tape.notes, session.edits.timelines
    if not isinstance(now, Going) or recorder.intake is not RECORDING or recorder.tracing or recorder.repeating:
        return False
    if not (isinstance(now.goal, _LONG) or type(now.goal) is goals.Until) or session.opening is not None:
        return False  # who goes by ops has not far to go
    if this_process() != session.process or not session.edits.can_run_again:
        return False
    if len(timelines) > 1 or timelines.current.cells or timelines.current.codes or session.tape is not tape:
        return False
    return not (notes.edits or notes.inserted or notes.typed)


def _oldest(recorder: Recorder, room: int) -> Dropping | None:
    """Return the oldest steps that follow each other and may be closed, so that no more ops are left than there is room
    for; None if there are none, or what later steps take of them is not there any more."""
    from nnrepl.record.dropped import Dropping, calls_of, may_begin, together  # needed in a long run

    tape, steps = recorder.tape, recorder.tape.steps
    last = len(steps) - _RECENT
    closed = _closed_up_to(tape)
    number = max(tape.steps.number_at(closed), 2)  # the first step shows how the others go about their weights
    calls: list[MadeCall] = []
    ends: list[int] = []
    early: list[int] = []
    while number <= last and (unit := together(tape, number))[1] <= last:
        more = calls_of(tape, *unit) if unit[0] >= 2 else None
        if more is None and calls:
            break
        number = unit[1] + 1
        if more is None:
            continue
        calls += more
        if may_begin(tape, calls[-1].end):
            (ends if len(tape) - calls[-1].end <= room else early).append(len(calls))
    for end in (*ends, *early[:-_TRIED:-1]):
        found = Dropping(recorder, _beginning(tape, closed, calls[0].start), calls[:end])
        if not found.lacks():
            return found
    return None


def _all(recorder: Recorder) -> Dropping | None:
    """Return all steps that are over and may be closed, where the gradient call of a new one comes, with what is done
    before that; None if there are none."""
    from nnrepl.record.dropped import Dropping, calls_of, together  # needed in a long run

    recorder.close_pass()  # the call begins one of its own
    tape, steps = recorder.tape, recorder.tape.steps
    closed, number = _closed_up_to(tape), _coming(recorder) - 1
    calls: list[MadeCall] = []
    while number >= 2 and steps[number - 1].end > closed:
        first, last = together(tape, number)
        more = calls_of(tape, first, last) if first >= 2 and last == number else None
        if more is None:
            break
        calls[:0] = more
        number = first - 1
    if not calls or any([pass_.kind == GRADIENT_PASS for pass_ in tape.passes if pass_.start >= calls[-1].end]):
        return None
    return Dropping(recorder, _beginning(tape, closed, calls[0].start), calls, len(tape))


def _coming(recorder: Recorder) -> int:
    """Return the step in which the gradient call will be that is about to be made."""
    levels = levels_of(recorder)
    if levels is None or levels.calling is None:
        return 0
    frame = recorder.stack.program_frame(levels.calling)
    return recorder.tape.steps.coming(recorder.stack.enter(frame), frame.f_lasti)


_TRIED = 8
"""So many of the steps are tried, at which less would be closed than is too much."""


def _closed_up_to(tape: Tape) -> int:
    return max([pass_.end for pass_ in tape.passes if len(pass_) == 1 and isinstance(tape.ops[pass_.start], ClosedOp)],
               default=0)  # fmt: skip


def _beginning(tape: Tape, closed: int, start: int) -> int:
    """Return from where on the tape is closed: what lies between two closed calls is not seen natively either."""
    number = tape.steps.number_at(closed - 1) if closed else 0
    return closed if closed and tape.steps.number_at(start) == number + 1 else start


def _close(session: Standing, history: History, found: Dropping) -> None:
    tape = found.tape
    levels = levels_of(found.recorder)
    if levels is not None:
        levels.numbering.learn(tape)
    found.run()
    if levels is not None:
        levels.numbering.cut(found.before, found.fewer, found.stands_for)
        levels.changes.cut(found.stands_for)
    moved, timeline, now = found.moved, session.edits.timelines.current, session.course.now
    history.cut(found.start, found.end, moved, found.spare)
    session.names.forget()
    timeline.seen = moved(timeline.seen)
    session.look_at(tape, session.names, moved(session.cursor))
    session.lookout.move(moved)
    trips_of(tape).move(moved)
    excerpts.forget(tape)
    if isinstance(now, Going) and isinstance(now.goal, goals.Until):
        now.goal.move(moved)
    session.hooks.moved(moved)


def _give_back() -> None:
    """Give the system back what is free now. The ops lay between tensors: where those go, the C library keeps the
    holes, which are too small for the next ones (of 21 MB of weights one set or two)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
