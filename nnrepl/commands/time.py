"""Time: edits, and the timelines that they make."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import NOTHING, Grammar, command
from nnrepl.session.assignments import assignment
from nnrepl.session.errors import UserError
from nnrepl.timeline.timelines import Timeline
from nnrepl.view.timelines import timelines_view

TIME = "changing"
CHANGE = Grammar("NAME = EXPR", lambda text: assignment(text) is not None, "names")
NUMBER = Grammar("N", lambda text: text.isdigit() and len(text) < 10)


@command("set", takes=CHANGE, group=TIME)
def set_(it: Interpreter, text: str) -> RenderableType | None:
    """Change a value at the cursor: `set z1 = z1 * 2`, `set weights1[0, 1] = 0.5`; the assignment alone does the same.

    Also `grad(a1) = grad(a1) * 2`, a batch, a random mask, an optimizer's moment. What depends on the value
    is computed anew when it is looked at, nothing else; gradients flow through the change by calculus. A
    parameter or an input changes where it enters its pass. Each change starts a timeline; `undo` leaves it.
    """
    change = assignment(text)
    assert change is not None
    shown = it.edit(change, text)
    if shown is None:
        raise UserError(f"nothing on the tape is called {change.target}{it.session.lookup.suggest(change.target)}")
    return shown


@command("undo", takes=NOTHING, group=TIME)
def undo(it: Interpreter, text: str) -> RenderableType | None:
    """Go back to the timeline before the last change. Nothing is computed again."""
    return _on(it, it.session.changes.undo())


@command("redo", takes=NOTHING, group=TIME)
def redo(it: Interpreter, text: str) -> RenderableType | None:
    """Take the last `undo` back."""
    return _on(it, it.session.changes.redo())


@command("timeline", takes=NUMBER, group=TIME)
def timeline(it: Interpreter, text: str) -> RenderableType | None:
    """Look at another timeline: `timeline 2`. The program follows when it has to run on."""
    return _on(it, it.session.changes.switch(int(text)))


@command("timelines", takes=NOTHING, group=TIME)
def timelines(it: Interpreter, text: str) -> RenderableType | None:
    """Show the tree of timelines: what was changed, where, and the loss."""
    return timelines_view(it.session)


def _on(it: Interpreter, reached: Timeline) -> RenderableType:
    return it.moved_in_time(Text(f"timeline {reached.number}", style="hint"))
