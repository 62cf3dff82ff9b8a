"""Passes: the way through a training run."""

from __future__ import annotations

from rich.console import RenderableType

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import EXPRESSION, command
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import parse
from nnrepl.view.plot import Plot


@command("plot", takes=EXPRESSION, group="looking")
def plot(it: Interpreter, text: str) -> RenderableType | None:
    """Draw an expression over the training steps: `plot loss`, `plot mx.abs(grad(layers.0.weight)).max()`.

    It is evaluated as it stands behind the last gradient call of each step; steps that do not have it are left out.
    """
    found = it.guarded(lambda: it.session.over_steps(parse(text)), text)
    if not found:
        raise UserError(f"no step on the tape has {text}")
    return Plot(text, [number for number, _ in found], [value for _, value in found])
