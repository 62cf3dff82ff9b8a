"""Passes: the way through a training run."""

from __future__ import annotations

import re

from rich.console import RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, command
from nnrepl.session.curves import over_steps
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import Parsed, parse, side_by_side
from nnrepl.timeline.timelines import Timeline
from nnrepl.view.numbers import number
from nnrepl.view.plot import Curve, Plot

LINES = re.compile(r"(?P<what>.*?\S)(?P<numbers>(?:\s+\d{1,9})+)", re.DOTALL)
PLOTTED = Grammar("EXPR [EXPR ...] [TIMELINE ...]", lambda text: bool(text), "names")


@command("plot", takes=PLOTTED, group="looking")
def plot(it: Interpreter, text: str) -> RenderableType | None:
    """Draw an expression over the training steps: `plot loss`, `plot mx.abs(grad(layers.0.weight)).max()`.

    It is evaluated as it stands behind the last gradient call of each step; a variable that gets the step's value
    later, at the step's end. Steps that do not have it, or only an earlier step's, are left out.
    `plot loss, val_loss` or `plot loss val_loss` draws several over each other, `plot loss 1 2` the same in timelines
    1 and 2.
    """
    found = LINES.fullmatch(text.strip())
    if found and parse(found["what"]).expression is None and not side_by_side(found["what"]):
        found = None  # `plot loss * 2`
    what, numbers = (found["what"], found["numbers"].split()) if found else (text, [])
    changes = it.session.changes
    lines = [changes.numbered(int(number)) for number in numbers] or [changes.timelines.current]
    curves: list[Curve] = []
    for piece in parse(", ".join(side_by_side(what)) or what).parts():
        for line in dict.fromkeys(lines):
            title = f"{piece.text.strip()} in timeline {line.number}" if len(lines) > 1 else piece.text.strip()
            curves += _curve(it, piece, line, title)
        if not any(curve.title.startswith(piece.text.strip()) for curve in curves):
            raise UserError(f"no step on the tape has {piece.text.strip()}")
    if len(curves) == 1 and len(curves[0].places) == 1:
        said = f"{curves[0].title} = {number(curves[0].values[0])} in step {curves[0].places[0]}"
        return Text(said).append(": a curve takes two steps", style="hint")
    return Plot(curves)


def _curve(it: Interpreter, what: Parsed, line: Timeline, title: str) -> list[Curve]:
    with it.session.looking_at(line):
        found = it.guarded(lambda: over_steps(it.session, what), what.text)
    return [Curve(title, [number for number, _ in found], [value for _, value in found])] if found else []
