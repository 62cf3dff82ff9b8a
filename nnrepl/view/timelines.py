"""Timelines: the tree of a session's edits."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from nnrepl.session.changes import Changes
from nnrepl.session.session import Session
from nnrepl.timeline.cells import Cell
from nnrepl.timeline.evaluation import Work
from nnrepl.timeline.timelines import Timeline
from nnrepl.view.tensor import number


def edit_text(timeline: Timeline, goes_on: bool) -> Text:
    """`timeline 2: weights1 edited before #1; 17 of the 18 ops behind it depend on it (lazy)`.

    Args:
        goes_on: Whether the program has still something to do.
    """
    edit = timeline.edit
    assert edit is not None
    behind = timeline.tape.ops[edit.position + len(edit.ops) :]
    where = f"before {behind[0].label}" if behind else "at the end of the tape"
    said = f"timeline {timeline.number}: {edit.name} edited {where}"
    if behind:
        count = len(timeline.dependents())
        what = f"{count} of the {len(behind)} ops behind it depend on it (lazy)"
        if not count:
            coming = "nothing recorded so far depends on it; what is still to come takes it as it is now"
            what = coming if goes_on else "nothing depends on it"
        said += f"; {what}"
    text = Text(said, style="hint")
    step = behind[0].step.number if behind else timeline.tape.steps.number_at(edit.position)
    taken = [op for op in edit.target.consumers if op.position < edit.position and op.step.number == step]
    if taken:
        text.append(
            f"\n{taken[-1].label} {taken[-1].name} took it before; to change that as well, undo and go back to it"
        )
    for lost in timeline.lost():
        text.append(f"\n{lost.text} lay further on and is not made again here", style="warning")
    return text


def news_text(timeline: Timeline, goes_on: bool) -> Text:
    """What the change did with which a timeline began."""
    if timeline.code is None:
        return edit_text(timeline, goes_on)
    text = Text(f"timeline {timeline.number}: {timeline.code.text}", style="hint")
    for line in timeline.code.said:
        text.append(f"\n{line}", style="warning" if line.startswith("not ") else "hint")
    for lost in timeline.lost():
        text.append(f"\n{lost.text} lay further on and is not made again here", style="warning")
    return text


def below_text(timeline: Timeline) -> Text | None:
    """The typed cells that come after an edit: they run again, on what it changes."""
    below = timeline.below
    if not below:
        return None
    first, last = below[0].number, below[-1].number
    which = f"prompt {first}" if first == last else f"prompt {first} to {last}"
    return Text(f"continue runs what was typed below it again: {which}", style="hint")


def taken_text(cells: tuple[Cell, ...]) -> Text:
    """Cells that were taken back: the first of them did something."""
    is_one = len(cells) == 1
    return Text(f"{_numbers(cells)} {'is' if is_one else 'are'} taken back: {_first_line(cells[0])}", style="hint")


def again_text(cells: tuple[Cell, ...]) -> Text:
    """Cells that had been taken back and run again."""
    return Text(f"{_numbers(cells)} again: {_first_line(cells[0])}", style="hint")


def _numbers(cells: tuple[Cell, ...]) -> str:
    return f"prompt {', '.join(str(cell.number) for cell in cells)}"


def _first_line(cell: Cell) -> str:
    first, *others = cell.text.splitlines()
    return f"{first}{' ...' if others else ''}"


def timelines_view(session: Session) -> RenderableType:
    """The tree: what was edited, where, and the loss (computed if that is as little as `peek` allows)."""
    changes = session.changes
    timelines = changes.timelines
    losses = [timeline.loss for timeline in timelines]
    session.evaluate([loss for loss in losses if loss is not None and session.small([loss])])
    root = timelines[1]
    tree = Tree(_line(changes, root), guide_style="dim")
    _grow(changes, tree, root)
    return tree


def _grow(changes: Changes, tree: Tree, timeline: Timeline) -> None:
    for child in changes.timelines.children(timeline):
        _grow(changes, tree.add(_line(changes, child)), child)


def _line(changes: Changes, timeline: Timeline) -> Text:
    here = timeline is changes.timelines.current
    line = Text(("▶ " if here else "") + f"timeline {timeline.number}", style="bold" if here else "")
    began = timeline.began
    if began is None:
        line.append("  the program as it is", style="dim")
    else:
        at = began.position + len(getattr(began, "ops", ()))
        where = f"before {timeline.tape.ops[at].label}" if at < len(timeline.tape) else "at the end"
        line.append(f"  {began.text}", style="source")
        line.append(f"  {where}", style="dim")
    line.append(f"  to {timeline.extent}", style="dim")
    loss = timeline.loss
    if loss is not None:
        known = number(loss.array.item()) if loss.evaluated else "not computed yet"
        part = timeline.tape.pass_at(loss.op.position) if loss.op is not None else None
        line.append(f"  loss {known}" + (f" ({part.address})" if part is not None else ""), style="dim")
    return line


def recomputed_text(work: Work) -> Text:
    """That values had been dropped from the history, and what it took to have them back."""
    return Text(f"dropped before, computed again: {work.again} ops in {1000 * work.seconds:.0f} ms", style="hint")
