"""Time: edits, and the timelines that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import ANYTHING, NOTHING, Grammar, Opens, command
from nnrepl.session.closed import closed_between, closed_said, open_steps
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.session.lookup import Lookup
from nnrepl.session.other_tape import same_place
from nnrepl.session.parsed import parse
from nnrepl.session.typed import CELL, kind_of
from nnrepl.tape.collector import paused

if TYPE_CHECKING:
    from nnrepl.timeline.timelines import Timeline

TIME = "changing"
CHANGE = Grammar("NAME = EXPR", lambda text: parse(text).assignment is not None, "names")
NUMBER = Grammar("N", lambda text: text.isdigit() and len(text) < 10)


@command("set", takes=CHANGE, opens=Opens.PYTHON, group=TIME)
def set_(it: Interpreter, text: str) -> RenderableType | None:
    """Change a value at the cursor: `set z1 = z1 * 2`, `set weights1[0, 1] = 0.5`; the assignment alone does the same.

    Also `grad(a1) = grad(a1) * 2`, a batch, a random mask, an optimizer's moment. What depends on the value
    is computed anew when it is looked at, nothing else; gradients flow through the change by calculus. A
    parameter changes where it enters its pass. Each change starts a timeline; `undo` leaves it. Where the program
    has ended, it is its next line.
    """
    line = parse(text)
    change = line.assignment
    assert change is not None
    if kind_of(it.session, line) == CELL:
        return it.cell(line)
    shown = it.edit(change, text)
    if shown is None:
        raise UserError(
            f"nothing on the tape is called {change.target.text}{it.session.lookup.suggest(change.target.text)}"
        )
    return shown


@command("undo", takes=NOTHING, group=TIME)
def undo(it: Interpreter, text: str) -> RenderableType | None:
    """Go back to the timeline before the last change; nothing is computed again.

    Where something was typed since then, that is taken back, with all that it did: the program runs again without it,
    and without what only looked after it.
    """
    return _on(it, it.session.changes.undo())


@command("redo", takes=NOTHING, group=TIME)
def redo(it: Interpreter, text: str) -> RenderableType | None:
    """Take the last `undo` back; where that took back what was typed, it runs again at the end of the program."""
    from nnrepl.timeline.timelines import Timeline
    from nnrepl.view.timeline_tree import again_text

    found = it.session.changes.redo()
    return _on(it, found) if isinstance(found, Timeline) else again_text(found)


@command("timeline", takes=NUMBER, group=TIME)
def timeline(it: Interpreter, text: str) -> RenderableType | None:
    """Look at another timeline: `timeline 2`. The program follows when it has to run on."""
    return _on(it, it.session.changes.switch(int(text)))


@command("timelines", takes=NOTHING, group=TIME)
def timelines(it: Interpreter, text: str) -> RenderableType | None:
    """Show the tree of timelines: what was changed, where, and the loss."""
    from nnrepl.seen.timeline_rows import branches
    from nnrepl.view.timeline_tree import TimelinesView

    return TimelinesView(branches(it.session))


@command("diff", takes=ANYTHING, group=TIME)
def diff(it: Interpreter, text: str) -> RenderableType | None:
    """Compare timelines: `diff` this one with that before its last change, `diff 1` with timeline 1, `diff 1 3` two.

    Shows the first op whose value differs, then each op's largest absolute and relative change. What is
    compared is evaluated, in batches. `diff z1` (or `diff 1 3 z1`) compares one tensor.
    """
    words = text.split()
    numbers = [int(word) for word in words if word.isdigit() and len(word) < 10]
    name = " ".join(word for word in words if not word.isdigit())
    if len(numbers) > 2:
        raise UserError("diff compares two timelines: diff 1 3")
    if name:
        it.session.named(name)  # an unknown name is the first thing to say
    before, after = _two(it, numbers)
    return _diff_one(it, name, before, after) if name else _diff_all(it, before, after)


def _two(it: Interpreter, numbers: list[int]) -> tuple[Timeline, Timeline]:
    changes = it.session.changes
    current = changes.timelines.current
    if not numbers:
        if current.parent is None:
            raise UserError("this is timeline 1, without edits; diff 1 2 compares two timelines")
        return current.parent, current
    chosen = [changes.numbered(number) for number in numbers]
    return (chosen[0], current) if len(chosen) == 1 else (chosen[0], chosen[1])


@paused()
def _diff_all(it: Interpreter, before: Timeline, after: Timeline) -> RenderableType:
    from nnrepl.timeline.compare import by_loss_in, candidates, changes, pairs_of, unseen_in
    from nnrepl.view.diff import diff_view

    part, here = _parting(before, after), it.session.tape
    if here in (before.tape, after.tape) and part in closed_between(here, 0, len(here)):
        open_steps(it.session, [part])  # what an edit has changed is not to be seen otherwise
    paired = pairs_of(before.tape, after.tape)
    found = candidates(paired.ops)
    it.session.evaluate([value for _, _, old, new in found for value in (old, new)])
    unseen = unseen_in(before.tape, after.tape)
    with aside():
        changed = changes(found)
        shown = diff_view(before, after, changed, len(paired.ops) - len(changed), paired.alone, unseen)
    by_loss = [number for number in by_loss_in(before.tape, after.tape) if number not in unseen]
    said = closed_said(by_loss), closed_said(unseen)
    numbers = {number for line in (before, after) for number in closed_between(line.tape, 0, len(line.tape))}
    rest = closed_said(sorted(numbers.difference(by_loss, unseen)))
    hints = [f"{said[0]}: of them losses alone were compared" if said[0] else ""]
    first = next((number for number in unseen if number > part), unseen[0] if unseen else 0)
    hints += [f"{said[1]}: not compared; goto step {first}, then diff, opens it" if said[1] else ""]
    hints += [f"{rest}: not compared" if rest else ""]
    return Group(shown, *(Text(hint, style="hint") for hint in hints if hint))


def _parting(before: Timeline, after: Timeline) -> int:
    """Return the step in which two timelines begin to differ, as far as edits tell; -1 where none does."""
    own = [line for one, other in ((before, after), (after, before)) for line in one.line if line not in other.line]
    parts = [line.tape.steps.number_at(line.edit.position) for line in own if line.edit is not None]
    return min(parts, default=-1)


def _diff_one(it: Interpreter, name: str, before: Timeline, after: Timeline) -> RenderableType:
    from nnrepl.view.diff import diff_of_one

    found = []
    for line in (before, after):
        cursor = same_place(it.session.tape, it.session.cursor, line.tape)
        try:
            found.append(Lookup(line.tape, line.names).by_words(name, cursor))
        except UserError as error:
            raise UserError(f"in timeline {line.number}: {error}") from None
    it.session.evaluate(found)
    with aside():
        return diff_of_one(name, found[0], found[1], before, after)


def _on(it: Interpreter, reached: Timeline) -> RenderableType:
    return it.moved_in_time(Text(f"timeline {reached.number}", style="hint"))
