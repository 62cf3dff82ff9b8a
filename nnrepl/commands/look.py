"""Looking: at tensors, ops, source and frames."""

from __future__ import annotations

import re

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import ANYTHING, EXPRESSION, EXPRESSION_OR_NOTHING, NOTHING, Grammar, command
from nnrepl.session.errors import UserError
from nnrepl.view.listing import listing, pass_listing, source_listing
from nnrepl.view.what import what_view
from nnrepl.view.where import where_view

LOOK = "looking"


@command("print", "p", takes=EXPRESSION, group=LOOK)
def print_(it: Interpreter, text: str) -> RenderableType | None:
    """Show the value of an expression, and evaluate what it depends on, nothing else.

    Names mean their newest version before the cursor: `p z1`, `p loss, grad(weights1)`,
    `p z1@12` the version that op #12 made, `p #12` the result of an op, `p layers.0.weight[0]`,
    `p mx.abs(z1).max()`. The expression alone does the same.
    """
    return it.print(text)


@command("pp", takes=EXPRESSION, group=LOOK)
def pretty_print(it: Interpreter, text: str) -> RenderableType | None:
    """Show the value of a Python expression in a readable layout."""
    from rich.pretty import Pretty

    result = it.value(text)
    return it.print(text) if hasattr(result, "dtype") else Pretty(result, expand_all=False)


@command("what", "whatis", "ptype", takes=EXPRESSION, group=LOOK)
def what(it: Interpreter, text: str) -> RenderableType | None:
    """Tell everything about a value without evaluating it.

    Its shape and dtype, what made it and where, what uses it, whether it has been evaluated and what that
    would cost, and where its gradient is: `what z1`, `what #12`, `what grad(z1)`.
    """
    return what_view(it.session, it.session.lookup.by_words(text, it.session.cursor))


@command("grad", takes=EXPRESSION, group=LOOK)
def grad(it: Interpreter, text: str) -> RenderableType | None:
    """Show the gradient of the loss with respect to a value: `grad z1` is `print grad(z1)`."""
    return it.print(f"grad({text})")


@command("display", takes=EXPRESSION_OR_NOTHING, group=LOOK)
def display(it: Interpreter, text: str) -> RenderableType | None:
    """Show an expression at every stop: `display z1`. Without one, show the list now."""
    displays = it.session.displays
    if text:
        shown = it.print(text, f"{max(displays, default=0) + 1}: {text}")
        displays[max(displays, default=0) + 1] = text
        return shown
    return Group(*it.displays()) if displays else Text("Nothing is displayed; display z1 begins.", style="hint")


@command("undisplay", takes=ANYTHING, group=LOOK)
def undisplay(it: Interpreter, text: str) -> RenderableType | None:
    """Stop displaying an expression, by its number or its text; without either, all of them."""
    displays = it.session.displays
    if not text:
        displays.clear()
        return None
    gone = [number for number, shown in displays.items() if text in (str(number), shown)]
    if not gone:
        raise UserError(f"{text} is not displayed; display lists what is")
    for number in gone:
        del displays[number]
    return None


@command("list", "l", takes=Grammar("[source | n | PLACE]", lambda text: True, "places"), group=LOOK)
def list_(it: Interpreter, text: str) -> RenderableType | None:
    """Show the ops around the cursor, with their state, source and shapes.

    `list #40` shows those around an op, `list 30` so many, `list source` the source file with the ops of
    each line, `list 1,20` those lines of it. `list .` is `list`.
    """
    if text == "source":
        return source_listing(it.session)
    lines = re.fullmatch(r"(\d{1,9})\s*,\s*(\d{0,9})", text)
    if lines is not None:
        return source_listing(it.session, int(lines[1]), int(lines[2] or 0))
    return listing(it.session, "" if text == "." else text)


@command("ll", "longlist", takes=NOTHING, group=LOOK)
def long_list(it: Interpreter, text: str) -> RenderableType | None:
    """Show the whole pass in which the cursor stands."""
    return pass_listing(it.session)


@command("where", "w", "bt", "backtrace", takes=NOTHING, group=LOOK)
def where(it: Interpreter, text: str) -> RenderableType | None:
    """Show the calls of functions and modules in which the next op is made, the innermost last."""
    return where_view(it.session)
