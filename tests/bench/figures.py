"""Figures: what the benchmark has measured, as a table, as JSON, and against an earlier run."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

YARDSTICK = "yardstick"
"""The key of the figure that tells how fast the machine was: plain MLX ops, dispatched by Python."""
_NOTABLE = 1.1
_TIMES, _SIZES = ("µs", "ms", "s"), ("B", "kB", "MB")


@dataclass(frozen=True)
class Figure:
    """One thing that was measured; less is better.

    Attributes:
        key: What it is, the same in every run.
        value: The median.
        unit: "x" for a ratio to plain MLX; "µs", "ms", "s", "B", "kB", "MB"; "^" for the exponent of a law of growth.
        low, high: The quartiles of what was measured.
        budget: What it may be, None where nothing is said about it.
        note: What else should be known.
    """

    key: str
    value: float
    unit: str
    low: float
    high: float
    budget: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the budget is met."""
        if self.budget is None:
            return ""
        return "met" if self.value <= self.budget else "NOT met"


def figure(key: str, values: Sequence[float], unit: str, budget: float | None = None, note: str = "") -> Figure:
    """A figure from what was measured several times."""
    ordered = sorted(values)
    if len(ordered) >= 4:
        low, _, high = statistics.quantiles(ordered, n=4)
    else:
        low, high = ordered[0], ordered[-1]
    return Figure(key, statistics.median(ordered), unit, low, high, budget, note)


def law(key: str, sizes: Sequence[int], values: Sequence[float], budget: float | None = None) -> Figure:
    """How a cost grows with size, from the smallest to the largest: 0 is flat, 1 linear, 2 quadratic."""
    exponent = math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])
    return Figure(f"{key}: growth", exponent, "^", exponent, exponent, budget, f"from {sizes[0]:,} to {sizes[-1]:,}")


def row(found: Figure) -> str:
    """One line of the table."""
    budget = "" if found.budget is None else f"budget {found.budget:g}"
    value = f"{_number(found.value)} {found.unit:2} [{_number(found.low)} .. {_number(found.high)}]"
    return f"{found.key:58} {value:34} {budget:12} {found.verdict:8} {found.note}".rstrip()


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(path: Path, found: Iterable[Figure], facts: dict[str, str]) -> None:
    """Write figures as JSON."""
    path.write_text(json.dumps({"facts": facts, "figures": [asdict(one) for one in found]}, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, str], list[Figure]]:
    """Read what `save` has written."""
    whole = json.loads(path.read_text())
    return whole["facts"], [Figure(**one) for one in whole["figures"]]


def compare(before: Sequence[Figure], now: Sequence[Figure]) -> list[str]:
    """What became slower or larger, what faster or smaller, what is new and what is gone, a line each.

    Times are taken relative to the machine's own speed in each run. A change is named where it is more than a tenth
    and the quartiles of the two runs do not overlap.
    """
    old, new = {one.key: one for one in before}, {one.key: one for one in now}
    pace = new[YARDSTICK].value / old[YARDSTICK].value if YARDSTICK in old and YARDSTICK in new else 1.0
    lines = [f"the machine takes x{pace:.2f} of the time it took then; times are compared after that"]
    worse, better = [], []
    for key, one in new.items():
        then = old.get(key)
        if then is None or key == YARDSTICK or one.unit == "^" or then.value <= 0 or one.value <= 0:
            continue
        scale = pace if one.unit in _TIMES else 1.0
        ratio = one.value / (then.value * scale)
        text = f"{key}: {_number(then.value * scale)} -> {_number(one.value)} {one.unit} (x{ratio:.2f})"
        if ratio > _NOTABLE and one.low > then.high * scale:
            word = "LARGER" if one.unit in _SIZES else "SLOWER"
            worse.append((ratio, f"{word}  {text}"))
        elif ratio < 1 / _NOTABLE and one.high < then.low * scale:
            better.append((ratio, f"better  {text}"))
    lines += [text for _, text in sorted(worse, reverse=True)] or ["nothing became slower or larger"]
    lines += [text for _, text in sorted(better)]
    for word, keys in (("new", new.keys() - old.keys()), ("not measured", old.keys() - new.keys())):
        lines += _named(word, sorted(keys))
    return lines


def _named(word: str, keys: list[str]) -> list[str]:
    """A line for each of a few figures, one for many: of those of a whole run `--only` measures a section."""
    return [f"{word}: {key}" for key in keys] if len(keys) <= 9 else [f"{word}: {len(keys)} figures, {keys[0]} ..."]
