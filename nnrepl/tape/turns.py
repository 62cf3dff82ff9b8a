"""Turns: a program of which no forward pass has begun runs natively in stretches of its setup, each from one evaluation
to another, and each is closed and opened by itself, as steps are.

A turn has a number of its own, below those of all steps, which grows from turn to turn and is the same in each run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnrepl.tape.steps import Step

if TYPE_CHECKING:
    from nnrepl.tape.tape import Tape

_FIRST = -(1 << 40)
"""The number of a turn is this and how many evaluations the program had forced where it began."""
_FINE = 256


def number_of(evaluations: int) -> int:
    """Return the number of the turn that begins with an evaluation, which is the how manyth of the run."""
    return _FIRST + evaluations


def is_turn(number: int) -> bool:
    """Whether a number is that of a turn, not of a step."""
    return number < 0


def begins_with(number: int) -> int:
    """Return with the how manyth evaluation of the run a turn begins; 0 for a step."""
    return number - _FIRST if number < 0 else 0


def unit_at(tape: Tape, position: int) -> int:
    """Return the number of what is closed and opened as a whole and has a position in it: a turn of the setup, else a
    step."""
    if position < len(tape.ops):
        turn = tape.ops[position].pass_.turn
        if turn:
            return number_of(turn)
    opened = (step.number for step in tape.opened if step.number < 0 and step.start <= position < step.end)
    return next(opened, None) or tape.steps.number_at(position)


def span_of(tape: Tape, number: int) -> tuple[int, int]:
    """Return where a turn lies on a tape; nowhere, at its beginning, if it is not on it."""
    opened = (step for step in tape.opened if step.number == number)
    turn = begins_with(number)
    passes = (pass_ for pass_ in reversed(tape.passes) if pass_.turn == turn)
    found = next(opened, None) or next(passes, None)
    return (0, 0) if found is None else (found.start, found.end)


def unit(tape: Tape, number: int) -> Step:
    """Return the step of a number, 0 for the setup; a turn of that as if it were one."""
    if is_turn(number):
        return Step(tape, number, *span_of(tape, number))
    return tape.steps[number - 1] if number else tape.steps.setup


def is_due(evaluations: int, since: int) -> bool:
    """Whether a turn that began with an evaluation of the run ends with another. Each may be a little longer than those
    before, so that a long run has few."""
    return evaluations - since > evaluations // _FINE
