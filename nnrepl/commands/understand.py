"""Understanding: causes, rules and numbers, checks."""

from __future__ import annotations

from rich.console import RenderableType

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, command
from nnrepl.explain.why import why as find_cause
from nnrepl.view.why import why_view

UNDERSTAND = "understanding"

QUESTION = Grammar("[QUESTION]", lambda text: True, "names")


@command("why", takes=QUESTION, group=UNDERSTAND)
def why(it: Interpreter, text: str) -> RenderableType | None:
    """Find the cause of something, with evidence.

    `why grad(weights1) == 0` walks from the loss to the gradient and names the first op where it became 0;
    `why nan` and `why z is nan` name the first op that made a non-finite number out of finite ones;
    `why grad(w) is tiny` and `is huge` the ops that shrink or grow it most; `why grad(w) is none` where the path ends;
    `why error` what disagrees in a call that failed; `why loss` what changed the loss since the pass before.
    `why` alone finds the first thing that is wrong. What lies ahead in a recorded pass may be asked about.
    """
    with it.session._aside():
        return why_view(find_cause(it.session, text))
