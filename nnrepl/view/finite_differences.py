"""Check: gradients held against finite differences, and the primitives of an op."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.explain import words
from nnrepl.explain.check_found import Checked, CheckReport, beside, details, verdict
from nnrepl.explain.primitives import PrimitiveCall
from nnrepl.tape import Op
from nnrepl.view.narrow import Grid


def check_view(report: CheckReport) -> RenderableType:
    """One line for each gradient; its worst element; kinks explained; what the check took."""
    parts: list[RenderableType] = []
    for one in report.checked:
        parts.extend(_one(one))
    parts.extend(Text(said) for said in beside(report))
    took = f" It took {report.seconds:.1f} s." if report.seconds >= 10 else ""
    parts.append(Text(words.cost(report.ops) + took, style="hint"))
    return Group(*parts)


def _one(one: Checked) -> list[RenderableType]:
    mark, style = ("✗ ", "error") if one.wrong else ("✓ ", "good") if one.agreeing else ("- ", "hint")
    line = Text(mark, style=style)
    line.append(verdict(one))
    return [line, *(Text(f"    {said}", style="" if one.wrong and not at else "dim") for at, said in enumerate(
        details(one)))]  # fmt: skip


def primitives_view(op: Op, steps: list[PrimitiveCall]) -> RenderableType:
    """Return the primitives of an op, one a line, in the order of computation."""
    if not steps:
        return Text(f"{op.label} {op.name} is no primitive at all: its result is one of its inputs", style="hint")
    count = f"{len(steps)} primitive{'s' if len(steps) != 1 else ''}"
    table = Grid(show_header=False, padding=(0, 2, 0, 2))
    for step in steps:
        table.add_row(Text(step.name, style="op.name"), ", ".join(step.takes), f"→  {', '.join(step.makes)}")
    return Group(Text(f"{op.label} {op.name} is {count} of MLX's graph:"), table)
