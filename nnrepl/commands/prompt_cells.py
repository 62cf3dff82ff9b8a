"""Cells: what is typed at the prompt as the program's next lines."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, Opens, command
from nnrepl.session.expressions import aside
from nnrepl.session.parsed import parse
from nnrepl.session.typed import upcoming

STATEMENT = Grammar("STATEMENT", lambda text: bool(text.strip()), "names")


@command("debug", takes=STATEMENT, opens=Opens.NOTHING, group="forwards")
def debug(it: Interpreter, text: str) -> RenderableType | None:
    """Run a statement of your own, and stop before its first op: `debug model(x)`, `debug loss = loss_fn(model, x)`.

    At the end of the program it is the program's next cell, as if typed without `debug`. In the middle of a program an
    expression runs on a tape of its own, in the names of the call where you stand; the program does not notice. `out`
    (or `q`) leads back, and `_` is the result.
    """
    session = it.session
    if session.debuggee is None or upcoming(session):
        return it.cell(parse(text), stop=True)
    from nnrepl.explain.beside import run_beside

    def run() -> RenderableType | None:
        with aside():
            inner = run_beside(session, parse(text))
        it.session, it.shown = inner, None
        ops = len(inner.tape)
        said = f"{text}: {ops} op{'' if ops == 1 else 's'} on a tape of their own. out leads back, _ is the result."
        if inner.error is not None:
            said = f"{text} raises {type(inner.error).__name__} at its last op. out leads back."
        inner.goto("start" if inner.error is None else f"#{ops}")
        return Text(said, style="heading")

    shown: RenderableType | None = it.guarded(run, text)
    return shown
