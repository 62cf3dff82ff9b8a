"""Leapt: how large a loss became before it was no number, and which line made it so."""

from __future__ import annotations

from nnrepl.explain import words
from nnrepl.explain.forward import made_large
from nnrepl.explain.look import Look
from nnrepl.session.leaps import leap, size_of_loss
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Pass, Step
from nnrepl.tape.claims import Claim, Said, say


def leapt(look: Look, session: Reading) -> list[Said]:
    """Return in which step the loss leapt while it was finite, and what made it as large; nothing where it did not."""
    found = leap(session.tape)
    before, step = found or (None, None)
    size, old = None if step is None else size_of_loss(step), None if before is None else size_of_loss(before)
    pass_ = None if step is None else _pass_with_loss(step)
    grown = made_large(look, pass_.loss) if pass_ is not None and pass_.loss is not None else None

    def holds() -> bool:
        again = leap(session.tape)  # steps are made anew each time
        same = again is not None and step is not None and again[1].title == step.title
        return same and size is not None and (before is None or old is not None)

    larger = f", and only {words.number(old)} in {before.title}" if before is not None and old is not None else ""
    title = "" if step is None else step.title
    said = say(
        Claim(
            "why: leapt",
            holds,
            lambda: f"Before that the loss was finite, but {words.number(size or 0.0)} in size in {title}{larger}.",
        )
    )
    return [*said, *([grown.text] if said and grown is not None else [])]


def _pass_with_loss(step: Step) -> Pass | None:
    """Return the recorded gradient pass that gave the loss of a step."""
    return next((
        pass_ for pass_ in step.passes
        if pass_.kind == GRADIENT_PASS and len(pass_) and pass_.loss is step.loss
        and not isinstance(pass_.tape.ops[pass_.start], ClosedOp)), None)  # fmt: skip
