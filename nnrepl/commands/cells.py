"""Cells: what is typed at the prompt as the program's next lines."""

from __future__ import annotations

from rich.console import RenderableType

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, command

STATEMENT = Grammar("STATEMENT", lambda text: bool(text.strip()), "names")


@command("debug", takes=STATEMENT, group="forwards")
def debug(it: Interpreter, text: str) -> RenderableType | None:
    """Run a statement of your own, and stop before its first op: `debug model(x)`, `debug loss = loss_fn(model, x)`.

    At the end of the program it is the program's next cell, as if typed without `debug`.
    """
    return it.cell(text, stop=True)
