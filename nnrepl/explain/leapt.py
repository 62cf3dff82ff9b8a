"""Leapt: how large a loss became before it was no number, and which line made it so."""

from __future__ import annotations

from nnrepl.explain import words
from nnrepl.explain.forward import made_large
from nnrepl.explain.look import Look
from nnrepl.session.leaps import FAR, leap, size_of_loss
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Pass, Step, Tape
from nnrepl.tape.claims import Claim, Said, say


def leapt(look: Look, session: Reading) -> list[Said]:
    """Return in which step the loss leapt while it was finite, and what made it as large; nothing where it did not."""
    found = leap(session.tape) or _last_two(session.tape)
    if found is None:
        return []
    before, step = found
    size, old = size_of_loss(step), None if before is None else size_of_loss(before)
    pass_ = _pass_with_loss(step)

    def holds() -> bool:
        if size is None or not size < float("inf") or (before is None) != (old is None):
            return False
        return size > (FAR * FAR if old is None else FAR * max(old, 1e-3))

    larger = f", and only {words.number(old)} in {before.title}" if before is not None and old is not None else ""
    said = say(
        Claim(
            "why: leapt",
            holds,
            lambda: (
                f"Before that the loss was finite, but {words.number(size or 0.0)} in size in {step.title}{larger}."
            ),
        )
    )
    grown = made_large(look, pass_.loss) if said and pass_ is not None and pass_.loss is not None else None
    return [*said, *([grown.text] if grown is not None else [])]


def _last_two(tape: Tape) -> tuple[Step | None, Step] | None:
    """Return the last two steps with a finite loss, as far as losses have been evaluated: what would be said of them is
    checked like a leap."""
    finite = [step for step in tape.steps if (size := size_of_loss(step)) is not None and size < float("inf")]
    return (finite[-2], finite[-1]) if len(finite) > 1 else None


def _pass_with_loss(step: Step) -> Pass | None:
    """Return the recorded gradient pass that gave the loss of a step."""
    return next((
        pass_ for pass_ in step.passes
        if pass_.kind == GRADIENT_PASS and len(pass_) and pass_.loss is step.loss
        and not isinstance(pass_.tape.ops[pass_.start], ClosedOp)), None)  # fmt: skip
