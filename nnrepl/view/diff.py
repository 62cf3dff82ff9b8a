"""Diff: what differs between two timelines."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nnrepl.tape import Op, Value
from nnrepl.timeline.compare import Change, Distance, ends_first
from nnrepl.timeline.timelines import Timeline
from nnrepl.view.narrow import Grid
from nnrepl.view.source_lines import place_text
from nnrepl.view.tensor import number, shape_text, tensor

ROWS = 20


def diff_view(
    before: Timeline, after: Timeline, changes: Sequence[Change], same: int, parted: tuple[Op, Op] | None
) -> RenderableType:
    """Return the first op whose value differs, then the ops with their largest absolute and relative change."""
    title = Text(f"timeline {before.number} → timeline {after.number}", style="heading")
    parts: list[RenderableType] = [title]
    if not changes:
        ops = f"{same} op{'s' if same != 1 else ''}"
        parts.append(Text(f"no value differs: {ops} compared" + (", as far as both go the same way" if parted else "")))
    else:
        first = changes[0]
        line = Text("first difference: ")
        line.append(f"{first.after.label} {first.after.name}", style="op.name")
        line.append(f"  {first.new.name}  {place_text(first.after.source)}", style="dim")
        parts.append(line)
        parts.append(_table(changes))
        rest = f", {len(changes) - ROWS} of them not shown" if len(changes) > ROWS else ""
        many = "op differs" if len(changes) == 1 else "ops differ"
        parts.append(Text(f"{len(changes)} {many}{rest}; {same} have the same values", style="dim"))
    if parted is not None:
        a, b = (f"{op.label} {op.name}" for op in parted)
        parts.append(Text(f"from here on the program goes another way: {a} became {b}", style="warning"))
    else:
        parts += _lengths(before, after)
    return Group(*parts)


def _lengths(before: Timeline, after: Timeline) -> list[RenderableType]:
    """Return that only one of two timelines goes on, and how to let the other one run as far."""
    ended = ends_first(before.tape, after.tape)
    if ended is None:
        return []
    short, long = (before, after) if ended[0] is before.tape else (after, before)
    said = f"compared up to {short.extent}: there timeline {short.number} ends, and timeline {long.number} goes on to "
    text = Text(f"{said}{long.extent}", style="warning")
    if not short.ended:
        text.append(f"; timeline {short.number}, then until step {long.tape.ops[-1].step.number}, runs it on")
    return [text]


def _table(changes: Sequence[Change]) -> Table:
    table = Grid(header_style="dim")
    table.add_column("op", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("largest |Δ|", justify="right", no_wrap=True)
    table.add_column("relative", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for change in changes[:ROWS]:
        style = "gradient" if change.new.gradient_of is not None else "value.name"
        table.add_row(f"{change.after.label} {change.after.name}", Text(change.new.name, style=style), *_cells(change))
    return table


def _cells(change: Change) -> tuple[str, str, str]:
    distance = change.distance
    if distance is None:
        return "", "", f"{shape_text(change.old.shape)} → {shape_text(change.new.shape)}"
    return number(distance.absolute), percent(distance.relative), _where(change.old, change.new, distance)


def percent(share: float) -> str:
    """Return a relative change: as a percentage where that is readable."""
    return f"{100 * share:.3g} %" if share >= 1e-4 else f"{share:.1e}"


def _where(old: Value, new: Value, distance: Distance) -> str:
    index = distance.index
    a, b = (value.array[index] if index else value.array for value in (old, new))
    place = f"at [{', '.join(map(str, index))}] " if index else ""
    return f"{place}{number(a.item())} → {number(b.item())}"


def diff_of_one(name: str, old: Value, new: Value, before: Timeline, after: Timeline) -> RenderableType:
    """One tensor on two timelines, and the difference."""
    parts = [
        tensor(f"{name} in timeline {before.number}", old.array),
        tensor(f"{name} in timeline {after.number}", new.array),
    ]
    if old.shape == new.shape:
        parts.append(tensor("difference", new.array - old.array))
    return Group(*parts)
