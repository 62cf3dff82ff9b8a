"""Passes: the way through a training run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, Opens, command
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import Parsed, parse, side_by_side
from nnrepl.tape import ClosedOp

if TYPE_CHECKING:
    from nnrepl.timeline.timelines import Timeline
    from nnrepl.view.plot import Curve

LINES = re.compile(r"(?P<what>.*?\S)(?P<numbers>(?:\s+\d{1,9})+)", re.DOTALL)
PLOTTED = Grammar("EXPR [EXPR ...] [TIMELINE ...]", lambda text: bool(text), "names")


@command("plot", takes=PLOTTED, opens=Opens.NOTHING, group="looking")
def plot(it: Interpreter, text: str) -> RenderableType | None:
    """Draw an expression over the training steps: `plot loss`, `plot mx.abs(grad(layers.0.weight)).max()`.

    It is evaluated as it stands after the last gradient call of each step (before the first update, after each one); a
    variable that gets the step's value later, at the step's end. Steps that do not have it, or only an earlier step's,
    are left out; so are those that are closed, but for their losses, and that is said.
    `plot loss, val_loss` or `plot loss val_loss` draws several over each other, `plot loss 1 2` the same in timelines
    1 and 2.
    """
    from nnrepl.view.digits import number
    from nnrepl.view.plot import Plot

    found = LINES.fullmatch(text.strip())
    if found and parse(found["what"]).expression is None and not side_by_side(found["what"]):
        found = None  # `plot loss * 2`
    what, numbers = (found["what"], found["numbers"].split()) if found else (text, [])
    changes = it.session.changes
    lines = [changes.numbered(int(number)) for number in numbers] or [changes.timelines.current]
    curves: list[Curve] = []
    drawn: dict[Timeline, list[Curve]] = {}
    for piece in parse(", ".join(side_by_side(what)) or what).parts():
        for line in dict.fromkeys(lines):
            title = f"{piece.text.strip()} in timeline {line.number}" if len(lines) > 1 else piece.text.strip()
            found_there = _curve(it, piece, line, title)
            curves += found_there
            drawn.setdefault(line, []).extend(found_there)
        if not any(curve.title.startswith(piece.text.strip()) for curve in curves):
            raise UserError(f"no step on the tape has {piece.text.strip()}")
    how = "config native off" if it.session.settings["native"] == "on" else "more of config history"
    others = [line for line in drawn if line is not changes.timelines.current and what.strip() == "loss"]
    ways = {line: f"timeline {line.number} and then plot loss compute them" for line in others}
    unseen = [
        _closed(line, of_line, ways.get(line, f"with {how}, restart and c draw it")) for line, of_line in drawn.items()
    ]
    said = Text("\n".join(filter(None, unseen)), style="hint")
    if len(curves) == 1 and len(curves[0].places) == 1:
        single = f"{curves[0].title} = {number(curves[0].values[0])} in {curves[0].unit} {curves[0].places[0]}"
        return Group(Text(single), said) if said else Text(single).append(": a curve takes two steps", style="hint")
    return Group(Plot(curves), said) if said else Plot(curves)


def _closed(line: Timeline, curves: Sequence[Curve], way: str) -> str:
    """Return what to say of the steps of a timeline that are in none of its curves because nobody has looked into them;
    "" if there are none.

    Args:
        way: What draws them.
    """
    drawn = {place for curve in curves for place in curve.places}
    ran = [pass_ for pass_ in line.tape.passes if len(pass_) and isinstance(pass_.ops[0], ClosedOp)]
    # What stands before the first step has no place in a curve.
    closed = {pass_.step.number for pass_ in ran if pass_.step.number} - drawn
    if not closed:
        return ""
    turns = line.tape.turns
    if len(turns) and not turns.is_over:
        said = f"timeline {line.number} and then plot draw them"
        return "" if turns.curves else f"turns of timeline {line.number} are closed; {said}"
    of = f" of timeline {line.number}" if "timeline" in way else ""
    if len(closed) == 1:
        return f"step {min(closed)}{of} is closed; {way}"
    return f"{len(closed)} steps from {min(closed)} to {max(closed)}{of} are closed; {way.replace(' it', ' them')}"


def _curve(it: Interpreter, what: Parsed, line: Timeline, title: str) -> list[Curve]:
    from nnrepl.session.curves import counted_in, over_steps
    from nnrepl.view.plot import Curve

    with it.session.looking_at(line):
        found = it.guarded(lambda: over_steps(it.session, what), what.text)
        unit = counted_in(it.session)
    return [Curve(title, [number for number, _ in found], [value for _, value in found], unit)] if found else []
