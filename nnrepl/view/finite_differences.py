"""Check: gradients held against finite differences, and the primitives of an op."""

from __future__ import annotations

import mlx.core as mx
from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.explain import words
from nnrepl.explain.check import Checked, CheckReport, Element
from nnrepl.explain.primitives import PrimitiveCall
from nnrepl.tape import Op
from nnrepl.view.narrow import Grid


def check_view(report: CheckReport) -> RenderableType:
    """One line for each gradient; its worst element; kinks explained; what the check took."""
    parts: list[RenderableType] = []
    for one in report.checked:
        parts.extend(_one(one))
    parts.extend(_aside(report))
    took = f" It took {report.seconds:.1f} s." if report.seconds >= 10 else ""
    parts.append(Text(words.cost(report.ops) + took, style="hint"))
    return Group(*parts)


def _aside(report: CheckReport) -> list[RenderableType]:
    """Return what holds for several gradients: what was held fixed, whose vjp lies on the way, what was not reached."""
    lines: list[RenderableType] = []
    fixed = list(dict.fromkeys(op for one in report.checked for op in one.fixed))
    if fixed:
        names = ", ".join(f"{op.label}" for op in fixed[:4]) + (", …" if len(fixed) > 4 else "")
        lines.append(Text(f"Held fixed, because no gradient passes it: stop_gradient ({names}).", style="hint"))
    custom = list(dict.fromkeys(op for one in report.checked if one.wrong for op in one.custom))
    if custom:
        names = ", ".join(f"{op.label} {op.name}" for op in custom[:4])
        lines.append(Text(f"On the way of what differs lies a vjp of the program's own: {names}. check "
                          f"{custom[0].label} checks it by itself."))  # fmt: skip
    if report.left:
        count = f"{report.left} gradient{'s' if report.left > 1 else ''}"
        lines.append(Text(f"Stopped: {count} {'were' if report.left > 1 else 'was'} not checked.", style="warning"))
    return lines


def _one(one: Checked) -> list[RenderableType]:
    compared = len(one.elements) > len(one.undefined)
    mark, style = ("✗ ", "error") if one.wrong else ("✓ ", "good") if compared else ("- ", "hint")
    line = Text(mark, style=style)
    line.append(f"{one.name}: {_verdict(one)}")
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
    if one.near:
        count = f"{len(one.near)} elements" if len(one.near) > 1 else "1 element"
        lines.append(Text(f"    next to {count} there are kinks: the difference shrinks with the step, or is gone "
                          "where each ReLU, max and |a| keeps its choice: it is no fault of the gradient",
                          style="dim"))  # fmt: skip
    if one.undefined and compared:
        lines.append(Text(f"    next to {len(one.undefined)} elements the function or the gradient is not finite: "
                          "nothing to compare", style="dim"))  # fmt: skip
    if one.rounded:
        element, number = max(one.rounded, key=lambda pair: pair[0].error)
        count = f"{len(one.rounded)} elements are" if len(one.rounded) > 1 else "1 element is"
        lines.append(Text(f"    {count} off by rounding only: in float64 the same rules give {words.number(number)} "
                          f"where {_element(one, element)}", style="dim"))  # fmt: skip
    if one.rough:
        doubt = max(element.slope.doubt for element in one.rough)
        count = f"{len(one.rough)} elements" if len(one.rough) > 1 else "1 element"
        lines.append(Text(f"    of {count} little can be said: the loss is rounded so coarsely that "
                          f"differences are only good to ±{words.number(doubt)}", style="dim"))  # fmt: skip
    return lines


def _verdict(one: Checked) -> str:
    count = len(one.elements) - (0 if one.wrong else len(one.undefined))
    if not one.of.size:
        return f"nothing to check: {words.name(one.of)} is empty"
    if not mx.issubdtype(one.of.dtype, mx.floating):
        return f"not checked: differences are taken along real numbers, and {words.name(one.of)} is complex"
    if not count:
        return "nothing to compare: the function or the gradient is not finite"
    share = f"all {count} elements" if count == one.of.size else f"{count} of {one.of.size} elements"
    share = "its element" if one.of.size == 1 else share
    kind = f"finite differences in {words.dtype(one.dtype)}"
    if one.wrong:
        return f"{share} checked, {len(one.wrong)} differ{'s' if len(one.wrong) == 1 else ''} from {kind}"
    together = f" one by one, and all {one.of.size} together along a random direction," if one.whole else ""
    rounding = ", but for rounding" if one.rounded else ""
    return f"{share}{together} agree{'s' if one.of.size == 1 else ''} with {kind}{rounding}"


def _kink(one: Checked, kink: Element) -> Text:
    """Show a place where the slope jumps, which is no mistake."""
    where = words.element(words.name(one.of), kink.index)
    return Text(
        f"    {where} lies on a kink, or next to one: the slope is {words.number(kink.left)} to its left and "
        f"{words.number(kink.right)} to its "
        f"right; the gradient takes {words.number(kink.gradient)}, which lies between them"
    )


def _element(one: Checked, element: Element) -> str:
    return (
        f"{words.element(one.name, element.index)} = {words.number(element.gradient)}, against "
        f"{words.number(element.difference)}"
    )


def primitives_view(op: Op, steps: list[PrimitiveCall]) -> RenderableType:
    """Return the primitives of an op, one a line, in the order of computation."""
    if not steps:
        return Text(f"{op.label} {op.name} is no primitive at all: its result is one of its inputs", style="hint")
    count = f"{len(steps)} primitive{'s' if len(steps) != 1 else ''}"
    table = Grid(show_header=False, padding=(0, 2, 0, 2))
    for step in steps:
        table.add_row(Text(step.name, style="op.name"), ", ".join(step.takes), f"→  {', '.join(step.makes)}")
    return Group(Text(f"{op.label} {op.name} is {count} of MLX's graph:"), table)
