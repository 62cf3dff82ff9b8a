"""Health: findings, each with the command that shows the evidence."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnrepl.explain.health.report import THRESHOLDS, WARNING, Report
from nnrepl.explain.words import cost


def health_view(report: Report) -> RenderableType:
    """The findings, or a clean bill."""
    parts: list[RenderableType] = []
    for finding in report.findings:
        serious = finding.level == WARNING
        line = Text("✗ " if serious else "· ", style="warning" if serious else "dim")
        line.append(f"{finding.kind}: ", style="warning" if serious else "bold")
        line.append(finding.text, style="" if serious else "dim")
        parts.append(line)
        parts.append(Padding(Text(finding.command, style="op.name"), (0, 0, 0, 4)))
    if not report.warnings:
        part = report.part
        parts.insert(0, Text(f"✓ nothing is wrong with {part.address} · {part.title}: {report.checks} "
                             f"checks, {report.looked} tensors",
                             style="good"))  # fmt: skip
    parts.append(Text(cost(report.ops), style="hint"))
    return Group(*parts)


def thresholds_view() -> RenderableType:
    """Every threshold, what it means and where it comes from."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for name, threshold in THRESHOLDS.items():
        table.add_row(
            Text(f"{name}={threshold.value:g}", style="op.name"), threshold.means, Text(threshold.source, style="dim")
        )
    return table
