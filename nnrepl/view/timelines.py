"""Timelines: the tree of a session's edits."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from nnrepl.session.changes import Changes
from nnrepl.session.session import Session
from nnrepl.tape import Tape
from nnrepl.timeline.timelines import Timeline
from nnrepl.view.tensor import number


def edit_text(timeline: Timeline, before: Tape) -> Text:
    """`timeline 2: weights1 edited before #1; 17 of the 18 ops behind it depend on it (lazy)`."""
    edit = timeline.edit
    assert edit is not None
    behind = timeline.tape.ops[edit.position + len(edit.ops) :]
    if len(timeline.tape) <= edit.position + len(edit.ops):
        return Text(f"timeline {timeline.number}: {edit.name} edited at the end of the tape", style="hint")
    first = behind[0]
    depend = timeline.dependents()
    said = (
        f"{len(depend)} of the {len(behind)} ops behind it depend on it (lazy)" if depend else "nothing depends on it"
    )
    return Text(f"timeline {timeline.number}: {edit.name} edited before #{first.index}; {said}", style="hint")


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
    edit = timeline.edit
    if edit is None:
        line.append("  the program as it is", style="dim")
    else:
        at = edit.position + len(edit.ops)
        where = f"before #{timeline.tape.ops[at].index}" if at < len(timeline.tape) else "at the end"
        line.append(f"  {edit.text}", style="source")
        line.append(f"  {where}", style="dim")
    loss = timeline.loss
    if loss is not None:
        line.append(f"  loss {number(loss.array.item())}" if loss.evaluated else "  loss not computed yet", style="dim")
    return line
