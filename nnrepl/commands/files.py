"""Files: saving a tape, looking at a saved one, comparing with arrays from elsewhere."""

from __future__ import annotations

import os

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, command
from nnrepl.programs.saved import find, open_session
from nnrepl.programs.saving import save
from nnrepl.session.errors import UserError
from nnrepl.session.session import Stop
from nnrepl.view.saved import facts_text, saved_text

FILES = "files"
FILE_ALL = Grammar("FILE [all]", lambda text: bool(text), "files")
FILE_OR_NOTHING = Grammar("[FILE]", lambda text: True, "files")


def file_name(text: str) -> str:
    """A file name as typed: quotes, `~` and `$NAME` are taken as a shell takes them."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    name = os.path.expandvars(os.path.expanduser(text))
    if "$" in name and not os.path.exists(name):
        raise UserError(f"there is no variable in the environment for {name}; quotes keep a $ as it is")
    return name


@command("save", takes=FILE_ALL, group=FILES)
def save_(it: Interpreter, text: str) -> RenderableType | None:
    """Write the tape into a file, to be looked at later without the program: `save run`, `save run all`.

    The ops, names, lines of source, edits and timelines are kept, and the values that have been evaluated;
    with `all`, every value is evaluated and kept. The file is a safetensors file; `nnrepl run.safetensors`,
    or `load run` at the prompt, opens it. A file of that name is replaced once the new one is complete.
    """
    name, _, last = text.rpartition(" ")
    everything = bool(name.strip()) and last == "all"
    return saved_text(save(it.session, file_name(name.strip() if everything else text), everything))


@command("load", takes=FILE_OR_NOTHING, group=FILES)
def load(it: Interpreter, text: str) -> RenderableType | None:
    """Look at a saved tape: `load run`. Alone, `load` goes back to the program.

    Everything that looks and moves works on it; nothing can be computed again or changed, since the program
    is not there. The program of this session waits where it is.
    """
    if not text:
        if not it.go_home():
            raise UserError("no saved tape is being looked at; load FILE opens one")
        return Group(Text("back at the program", style="hint"), it.show_stop(Stop("", it.session.cursor)) or Text(""))
    session, facts = open_session(find(file_name(text)))
    it.visit(session)
    return Group(facts_text(facts), it.show_stop(session.stop) or Text(""))
