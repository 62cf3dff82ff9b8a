"""Plot: curves in the terminal, drawn with the dots of Braille signs; with digits where there is no colour."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.view.tensor import number
from nnrepl.view.ticks import tick_text, ticks

HEIGHT = 12
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a Braille sign, by row and column (Unicode, block U+2800)."""
_STYLES = ("curve.1", "curve.2", "curve.3", "curve.4", "curve.5", "curve.6")


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over training steps.

    Attributes:
        title: What they are.
        places: The number of the step of each value.
        values: One for each.
        unit: What the numbers count, if not steps.
    """

    title: str
    places: Sequence[int]
    values: Sequence[float]
    unit: str = "step"

    @property
    def finite(self) -> list[tuple[int, float]]:
        """What can be drawn: steps with their values."""
        return [(place, value) for place, value in zip(self.places, self.values) if math.isfinite(value)]


class Plot:
    """Curves over one axis of steps, a point a step, joined by lines; gaps are where a value is not finite.

    Args:
        curves: What is drawn, at least one; later ones lie over earlier ones.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        self._curves = curves
        drawn = [value for curve in curves for _, value in curve.finite]
        self._rows = ticks(min(drawn), max(drawn), 5) if drawn else [0.0, 1.0]
        places = [place for curve in curves for place in curve.places]
        self._first, self._last = min(places), max(places)
        self._unit = curves[0].unit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        labels = [tick_text(tick) for tick in self._rows]
        margin = max(*map(len, labels), len(self._unit)) + 1
        width = max(min(options.max_width - margin - 2, 100), 4)
        plain = console.color_system is None or bool(console.no_color)
        for at, curve in enumerate(self._curves):
            yield self._legend(at, curve, plain)
        rows: dict[int, str] = {}
        for tick, label in zip(self._rows, labels):
            rows[round((HEIGHT - 1) * self._down(tick))] = label
        picture = self._digits(width) if plain and len(self._curves) > 1 else self._dots(width)
        for row, line in enumerate(picture):
            label = rows.get(row, "")
            yield Text(f"{label.rjust(margin - 1)} {'┤' if label else '│'}", style="dim", no_wrap=True).append_text(
                line
            )
        yield self._axis(width, margin)
        for curve in self._curves:
            lost = len(curve.values) - len(curve.finite)
            if lost:
                yield Text(f"{lost} of {len(curve.values)} values of {curve.title} are not finite", style="tensor.nan")

    def _legend(self, at: int, curve: Curve, plain: bool) -> Text:
        """`loss   last 2.94 (step 10) · lowest 2.91 (step 9)`."""
        several = len(self._curves) > 1
        text = Text(f"{at + 1 if plain else '━'} " if several else "", style=_STYLES[at % len(_STYLES)])
        text.append(curve.title, style="value.name")
        finite = curve.finite
        if not finite:
            return text
        place, value = finite[-1]
        text.append(f"   last {number(value)} ({curve.unit} {place})", style="dim")
        ends = [("lowest", min(finite, key=lambda one: one[1])), ("highest", max(finite, key=lambda one: one[1]))]
        for word, (place, value) in ends[: 1 if several else 2]:
            text.append(f" · {word} {number(value)} ({curve.unit} {place})", style="dim")
        return text

    def _down(self, value: float) -> float:
        """How far from the top of the picture a value lies, from 0 to 1."""
        low, high = self._rows[0], self._rows[-1]
        return (high - value) / (high - low)

    def _across(self, place: int) -> float:
        """How far from the left a step lies, from 0 to 1."""
        return (place - self._first) / (self._last - self._first) if self._last > self._first else 0.0

    def _points(self, curve: Curve, width: int, height: int) -> Iterator[tuple[int, int]]:
        """Yield the dots of a curve in a grid: columns and rows, of points and of the lines between neighbours."""
        before: tuple[int, int] | None = None
        for place, value in zip(curve.places, curve.values):
            if not math.isfinite(value):
                before = None
                continue
            here = (round((width - 1) * self._across(place)), round((height - 1) * self._down(value)))
            yield here
            if before is not None:
                steps = max(abs(here[0] - before[0]), abs(here[1] - before[1]))
                for at in range(1, steps):
                    yield tuple(round(a + (b - a) * at / steps) for a, b in zip(before, here))  # type: ignore[misc]
            before = here

    def _dots(self, width: int) -> list[Text]:
        cells: list[list[tuple[int, int]]] = [[(0, 0)] * width for _ in range(HEIGHT)]
        for at, curve in enumerate(self._curves):
            for column, row in self._points(curve, 2 * width, 4 * HEIGHT):
                bits, owner = cells[row // 4][column // 2]
                bits = bits if owner == at else 0  # the colour of a sign is one
                cells[row // 4][column // 2] = (bits | _DOTS[row % 4][column % 2], at)
        rows = []
        for line in cells:
            text = Text(no_wrap=True)
            for bits, at in line:
                text.append(chr(0x2800 + bits) if bits else " ", style=_STYLES[at % len(_STYLES)] if bits else "")
            rows.append(text)
        return rows

    def _digits(self, width: int) -> list[Text]:
        """Each curve by its number, where colours cannot tell them apart."""
        cells = [[" "] * width for _ in range(HEIGHT)]
        for at, curve in enumerate(self._curves):
            for column, row in self._points(curve, width, HEIGHT):
                cells[row][column] = str((at + 1) % 10)
        return [Text("".join(line), no_wrap=True) for line in cells]

    def _axis(self, width: int, margin: int) -> Text:
        """`step 1      10      20`: the first and the last step, and round ones where they have room."""
        wanted = [round(tick) for tick in ticks(self._first, self._last, 6) if self._first < tick < self._last]
        line = [" "] * (width + 1)
        for place in dict.fromkeys([self._first, self._last, *wanted]):
            label = str(place)
            at = min(round((width - 1) * self._across(place)) + 1, width + 1 - len(label))
            if not "".join(line[max(at - 1, 0) : at + len(label) + 1]).strip():
                line[at : at + len(label)] = label
        return Text(self._unit.rjust(margin) + "".join(line).rstrip(), style="dim", no_wrap=True)
