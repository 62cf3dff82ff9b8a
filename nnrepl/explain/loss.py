"""Loss: what changed the loss between two passes."""

from __future__ import annotations

from nnrepl.explain.answer import Answer
from nnrepl.session.errors import UserError
from nnrepl.session.session import Session


def why_loss(session: Session) -> Answer:
    """Which parameters account for the change of the loss since the pass before, to first order."""
    raise UserError("why loss needs two passes of the same function")
