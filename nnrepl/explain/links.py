"""Links: the chain rule written out, one line for each op between the loss and a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Link
from nnrepl.explain.local import factor_array, factor_text
from nnrepl.explain.look import Look
from nnrepl.record.gradient_names import start_of
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Said

describe = words.call
SHOWN = 12
"""So many links are shown of a longer chain: the first, those around what is marked, the last."""


def links_along(look: Look, way: list[Value], marked: Op | None, mark: str = "here it becomes 0") -> list[Link]:
    """Return a link for each op on the way from where a sweep began to a gradient.

    Args:
        marked: The op that is to blame.
    """
    at = next((number for number, value in enumerate(way) if value.op is marked and marked is not None), None)
    kept = _kept(len(way), at)
    look.stats([way[number] for number in kept])
    links: list[Link] = []
    before = -1
    for number in kept:
        if number > before + 1:
            links.append(Link(None, f"… {words.counted(number - before - 1, 'more op')} …", "", "", ""))
        links.append(_link(look, way[number], mark if number == at else ""))
        before = number
    return links


def _kept(count: int, at: int | None) -> list[int]:
    if count <= SHOWN:
        return list(range(count))
    center = count - 1 if at is None else at
    around = range(max(center - 3, 0), min(center + 4, count))
    return sorted({*range(3), *around, count - 2, count - 1})


def _link(look: Look, gradient: Value, mark: str) -> Link:
    op = gradient.op
    name = gradient.name if op is None else op.called(gradient)
    if op is not None and op.pass_.adds_to(gradient) is not None:
        name = f"part of {name}"
    value = shown(look, gradient)
    if op is None or op.phase != "backward":
        return Link(None, start_of(gradient), "", name, value, mark)
    if op.operation.kind == "accumulate":
        return Link(op, "sum of gradients", "+", name, value, mark)
    of = gradient.gradient_of
    does = describe(op.of) if op.of is not None else describe(op)
    if of is None or op.of is None:
        return Link(op, does, "", name, value, mark)
    return Link(op, does, _factor(look, op, of), name, value, mark)


def _factor(look: Look, op: Op, of: Value) -> str:
    """`[z1 > 0] = [0 0 0]`; a number alone where it is the same for all elements."""
    text = factor_text(op, of)
    array = factor_array(op, of, look)
    if array is None or not array.size:
        return text
    low, high = look.numbers([mx.min(array), mx.max(array)])
    if low == high:
        value = words.number(low)
        return text if text == value else f"{text} = {value}"
    if array.size <= words.FEW:
        return f"{text} = {words.inline(array)}"
    return f"{text}: {words.number(low)} to {words.number(high)}"


def shown(look: Look, value: Value) -> str:
    """Return a tensor in a few signs: its numbers, 0, or its norm."""
    stat = look.stat(value)
    numbers = words.inline(value.array)
    if numbers:
        return numbers
    if stat.is_zero:
        return f"0 everywhere {tuple(value.shape)}"
    if not stat.is_finite:
        return f"{stat.nans} NaN, {stat.infs} ∞ of {stat.size}"
    return f"‖{words.number(stat.norm)}‖ {tuple(value.shape)}"


@dataclass(frozen=True, slots=True)
class TensorLine:
    """A tensor in a few signs, read where it is written: `z = x @ w = [1 2]`.

    Attributes:
        look: Who looks.
        value: The tensor.
        name: What it is called here.
        called: What made it; "" where that goes without saying.
    """

    look: Look
    value: Value
    name: str
    called: str = ""

    @property
    def text(self) -> str:
        """The line."""
        return " = ".join(part for part in (self.name, self.called, shown(self.look, self.value)) if part)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Lines that are not shown.

    Attributes:
        count: How many.
        what: "ops", or nothing.
    """

    count: int
    what: str = ""

    @property
    def text(self) -> str:
        """The line."""
        return f"… {self.count} more {self.what + ' ' if self.what else ''}…"


Told: TypeAlias = TensorLine | LeftOut | Said


def texts_of(told: Sequence[Told]) -> list[str]:
    """Write out several."""
    return [one if isinstance(one, Said) else one.text for one in told]
