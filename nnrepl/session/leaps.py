"""Leaps: the step in which a loss that is still finite became many times as large as it was."""

from __future__ import annotations

from typing import Any

from nnrepl.tape import Step, Tape

_FAR = 1e6


def leap(tape: Tape) -> tuple[Step | None, Step] | None:
    """Return the first step whose loss is finite and more than a million times that of the step before, with that step;
    None before it where the first loss on the tape is beyond a million million. None where there is no such step, as
    far as losses have been evaluated."""
    before: tuple[Step, float] | None = None
    for step in tape.steps:
        size = size_of_loss(step)
        if size is None:
            continue
        if not size < float("inf"):
            return None
        if size > _FAR * (max(before[1], 1e-3) if before is not None else _FAR):
            return (before[0] if before is not None else None), step
        before = step, size
    return None


def size_of_loss(step: Step) -> float | None:
    """Return the absolute value of the loss of a step; None where that is not known without computing anything."""
    loss = step.loss
    if loss is None or loss.size != 1 or not loss.evaluated or loss.refusal:
        return None
    number: Any = loss.array.item()
    return float(abs(number))
