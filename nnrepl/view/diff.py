"""Diff: what differs between two timelines."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Said, say
from nnrepl.timeline.compare import Change, Distance, ends_first
from nnrepl.timeline.timelines import Timeline
from nnrepl.view.narrow import Grid
from nnrepl.view.source_lines import place_text
from nnrepl.view.tensor import number, shape_text, tensor

ROWS = 20


def diff_view(
    before: Timeline,
    after: Timeline,
    changes: Sequence[Change],
    same: int,
    alone: tuple[Sequence[Op], Sequence[Op]] = ((), ()),
    unseen: Sequence[int] = (),
) -> RenderableType:
    """Return the first op whose value differs, then the ops with their largest absolute and relative change.

    Args:
        alone: The ops that are on the first timeline only, and on the second only.
        unseen: The steps of which not every loss could be compared, and no more.
    """
    title = Text(f"timeline {before.number} → timeline {after.number}", style="heading")
    parts: list[RenderableType] = [title, *map(Text, _agree(changes, same, any(alone), unseen))]
    parts += [_first(changes[0], said) for said in _differs(changes)]
    parts += [_table(changes)] if changes else []
    parts += [Text(said, style="dim") for said in _counts(changes, same)]
    parts += [Text(said, style="warning") for said in _alone(before, after, alone)]
    if not any(alone):
        parts += _lengths(before, after)
    return Group(*parts)


def _agree(changes: Sequence[Change], same: int, parted: bool, unseen: Sequence[int] = ()) -> list[Said]:
    """Return that no value differs, of how many; that none could be compared is another thing."""
    limit = ", where both go the same way" if parted else ""
    return say(
        Claim("diff: same", lambda: not changes and same > 0 and not unseen, lambda: (
            f"no value differs: {_many(same, 'op')} compared{limit}")),
        Claim("diff: same so far", lambda: not changes and same > 0 and bool(unseen), lambda: (
            f"nothing differs in the {_many(same, 'op')} that were compared{limit}; not all could be")),
        Claim("diff: nothing", lambda: not changes and not same, lambda: "no op is on both: nothing was compared"),
    )  # fmt: skip


def _differs(changes: Sequence[Change]) -> list[Said]:
    first = next(iter(changes), None)

    def holds() -> bool:
        if first is None:
            return False
        old, new = first.old.array, first.new.array
        earlier = any(one.after.position < first.after.position for one in changes)
        return not earlier and (old.shape != new.shape or not bool(mx.all(_equal(old, new)).item()))

    return say(Claim("diff: first", holds, lambda: (
        f"first difference: {changes[0].after.label} {changes[0].after.name}")))  # fmt: skip


def _equal(a: mx.array, b: mx.array) -> mx.array:
    return (a == b) | ((a != a) & (b != b))


def _first(change: Change, said: Said) -> Text:
    head, colon, name = said.partition(": ")
    line = Text(head + colon).append(name, style="op.name")
    return line.append(f"  {change.new.name}  {place_text(change.after.source)}", style="dim")


def _counts(changes: Sequence[Change], same: int) -> list[Said]:
    rest = f", {len(changes) - ROWS} of them not shown" if len(changes) > ROWS else ""
    many = "op differs" if len(changes) == 1 else "ops differ"
    has = "has" if same == 1 else "have"
    return say(Claim("diff: counts", lambda: len(changes) > 0, lambda: (
        f"{len(changes)} {many}{rest}; {same} {has} the same values")))  # fmt: skip


def _alone(before: Timeline, after: Timeline, alone: tuple[Sequence[Op], Sequence[Op]]) -> list[Said]:
    """Return how many ops are on one of the two timelines only, and where they begin."""
    sides = [(line, ops) for line, ops in zip((before, after), alone) if ops]
    where = [
        f"{_many(len(ops), 'op')} on timeline {line.number} only, from {ops[0].label} {ops[0].name}"
        for line, ops in sides
    ]

    def holds() -> bool:
        others = (after.tape, before.tape)
        return bool(sides) and not any(
            op.position < len(tape) and tape.ops[op.position] is op for ops, tape in zip(alone, others) for op in ops
        )

    return say(Claim("diff: parted", holds, lambda: (
        f"the program goes another way: {'; '.join(where)} ({place_text(sides[-1][1][0].source)})")))  # fmt: skip


def _lengths(before: Timeline, after: Timeline) -> list[RenderableType]:
    """Return that only one of two timelines goes on, and how to let the other one run as far."""
    ended = ends_first(before.tape, after.tape)
    if ended is None:
        return []
    short, long = (before, after) if ended[0] is before.tape else (after, before)
    # What a program does after its last closed step is on the tape only once that was opened.
    ends = "ends" if not (short.ended and short.tape.closed) else "has its last op on the tape"
    said = say(Claim("diff: ends first", lambda: short.extent != long.extent, lambda: (
        f"compared up to {short.extent}: there timeline {short.number} {ends}, and timeline {long.number} goes on to "
        f"{long.extent}")))  # fmt: skip
    said += say(Claim("diff: can go on", lambda: bool(said) and not short.ended, lambda: (
        f"timeline {short.number}, then until step {long.tape.ops[-1].step.number}, runs it on")))  # fmt: skip
    return [Text("; ".join(said), style="warning")] if said else []


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


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
        parts.append(tensor("difference", _signed(new.array) - _signed(old.array)))
    return Group(*parts)


def _signed(array: mx.array) -> mx.array:
    """Numbers whose difference can be negative: MLX subtracts unsigned ones in a circle, truth values not at all."""
    return array if mx.issubdtype(array.dtype, mx.inexact) else array.astype(mx.int64)
