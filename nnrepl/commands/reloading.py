"""Reloading: taking changed source into the program that waits."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import NOTHING, Grammar, Opens, command
from nnrepl.session.errors import UserError
from nnrepl.session.standing import Files

PROGRAM = "program"
ALL = Grammar("[all]", lambda text: text in ("", "all"), "words", ("all",))


@command("reload", takes=ALL, opens=Opens.HERE, group=PROGRAM)
def reload(it: Interpreter, text: str) -> RenderableType | None:
    """Take what has changed in the program's files into it, and go on from where it matters.

    Functions and methods change in place: weights, optimizer and data stay. Where a call is running that changes, the
    program goes back to the entry of that call and comes forward again over the new source; else the change holds from
    here on. That is a new timeline: `undo`, `timeline 1` and `diff` know it. What stands at the level of a module or a
    class, and constructors of objects that live, only a run from the start takes over: you are asked, and `reload all`
    does it without a question. A file that does not parse changes nothing.
    """
    return _reload(it, text == "all")


@command("edit", takes=NOTHING, group=PROGRAM)
def edit(it: Interpreter, text: str) -> RenderableType | None:
    """Open $EDITOR at the line of the program on which you stand, and `reload` afterwards."""
    _files(it)
    from nnrepl.programs.editor import open_editor, place_in_program

    place = place_in_program(it.session)
    status = it.session.hooks.lend_terminal(lambda: open_editor(*place))
    if status:
        return Text(f"the editor ended with status {status}; nothing was reloaded", style="warning")
    return _reload(it, False)


def _reload(it: Interpreter, everything: bool) -> RenderableType | None:
    said = _files(it).reload(it.session, everything)
    if said:
        return Group(*(Text(line, style="hint") for line in said))
    return it.moved_in_time(it.news() or Text(""))


def _files(it: Interpreter) -> Files:
    """Return the files of the program. Raises UserError without one."""
    if it.session.files is None:
        raise UserError("there is no program here whose files nnrepl has read; nnrepl PROGRAM has one")
    return it.session.files
