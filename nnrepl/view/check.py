"""Check: gradients held against finite differences, and the primitives of an op."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nnrepl.explain import words
from nnrepl.explain.check import Checked, Element
from nnrepl.explain.primitives import Step
from nnrepl.tape import Op


def check_view(found: list[Checked], ops: int) -> RenderableType:
    """One line for each gradient; its worst element; kinks explained."""
    parts: list[RenderableType] = []
    for one in found:
        parts.extend(_one(one))
    parts.append(Text(words.cost(ops), style="hint"))
    return Group(*parts)


def _one(one: Checked) -> list[RenderableType]:
    good = not one.wrong
    share = (
        f"all {len(one.elements)} elements"
        if len(one.elements) == one.value.size
        else f"{len(one.elements)} of {one.value.size} elements"
    )
    share = "its element" if one.value.size == 1 else share
    verdict = f"agree{'s' if one.value.size == 1 else ''} with" if good else f"checked, {len(one.wrong)} differ from"
    line = Text("✓ " if good else "✗ ", style="good" if good else "error")
    line.append(f"{one.value.name}: {share} {verdict} finite differences in {words.dtype(one.dtype)}")
    lines: list[RenderableType] = [line]
    worst = max(one.wrong, key=lambda element: element.error) if one.wrong else one.worst
    if worst is not None:
        lines.append(
            Text(
                f"    the worst is {_element(one, worst)}: difference {words.number(worst.error)}",
                style="" if one.wrong else "dim",
            )
        )
    lines.extend(_kink(one, kink) for kink in one.kinks[:3])
    if len(one.kinks) > 3:
        lines.append(Text(f"    and {len(one.kinks) - 3} more kinks", style="dim"))
    if one.undefined:
        lines.append(
            Text(
                f"    next to {len(one.undefined)} elements the function itself is not finite: nothing to compare",
                style="dim",
            )
        )
    return lines


def _kink(one: Checked, kink: Element) -> Text:
    """A place where the slope jumps is no mistake."""
    where = words.element(words.name(one.of), kink.index)
    return Text(
        f"    {where} lies on a kink: the slope is {words.number(kink.left)} to its left and "
        f"{words.number(kink.right)} to its "
        f"right; the gradient takes {words.number(kink.gradient)}, which is as right as any number between them"
    )


def _element(one: Checked, element: Element) -> str:
    return (
        f"{words.element(one.value.name, element.index)} = {words.number(element.gradient)}, against "
        f"{words.number(element.difference)}"
    )


def primitives_view(op: Op, steps: list[Step]) -> RenderableType:
    """The primitives of an op, one a line, in the order of computation."""
    if not steps:
        return Text(f"{op.label} {op.name} is no primitive at all: its result is one of its inputs", style="hint")
    count = f"{len(steps)} primitive{'s' if len(steps) != 1 else ''}"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2), pad_edge=False)
    for step in steps:
        table.add_row(Text(step.name, style="op.name"), ", ".join(step.takes), f"→  {', '.join(step.makes)}")
    return Group(Text(f"{op.label} {op.name} is {count} of MLX's graph:"), table)
