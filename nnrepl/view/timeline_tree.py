"""Timelines: the tree of a session's edits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.seen.timeline_rows import MOST, Branch, spread
from nnrepl.tape import SKIPPED
from nnrepl.timeline.edits import Edit
from nnrepl.timeline.evaluation import Work
from nnrepl.timeline.timelines import Timeline
from nnrepl.timeline.typed_cells import Cell
from nnrepl.view.source_lines import own_source, place_text
from nnrepl.view.tensor import number


def edit_text(timeline: Timeline, goes_on: bool) -> Text:
    """`timeline 2: weights1 edited before #1; 17 of the 18 ops after it depend on it (lazy)`.

    Args:
        goes_on: Whether the program has still something to do.
    """
    edit = timeline.edit
    assert edit is not None
    behind = timeline.tape.ops[edit.position + len(edit.ops) :]
    where = f"before {behind[0].label}" if behind else "at the end of the tape"
    step = behind[0].step.number if behind else timeline.tape.steps.number_at(edit.position)
    said = f"timeline {timeline.number}: {edit.name} edited {where}"
    if behind:
        count = len(timeline.dependents())
        what = f"{count} of the {len(behind)} ops after it depend on it (lazy)"
        if not count:
            coming = "nothing recorded so far depends on it; what is still to come takes it as it is now"
            what = coming if goes_on else "nothing depends on it"
            before = _taken_before(edit, step) if goes_on else ""
            what += f": {before}" if before else ""
        said += f"; {what}"
    text = Text(said, style="hint")
    taken = [op for op in edit.target.consumers if op.position < edit.position and op.step.number == step]
    if taken:
        text.append(
            f"\n{taken[-1].label} {taken[-1].name} took it before; to change that as well, undo and go back to it"
        )
    for lost in timeline.lost():
        text.append(f"\n{lost.text} lay further on and is not made again here", style="warning")
    return text


def _taken_before(edit: Edit, step: int) -> str:
    """Return what took a value in the last step before this one that did: `in step 12 that was the update,
    train.py:46`; "" if nothing did. What only goes back through one of them is not told beside it."""
    taken = [op for op in edit.target.consumers if op.position < edit.position]
    if not taken or not 0 < taken[-1].step.number < step:
        return ""
    last = taken[-1].step
    taken = [op for op in taken if op.step.number == last.number and op.of not in taken]
    where = list(dict.fromkeys(f"the {op.phase}, {place_text(own_source(op, SKIPPED)[0])}" for op in taken))
    more = f", and {len(where) - 2} more places" if len(where) > 2 else ""
    return f"in {last.title} that was {' and '.join(where[:2])}{more}"


def news_text(timeline: Timeline, goes_on: bool) -> Text:
    """Return what the change did with which a timeline began."""
    if timeline.code is None:
        return edit_text(timeline, goes_on)
    coming = "; from here on the program runs with it" if timeline.code.once else ""
    text = Text(f"timeline {timeline.number}: {timeline.code.text}{coming}", style="hint")
    for line in timeline.code.said:
        text.append(f"\n{line}", style="warning" if line.startswith("not ") else "hint")
    for lost in timeline.lost():
        text.append(f"\n{lost.text} lay further on and is not made again here", style="warning")
    return text


def below_text(timeline: Timeline) -> Text | None:
    """Return the typed cells that come after an edit: they run again, on what it changes."""
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


class TimelinesView:
    """The tree: what was changed, how far each timeline goes, and its loss over the steps."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        self._rows = [(_name(one), f"to {one.timeline.extent}", _loss(one), one.losses) for one in branches]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        reach = max(cell_len(row[1]) for row in self._rows)
        loss = max(cell_len(row[2]) for row in self._rows)
        names = max(row[0].cell_len for row in self._rows)
        stacks = names + reach + loss + 4 > width
        briefly = stacks and reach + loss + 8 > width
        for name, to, last, losses in self._rows:
            to = to.partition(" · ")[0] if briefly else to
            if stacks:
                yield Text(no_wrap=True, overflow="ellipsis").append_text(name)
                head = Text("      ")
            else:
                head = name.copy().append(" " * (names + 2 - name.cell_len))
            head.append(f"{to if briefly else to.ljust(reach)}  {last.ljust(loss)}  ", style="dim")
            room = min(width - head.cell_len, MOST)
            head.append(sparkline(spread(losses, room)) if len(losses) > 1 and room > 3 else "", style="source.current")
            head.rstrip()
            yield head


def _name(branch: Branch) -> Text:
    """`▶ └ 2  weights1[0, 0] = 2.0  before #1`."""
    timeline, here = branch.timeline, branch.is_current
    line = Text("▶ " if here else "  ", style="source.current").append(branch.guide, style="dim")
    line.append(str(timeline.number), style="bold" if here else "")
    began = timeline.began
    if began is None:
        return line.append("  as it is", style="dim")
    at = began.position + len(getattr(began, "ops", ()))
    where = f"before {timeline.tape.ops[at].label}" if at < len(timeline.tape) else "at the end"
    return line.append(f"  {began.text}").append(f"  {where}", style="dim")


def _loss(branch: Branch) -> str:
    """Return a timeline's last loss."""
    if branch.losses:
        return f"loss {number(branch.losses[-1])}{f' in step {branch.as_of}' if branch.as_of else ''}"
    return "loss not computed yet" if branch.has_loss else ""


_LEVELS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """Values as bars between the lowest and the highest, by their logarithms where they span more than two powers of
    ten; `×` where one is no finite number."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    wide = low > 0 and high > 100 * low

    def height(value: float) -> float:
        if high == low:
            return 0.5
        return math.log(value / low) / math.log(high / low) if wide else (value - low) / (high - low)

    top = len(_LEVELS) - 1
    return "".join(_LEVELS[round(top * height(value))] if math.isfinite(value) else "×" for value in values)


def recomputed_text(work: Work) -> Text:
    """Return that values had been dropped from the history, and what it took to have them back."""
    return Text(f"dropped before, computed again: {work.again} ops in {1000 * work.seconds:.0f} ms", style="hint")
