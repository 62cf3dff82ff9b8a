"""Why: a cause, the chain that leads to it, and the tensors that show it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnrepl.explain.answer import Cause, Link
from nnrepl.explain.words import cost
from nnrepl.view.narrow import Grid


def why_view(answer: Cause) -> RenderableType:
    """Return the answer in one screen: what, why, the evidence, the chain, and what else is to be known."""
    parts: list[RenderableType] = [Text(answer.headline, style="bold")]
    parts.extend(Padding(Text(reason), (0, 0, 0, 2)) for reason in answer.reasons)
    for item in answer.evidence[:6]:
        line = Text("  ")
        line.append(item.name, style="gradient" if item.name.startswith("∂") else "value.name")
        parts.append(line.append(f" = {item.text}" if item.text[:1] != "‖" else f" {item.text}"))
    if answer.links:
        first = answer.links[0]
        start = first.does if first.op is None else "the loss"
        parts.append(Text(f"The chain from {start}, each line the one above times its local factor:", style="heading"))
        parts.append(_chain(answer.links))
    parts.extend(Text(line) for line in answer.also)
    if answer.advice:
        parts.append(Text(answer.advice, style="good"))
    parts.append(Text(cost(answer.ops), style="hint"))
    return Group(*parts)


def _chain(links: list[Link]) -> Table:
    table = Grid(heads=2, show_header=False)
    table.add_column(no_wrap=True, style="op.number", min_width=max(len(_number(link)) for link in links))
    for most, style in ((26, ""), (26, ""), (20, "gradient")):
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=most, style=style)
    table.add_column(overflow="fold", min_width=22)
    for link in links:
        if not link.name:
            table.add_row("", Text(link.does, style="dim"), "", "", "")
            continue
        value = Text(f"= {link.value}" if link.value[:1] != "‖" else link.value)
        if link.mark:
            value.append(f"  ◀ {link.mark}", style="warning")
        factor = f"× {link.factor}" if link.factor and link.op is not None and link.factor != "+" else ""
        table.add_row(_number(link), link.does, factor, link.name, value)
    return table


def _number(link: Link) -> str:
    return f"{link.op.label}" if link.op is not None else ""
