"""Reloading: taking changed source into the program that waits."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, command
from nnrepl.session.errors import UserError

PROGRAM = "program"
ALL = Grammar("[all]", lambda text: text in ("", "all"), "words", ("all",))


@command("reload", takes=ALL, group=PROGRAM)
def reload(it: Interpreter, text: str) -> RenderableType | None:
    """Take what has changed in the program's files into it, and go on from where it matters.

    Functions and methods change in place: weights, optimizer and data stay. Where a call is running that changes, the
    program goes back to the entry of that call and comes forward again over the new source; else the change holds from
    here on. That is a new timeline: `undo`, `timeline 1` and `diff` know it. What stands at the level of a module or a
    class, and constructors of objects that live, only a run from the start takes over: you are asked, and `reload all`
    does it without a question. A file that does not parse changes nothing.
    """
    session = it.session
    if session.files is None:
        raise UserError("there is no program here whose files nnrepl has read; nnrepl PROGRAM has one")
    said = session.files.reload(session, text == "all")
    if said:
        return Group(*(Text(line, style="hint") for line in said))
    return it.moved_in_time(it.news() or Text(""))
