"""Saved: what a file holds, in a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from nnrepl.programs.saved import Facts
    from nnrepl.programs.saving import Saved


def saved_text(saved: Saved) -> Text:
    """Return what was written: `run.safetensors: 16 ops, 20 of 31 values, 12.3 kB`."""
    text = Text(f"{saved.path}: {_many(saved.ops, 'op')}")
    if saved.timelines > 1:
        text.append(f" ({saved.timelines} timelines)")
    text.append(f", {_values(saved.kept, saved.values)}, {_size(saved.size)}")
    if saved.kept < saved.values:
        text.append("; the others had not been evaluated, save FILE all keeps every one", style="hint")
    return text


def facts_text(facts: Facts) -> Text:
    """Where a loaded tape comes from."""
    program = f"{facts.program}, recorded" if facts.program else "recorded"
    text = Text(f"{facts.path} · {program} with nnrepl {facts.nnrepl} on mlx {facts.mlx}")
    return text.append(f" · {_values(facts.kept, facts.values)}", style="dim")


def _values(kept: int, values: int) -> str:
    return f"all {_many(values, 'value')}" if kept == values else f"{kept} of {_many(values, 'value')}"


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _size(count: int) -> str:
    """`12.3 kB`."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
