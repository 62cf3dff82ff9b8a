"""Stops: breakpoints, watches and catches in a list, and what was found where they hit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

import mlx.core as mx
from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.record import segments as sources
from nnrepl.record.titles import message_of
from nnrepl.seen.entries import Listed, Met
from nnrepl.session.events import EVENTS
from nnrepl.session.findings import (
    Changed,
    Failed,
    Finding,
    Forced,
    Origin,
    Raised,
    Stretched,
    Vanished,
    WentBad,
    source_of,
)
from nnrepl.session.place import Place
from nnrepl.session.points import Condition
from nnrepl.session.stops import Breakpoint, Catch, Hit
from nnrepl.tape import Op, Value, text_of
from nnrepl.tape.claims import Claim, say, say_first
from nnrepl.view.one_op import leaf_text, value_text
from nnrepl.view.source_lines import place_text
from nnrepl.view.tensor import WHOLE, number, shape_text, summarize, summary_text, tensor

# -- the list ------------------------------------------------------------------------------------------------


def entries_view(shown: Sequence[Listed]) -> RenderableType:
    """Entries with what belongs to them."""
    if not shown:
        return Text("There are no breakpoints, watches or catches; break PLACE, watch EXPR, catch nan.", style="hint")
    parts: list[RenderableType] = []
    for one in shown:
        parts.append(entry_line(one))
        parts += [Text(f"    {line}", style="dim") for line in one.entry.commands]
    return Group(*parts)


def entry_line(listed: Listed) -> Text:
    """`breakpoint 1  matmul, if z1.max() > 10 · hit 3 times`."""
    entry, place = listed.entry, listed.place
    text = Text(entry.title, style="heading" if entry.enabled else "dim")
    shown = entry.spelled if isinstance(entry, Breakpoint) else entry.text
    text.append(f"  {shown}", style="op.name" if entry.enabled else "dim")
    notes = []
    if isinstance(entry, Catch):
        notes.append(EVENTS[entry.text].words)
    if isinstance(entry, Breakpoint):
        if entry.temporary:
            notes.append("once")
        notes.append("pending" if place is None else _kind(place))
    if entry.ignore:
        notes.append(f"goes over {_times(entry.ignore, 'hit')}")
    if entry.hits:
        notes.append(f"hit {_times(entry.hits, 'time')}")
    if not entry.enabled:
        notes.append("disabled")
    if listed.unasked is not None and not entry.hits:
        notes.append(f"not asked where {listed.unasked}")
    return text.append("".join(f" · {note}" for note in notes), style="dim")


def _kind(place: Place) -> str:
    """Return what a breakpoint's place is, in words; with a condition, what it is without."""
    inner = place.place if isinstance(place, Condition) else None
    return (inner or place).words


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def places_text(ops: Sequence[Op], asked: bool = False) -> str:
    """`3 ops in this step: #1, #4, #12.`; where a condition is asked, `Asked at 3 ops of this step: #1, #4, #12.`"""
    if not ops:
        return "No op of this step so far."
    shown = ", ".join(op.label for op in ops[:6])
    more = f" and {len(ops) - 6} more" if len(ops) > 6 else ""
    count = f"{len(ops)} {'op' if len(ops) == 1 else 'ops'}"
    return f"{f'Asked at {count} of' if asked else f'{count} in'} this step: {shown}{more}."


# -- hits ----------------------------------------------------------------------------------------------------


def hits_view(hits: Sequence[Met], missed: str) -> list[RenderableType]:
    """Return what was hit at a stop, and what was found there; and what was wished for and not come to."""
    parts: list[RenderableType] = []
    for met in hits:
        parts.append(_title(met.hit))
        if met.passed:
            parts.append(Text(met.passed, style="hint"))
        parts.extend(finding_view(met.hit.found))
    if hits and missed:
        parts.append(Text(f"({missed})", style="hint"))
    return parts


def _title(hit: Hit) -> Text:
    spelled = hit.entry.spelled if isinstance(hit.entry, Breakpoint) else hit.entry.text
    text = Text(hit.entry.title, style="heading").append(f"  {spelled}", style="op.name")
    return text.append(f" · hit {_times(hit.count, 'time')}", style="dim") if hit.count > 1 else text


def finding_view(found: Finding | None) -> list[RenderableType]:
    """Return what was found, in a few lines."""
    match found:
        case None:  # a plain breakpoint
            return []
        case WentBad():
            return _birth(found)
        case Vanished():
            return _vanished(found)
        case Raised():
            where = f" in {found.op.label} {found.op.name}" if found.op is not None else " in the program"
            return [Text(f"{type(found.error).__name__}{where}: {message_of(found.error)}", style="error")]
        case Forced():
            return [_mark(mark) for mark in found.marks[:4]]
        case Stretched():
            return [_stretched(found.op)]
        case Changed():
            return _change(found)
        case Failed():
            return [Text(f"{found.condition} cannot be asked here: {found.reason}", style="error")]
        case _ as never:
            assert_never(never)


def _op_text(op: Op) -> str:
    return f"{op.label} {op.name}"


def _birth(found: WentBad) -> list[RenderableType]:
    text = Text(f"{found.value.name}{_index(found.index)}", style="value.name")
    others = f" ({found.count} of {found.value.size} elements)" if found.value.size > 1 else ""
    if found.value.op is not found.op or found.op.operation.kind == "data":
        text.append(f" is {number(found.number)}{others}", style="tensor.nan")
        return [text.append(f" {said}") for said in say_first(_came(found))]
    text.append(f" becomes {number(found.number)}", style="tensor.nan")
    text.append(f" in {_op_text(found.op)}{others}")
    lines: list[RenderableType] = [text.append(f", {said}:") for said in say_first(_born(found))] or [text]
    return [*lines, *[line for origin in found.origins for line in _origin(origin)]]


def _came(found: WentBad) -> Iterator[Claim[str]]:
    """How a number came into an op that it was there before."""
    maker = source_of(found.value).op
    made = leaf_text(found.value) if maker is None else f"made by {_op_text(maker)}"
    inside = found.value.op is found.op
    yield Claim("catch: in the data", lambda: inside and found.is_bad, lambda: (
        f"in the data that {_op_text(found.op)} takes in"))  # fmt: skip
    yield Claim("catch: there before", lambda: found.is_bad and found.value in found.op.inputs, lambda: (
        f"before anything was run: it is {made}; {_op_text(found.op)} is the first to use it"))  # fmt: skip


def _born(found: WentBad) -> Iterator[Claim[str]]:
    yield Claim("catch: born", lambda: not found.apart and found.is_born, lambda: (
        f"where no input has {_such(found.what)}"))  # fmt: skip
    yield Claim("catch: born apart", lambda: found.apart and found.is_born, lambda: (
        f"and no {found.what} goes into that element"))  # fmt: skip


def _such(what: str) -> str:
    """Return `a NaN`, `an Inf`."""
    return f"a{'n' if what[:1] in 'AEIOU' else ''} {what}"


def _origin(origin: Origin, indent: int = 4) -> Iterator[Text]:
    """Yield an input's part and its numbers; after an Inf, the op that made it and from what."""
    text = Text(" " * indent)
    text.append(origin.value.name + (_index(origin.index) if origin.index is not None else ""), style="value.name")
    if origin.low == origin.high or origin.low != origin.low:
        text.append(f" = {number(origin.low)}")
    else:
        text.append(f" between {number(origin.low)} and {number(origin.high)}")
    if origin.before and origin.value.op is not None:
        text.append(f", made in {_op_text(origin.value.op)} from")
    yield text
    for before in origin.before:
        yield from _origin(before, indent + 4)


def _index(index: tuple[int | None, ...]) -> str:
    return f"[{', '.join(':' if at is None else str(at) for at in index)}]" if index else ""


def _vanished(found: Vanished) -> list[RenderableType]:
    zero = Claim("catch: zero", lambda: not _any(found.value), lambda: f"becomes zero in {_op_text(found.op)}")
    text = value_text(found.value)
    for said in say(zero):
        text.append(f" {said}")
    if found.value.size > 1:
        text.append(", all of it")
    alive = bool(found.given)
    came = Claim("catch: alive before", lambda: alive and all(map(_any, found.given)), lambda: (
        "what came in is not"))  # fmt: skip
    for said in say(came):
        text.append(f"; {said}:")
    return [text, *[_summary_line(value) for value in (*found.given, *found.others)]]


def _any(value: Value) -> bool:
    return bool(mx.any(value.array != 0).item())


def _summary_line(value: Value) -> Text:
    return Text("    ").append_text(value_text(value)).append("  ").append_text(_summary(value.array))


def _summary(array: mx.array) -> Text:
    return summary_text(summarize(array))


def _mark(mark: Any) -> Text:
    source = sources.locate(mark.scope.code, mark.lasti) if mark.scope is not None else None
    names = ", ".join(value.name for value in mark.values[:4]) + (", ..." if len(mark.values) > 4 else "")
    of = f" of {names}" if names else ""
    where = (
        f" at {place_text(source)}  {source.text.splitlines()[0] if source.text else ''}" if source is not None else ""
    )
    return Text(f"The program forced an evaluation{of} by {mark.how}{where}")


def _stretched(op: Op) -> Text:
    shape = op.outputs[0].shape
    wider = Claim("catch: stretched", lambda: all(value.shape != shape for value in op.inputs), lambda: (
        f"stretch each other to {shape_text(shape)} in {_op_text(op)}"))  # fmt: skip
    text = Text(" and ").join([value_text(value) for value in dict.fromkeys(op.inputs)])
    return text.append("".join(f" {said}" for said in say(wider)))


def _change(found: Changed) -> list[RenderableType]:
    maker = f" in {_op_text(found.op)}" if found.op is not None else ""
    before, after = found.before, found.after
    if not isinstance(after, mx.array):
        old = "" if before is None else f"{text_of(before, repr)} → "
        return [Text(f"{found.text} changed{maker}: {old}{text_of(after, repr)}")]
    if before is None:
        return [Text(f"{found.text} gets a value{maker}"), tensor("  is", after)]
    lines: list[RenderableType] = [Text(f"{found.text} changed{maker}")]
    if isinstance(before, mx.array) and before.shape == after.shape and after.size > WHOLE:
        different = int(mx.sum(before != after).item())  # type: ignore[arg-type]
        lines[0] = Text(f"{found.text} changed{maker}: {different} of {after.size} elements")
        lines.append(Text("  was ").append_text(_summary(before)))
        return [*lines, Text("  is  ").append_text(_summary(after))]
    was: Any = tensor("  was", before) if isinstance(before, mx.array) else Text(f"  was {text_of(before, repr)}")
    return [*lines, was, tensor("  is ", after)]
