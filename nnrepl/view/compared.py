"""Compare: where a tape begins to differ from a reference."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nnrepl.session.counterparts import GIVEN, MODULE, NAME, PATH, SIMILAR, TAPE, Matched, computing
from nnrepl.session.reference import Compared, Verdict
from nnrepl.tape import SKIPPED, Op, Value
from nnrepl.tape.claims import Claim, Said, say
from nnrepl.view.narrow import Grid
from nnrepl.view.one_op import leaf_text, op_line
from nnrepl.view.source_lines import Marked, own_source, place_text
from nnrepl.view.tensor import number, shape_text

ROWS, OPS, NAMES = 20, 8, 12
BEFORE = 3
"""How many rows of what agrees are shown before the first difference."""


def compare_view(path: str, verdict: Verdict, matched: Matched, unreadable: list[str]) -> RenderableType:
    """Return the first difference, what goes into it, the table, and what was not compared."""
    parts: list[RenderableType] = []
    first = verdict.first
    if first is None:
        parts += [Text("✓ ", style="good").append(said, style="default") for said in _all_agree(path, verdict)]
        nothing = Claim("compare: nothing", lambda: not verdict.compared, lambda: (
            f"nothing of {path} could be compared"))  # fmt: skip
        parts += [Text(said, style="warning") for said in say(nothing)]
    else:
        parts.extend(_first(verdict, first))
        parts.append(Text(""))
    parts.append(_table(verdict))
    parts.append(_counts(verdict))
    parts.extend(_left_out(path, matched, unreadable))
    return Group(*parts)


def _all_agree(path: str, verdict: Verdict) -> list[Said]:
    count = len(verdict.compared)
    what = "the one tensor that was compared agrees" if count == 1 else f"all {count} tensors that were compared agree"
    agree = count > 0 and not any(one.differs for one in verdict.compared)
    return say(Claim("compare: all agree", lambda: agree, lambda: f"{what} with {path}"))


# -- the first difference ---------------------------------------------------------------------------------------


def _first(verdict: Verdict, first: Compared) -> list[RenderableType]:
    """Return what differs first, in which op that came about, and from what inputs."""
    title = Text("first difference: ", style="heading")
    op = first.value.op
    if not verdict.ops or op is None:
        title.append_text(Text(f"{first.value.name}, {leaf_text(first.value)}") if op is None else op_line(op))
        parts: list[RenderableType] = [title, *_apart(verdict, first)]
        users = [user for user in first.value.consumers if user.of is None][:1]
        parts += [Text("  it goes in by  ", style="dim").append_text(op_line(user)) for user in users]
        return parts
    suspects = computing(verdict.ops)
    if len(suspects) == 1:
        title.append_text(op_line(suspects[0]))
        others = [f"{other.label} {other.name}" for other in verdict.ops if other is not suspects[0]]
        said = [Text(f"  or where it is arranged: {', '.join(others[-OPS:])}", style="dim")] if others else []
        parts = [title, *_source(suspects[0]), *_apart(verdict, first), *said]
    else:
        title.append(f"{first.value.name}  ", style="value.name")
        title.append(f"came about in one of these {len(suspects)} ops", style="default")
        parts = [title, *_ops(suspects), *_apart(verdict, first), *_narrower(suspects)]
    parts.append(_inputs(verdict))
    return parts


def _narrower(suspects: list[Op]) -> list[RenderableType]:
    """Return what the file would have to hold as well to say which of the ops it is."""
    names = [value.name for op in suspects[:-1] for value in op.outputs if not value.name.startswith("#")]
    names = list(dict.fromkeys(names))[:4] or [f"{op.label}" for op in suspects[:-1]][:2]
    return [Text(f"  {', '.join(names)} in the file as well would tell which", style="hint")]


def _source(op: Op) -> list[RenderableType]:
    shown = Marked(*own_source(op, SKIPPED))
    return [shown] if shown else []


def _ops(ops: list[Op]) -> list[RenderableType]:
    """Return the ops in question, the last ones if they are many."""
    shown: list[RenderableType] = []
    if len(ops) > OPS:
        shown.append(Text(f"  {len(ops) - OPS} before these, from {ops[0].label} on", style="dim"))
    for op in ops[-OPS:]:
        line = Text("  ").append_text(op_line(op))
        inside = f" in {op.module}" if op.module else ""
        line.append(f"   {place_text(op.source)}{inside}", style="dim")
        shown.append(line)
    return shown


def _apart(verdict: Verdict, first: Compared) -> list[RenderableType]:
    """How far the two are apart, and what that looks like."""
    lines: list[RenderableType] = []
    if first.distance is None:
        lines.append(
            Text(
                f"  shape {shape_text(first.value.shape)}, in the reference {shape_text(first.shape)}", style="warning"
            )
        )
    else:
        lines.append(Text(f"  {_numbers(first)}", style="warning"))
    axes = "transposed" if len(first.flipped) == 2 else f"with its axes in the order {first.flipped}"
    turned = Claim("compare: turned", lambda: bool(first.flipped), lambda: f"it agrees with the reference {axes}")
    lines += [Text(f"  {said}", style="warning") for said in say(turned)]
    lines.extend(Text(f"  {hint}", style="warning") for hint in verdict.hints)
    return lines


def _numbers(one: Compared) -> str:
    distance = one.distance
    assert distance is not None
    at = f" at [{', '.join(map(str, distance.index))}]" if distance.index else ""
    if math.isinf(distance.absolute):
        return f"NaN or ∞{at} in one of the two, where the other has another number"
    share = f", {_share(one.share)} of the largest |reference|" if one.has_scale else ""
    return f"largest |Δ| {number(distance.absolute)}{share}{at}"


def _share(share: float) -> str:
    return f"{100 * share:.3g} %" if share >= 1e-4 else f"{share:.1e}"


def _inputs(verdict: Verdict) -> RenderableType:
    """Return what goes into the ops in question, and how far that is from the reference."""
    known = {one.value: one for one in verdict.compared}
    made = {value for op in verdict.ops for value in op.outputs}
    inputs = list(dict.fromkeys(value for op in verdict.ops for value in op.inputs if value not in made))
    if not inputs:
        return Text("  it has no inputs", style="dim")
    table = _grid("  its inputs" if len(verdict.ops) == 1 else "  what goes into them", "", "")
    for value in inputs[:NAMES]:
        table.add_row(Text("  ").append_text(_name(value)), shape_text(value.shape), _state(value, known.get(value)))
    if len(inputs) > NAMES:
        table.add_row(f"  ... ({len(inputs)})", "", "")
    return table


def _name(value: Value) -> Text:
    return Text(value.name, style="gradient" if value.gradient_of is not None else "value.name")


def _state(value: Value, one: Compared | None) -> Text:
    if one is None:
        made = f"made by {value.op.label} {value.op.name}" if value.op is not None else leaf_text(value)
        return Text(f"not in the reference ({made})", style="dim")
    if one.differs:
        return Text(f"✗ differs: {_numbers(one)}" if one.distance is not None else "✗ another shape", style="error")
    return Text(f"✓ agrees: {_numbers(one)}" if not _same(one) else "✓ the same numbers", style="good")


def _same(one: Compared) -> bool:
    return one.distance is not None and one.distance.same


# -- the table ----------------------------------------------------------------------------------------------------


def _grid(*titles: str) -> Table:
    table = Grid(header_style="dim")
    for title in titles:
        table.add_column(title, justify="right" if title in ("largest |Δ|", "share") else "left")
    return table


def _table(verdict: Verdict) -> RenderableType:
    """Return what was compared, from a little before the first difference on."""
    every = [one for one in verdict.compared if not _same(one)]
    if not every:
        return Text("  each has the very same numbers", style="dim")
    at = 0 if verdict.first is None else max(every.index(verdict.first) - BEFORE, 0)
    shown = every[at : at + ROWS]
    table = _grid("", "op", "value", "largest |Δ|", "share", "reference")
    for one in shown:
        mark = Text("✗", style="error") if one.differs else Text("✓", style="good")
        op = one.value.op
        made = f"{op.label} {op.name}" if op is not None else leaf_text(one.value)
        table.add_row(mark, made, _name(one.value), *_cells(one), _matched(one))
    notes = [f"{at} more before these"] if at else []
    if len(every) > at + len(shown):
        notes.append(f"{len(every) - at - len(shown)} more after them")
    if len(verdict.compared) > len(every):
        notes.append(f"{len(verdict.compared) - len(every)} with the very same numbers")
    return Group(table, Text(f"  not shown: {', '.join(notes)}", style="dim")) if notes else table


def _cells(one: Compared) -> tuple[str, str]:
    if one.distance is None:
        return "shape", ""
    if one.distance.same:
        return "0", ""
    if math.isinf(one.distance.absolute):
        return "not finite", ""
    return number(one.distance.absolute), _share(one.share) if one.has_scale else ""


def _matched(one: Compared) -> Text:
    """Return what the reference is called and how it was found, where that is not by the same name."""
    match = one.match
    how = {NAME: "", MODULE: "output", TAPE: ""}.get(match.how, match.how)
    notes = [how] if how else []
    if one.order == ():
        notes.append(f"reshaped from {shape_text(one.shape)}")
    elif one.order is not None and list(one.order) != sorted(one.order):
        notes.append("transposed" if len(one.order) == 2 else f"axes {one.order} of {shape_text(one.shape)}")
    elif one.distance is None:
        notes.append(f"shape {shape_text(one.shape)}")
    text = Text("" if match.how == PATH else match.key)
    return text.append(f"{' ' if text else ''}{', '.join(notes)}", style="dim") if notes else text


def _counts(verdict: Verdict) -> Text:
    differing = sum(one.differs for one in verdict.compared)
    agreeing = len(verdict.compared) - differing
    allowed = sorted({one.tolerance for one in verdict.compared if one.tolerance})
    within = " and ".join(f"{tolerance:.3g}" for tolerance in allowed) or "0"
    ways = {GIVEN: "as mapped", NAME: "by name", PATH: "by path", SIMILAR: "by a similar path", MODULE: "as modules"}
    counts = {how: sum(one.match.how == how for one in verdict.compared) for how in ways}
    how = ", ".join(f"{count} {ways[way]}" for way, count in counts.items() if count)
    said = f"{agreeing} agree, {differing} differ; tolerance {within} of the largest |reference|"
    return Text(said + (f"; matched {how}" if how else ""), style="dim")


def _left_out(path: str, matched: Matched, unreadable: list[str]) -> list[RenderableType]:
    """Return what was not compared, on either side."""
    lines: list[RenderableType] = []
    if matched.unmatched:
        lines.append(Text(f"in {path}, not compared ({len(matched.unmatched)}):", style="warning"))
        shown = list(matched.unmatched.items())[:NAMES]
        lines.extend(Text(f"  {key}: ").append(why, style="dim") for key, why in shown)
        if len(matched.unmatched) > NAMES:
            lines.append(Text("  ...", style="dim"))
    if unreadable:
        lines.append(Text(f"of a dtype that MLX does not have: {_list(unreadable)}", style="warning"))
    if matched.missing:
        lines.append(
            Text(f"on the tape, not in {path} ({len(matched.missing)}): {_list(matched.missing)}", style="dim")
        )
    return lines


def _list(names: list[str]) -> str:
    return ", ".join(names[:NAMES]) + (", ..." if len(names) > NAMES else "")
