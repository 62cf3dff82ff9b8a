"""General: help, the receipt, and the way out."""

from __future__ import annotations

from rich.console import Group, RenderableType

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import NOTHING, Grammar, Opens, command
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside

GENERAL = "general"


@command("verify", takes=NOTHING, opens=Opens.HERE | Opens.TAPE, group="understanding")
def verify(it: Interpreter, text: str) -> RenderableType | None:
    """Check the recording of this pass, and show the receipt.

    Every op is computed again from its recorded inputs; the gradients are compared, bit for bit, with those
    of MLX's own `value_and_grad` over the same ops; MLX's own lazy graph is searched for primitives that no
    recorded op accounts for; holes are listed. This evaluates the pass.
    """
    from nnrepl.record.verify import verify as take_receipt
    from nnrepl.view.receipt import receipt_view

    pass_ = it.session.pass_
    if pass_ is None or not len(pass_):
        raise UserError("nothing has been recorded yet; step to the first op, then verify")
    with aside():
        return receipt_view(take_receipt(it.session.tape, pass_, progress=it.session.hooks.progress))


@command("help", "h", takes=Grammar("[COMMAND | TOPIC | WORD | all]", lambda text: True, "help"), group=GENERAL)
def help_(it: Interpreter, text: str) -> RenderableType | None:
    """Show where to begin, or the manual of a command, a topic, a word: `help step`, `help keys`, `help gradient`.

    `help all` lists every command. A word of the trade (`help chain rule`, `help MSE`) is told with the number that it
    has where you stand.
    """
    from nnrepl.commands.manuals import help_view
    from nnrepl.learn.glossary import here

    return help_view(it.table, text, lambda word: here(it.session, word))


@command("apropos", takes=Grammar("WORD", lambda text: bool(text)), group=GENERAL)
def apropos(it: Interpreter, text: str) -> RenderableType | None:
    """Search all manuals, topics and words of the trade: `apropos gradient`."""
    from nnrepl.commands.manuals import apropos_view

    return apropos_view(it.table, text)


@command("redraw", takes=NOTHING, group=GENERAL)
def redraw(it: Interpreter, text: str) -> RenderableType | None:
    """Show the last answer again, laid out for the width that the terminal has now. Ctrl-L clears the screen for it."""
    if not it.answers.last:
        raise UserError("nothing has been shown yet")
    return Group(*it.answers.last)


@command("quit", "q", "exit", takes=NOTHING, group=GENERAL)
def quit_(it: Interpreter, text: str) -> RenderableType | None:
    """End the program and the session; inside of an op (`into`) or a statement (`debug`), go back to the program."""
    if it.session.outer is not None:
        return it.run("out")
    it.session.quit()
    return None
