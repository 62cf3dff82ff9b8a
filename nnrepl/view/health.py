"""Health: findings, each with the command that shows the evidence."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnrepl.explain.health.report import WARNING, Report
from nnrepl.explain.limits import THRESHOLDS
from nnrepl.explain.words import cost, counted
from nnrepl.tape.claims import Claim, Said, say


def health_view(report: Report) -> RenderableType:
    """Return the findings, or a clean bill."""
    parts: list[RenderableType] = []
    for finding in report.findings:
        serious = finding.level == WARNING
        line = Text("✗ " if serious else "· ", style="warning" if serious else "dim")
        line.append(f"{finding.kind}: ", style="warning" if serious else "bold")
        line.append(finding.text, style="" if serious else "dim")
        parts.append(line)
        parts.append(Padding(Text(finding.command, style="op.name"), (0, 0, 0, 4)))
    if report.elsewhere and report.findings:
        parts.insert(0, Text(f"Of {_passes(report)}, not of the step at the cursor:", style="hint"))
    parts[:0] = [Text(f"✓ {said}", style="good") for said in _clean_bill(report)]
    parts.extend(Text(unseen, style="hint") for unseen in _unseen(report))
    parts.append(Text(cost(report.ops), style="hint"))
    return Group(*parts)


def _clean_bill(report: Report) -> list[Said]:
    """Say that nothing was found, and in what."""
    clean = not report.warnings and report.looked > 0
    return say(Claim("health: clean", lambda: clean, lambda: (
        f"nothing is wrong with {_passes(report)}: {report.checks} checks, "
        f"{counted(report.looked, 'tensor')}")))  # fmt: skip


def _passes(report: Report) -> str:
    """Return which passes were looked at."""
    return " and ".join(f"{pass_.address} · {pass_.title}" for pass_ in [report.pass_, *report.also])


def _unseen(report: Report) -> list[str]:
    """Return what was not looked at, and why."""
    lines = []
    if report.unsafe:
        lines.append("Nothing else was looked at: what is read outside of a tensor can be any number, or a crash.")
    elif report.unseen:
        lines.append(f"Not on the tape, and not looked at: {', and '.join(report.unseen)}.")
    if report.refused:
        lines.append(f"{counted(report.refused, 'tensor')} could not be looked at: their numbers are not kept.")
    if not report.looked and not report.unsafe:
        lines.append("No tensor was looked at: none that was differentiated has a number.")
    if report.others:
        lines.append(f"Not looked at: {counted(report.others, 'other gradient call')} of {report.pass_.step.title}.")
    return lines


def thresholds_view() -> RenderableType:
    """Every threshold, what it means and where it comes from."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for name, threshold in THRESHOLDS.items():
        table.add_row(
            Text(f"{name}={threshold.value:g}", style="op.name"), threshold.means, Text(threshold.source, style="dim")
        )
    return table
