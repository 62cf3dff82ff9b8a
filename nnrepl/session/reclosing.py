"""Reclosing: steps that have been opened are closed again, those that nobody has looked at for longest first, where the
program runs again to open others. They can be opened again, and are then the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from nnrepl.session.reading import Reading
from nnrepl.tape import OpenedStep, Tape
from nnrepl.timeline.history import OPS, History

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder
    from nnrepl.session.standing import Standing
    from nnrepl.timeline.timelines import Timeline

_MOST = 8
"""So many opened steps are kept at most: the program has to compute its way to each of them when it runs again."""
OP_BYTES = 2_100
"""What an op takes without its numbers, in bytes."""
_GOOD = 4
"""Such a part of what there is room for is a good part of it."""


def history_of(session: Standing, recorder: Recorder) -> History:
    """Return what keeps the values of the tape that is recorded within the budget."""
    budget = int(session.settings["history"])
    if session.history is None or session.history.tape is not recorder.tape:
        session.history = History(recorder.tape, budget, recorder.drop, recorder.shared)
    session.history.budget = budget
    return session.history


def bound(session: Standing, recorder: Recorder, gradient: bool) -> bool:
    """Close the oldest of the steps that have been recorded, if there are more ops than there is room for and a new one
    begins; returns whether it is a good part of that.

    Args:
        gradient: Whether a gradient call comes.
    """
    history = history_of(session, recorder)
    room = history.budget // OPS // OP_BYTES
    if gradient and len(recorder.tape) >= (history.due or room):
        from nnrepl.session import bounded  # needed in a long run

        bounded.bound(session, recorder, history, room)
    return len(recorder.tape) >= room // _GOOD


def look_at(tape: Tape, position: int) -> None:
    """Note that the user looks at a place on a tape: the step there, if it has been opened, is the last to be closed
    again."""
    for step in tape.opened:
        if step.start <= position < step.end and step is not tape.opened[-1]:
            tape.opened.remove(step)
            tape.opened.append(step)
            return


def to_close(session: Reading, timeline: Timeline, asked: Collection[int]) -> tuple[OpenedStep, ...]:
    """Return the steps that are to be closed again when others are opened, within half of the history's budget. Never
    one in which the user stands or has changed something, or with which the tape ends.

    Args:
        asked: The steps that are to be opened.
    """
    tape = timeline.tape
    budget, kept = int(session.settings["history"]) // 2, 0
    closing: list[OpenedStep] = []
    for count, step in enumerate(reversed(tape.opened), len(asked)):
        kept += _size(tape, step)
        if (count >= _MOST or kept > budget) and _may_close(session, timeline, step):
            closing.append(step)
    while held := [step for step in closing if _leads_on(tape, step, closing)]:
        closing = [step for step in closing if step not in held]
    return tuple(closing)


def _size(tape: Tape, step: OpenedStep) -> int:
    held = sum([value.size * value.dtype.size for op in tape.ops[step.start : step.end] for value in op.outputs
                if value.evaluated])  # fmt: skip
    return held + OP_BYTES * (step.end - step.start)


def _may_close(session: Reading, timeline: Timeline, step: OpenedStep) -> bool:
    tape = timeline.tape
    if step.start <= session.cursor <= step.end or step.end >= len(tape) or step.number in tape.retraced:
        return False
    if any(step.start <= code.position <= step.end for code in timeline.codes):
        return False
    notes = tape.notes
    return not any(
        op in notes.edits or op in notes.inserted or op in notes.typed for op in tape.ops[step.start : step.end]
    )


def _leads_on(tape: Tape, step: OpenedStep, closing: list[OpenedStep]) -> bool:
    """Whether the step after one stays open: what lies between them is known as part of one of the two."""
    return any(other.start == step.end and other not in closing for other in tape.opened)
