"""Files: saving a tape, looking at a saved one, comparing with arrays from elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import NOTHING, Grammar, command
from nnrepl.session.errors import Load, UserError
from nnrepl.session.parsed import parse

if TYPE_CHECKING:
    from nnrepl.programs.script import Script

FILES = "files"
FILE_ALL = Grammar("FILE [all]", lambda text: bool(text), "files")
FILE_AND_ARGUMENTS = Grammar("[FILE [ARG ...]]", lambda text: True, "files")


def file_name(text: str) -> str:
    """Return a file name as typed: quotes, `~` and `$NAME` are taken as a shell takes them."""
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
    from nnrepl.view.saved_file import saved_text

    text = text.removeprefix("-f ")  # as `export` has it; here a file is always replaced
    name, _, last = text.rpartition(" ")
    everything = bool(name.strip()) and last == "all"
    from nnrepl.programs.saving import save as write

    return saved_text(write(it.session, file_name(name.strip() if everything else text), everything))


@command("load", takes=FILE_AND_ARGUMENTS, group=FILES)
def load(it: Interpreter, text: str) -> RenderableType | None:
    """Start another program, or look at a saved tape: `load train.py --steps 20`, `load run`.

    A program is a script with its arguments, a notebook, a module (`load -m package.module`), or one that comes with
    nnrepl (`load example transformer`; `examples` lists them). It takes the place of the one that waits: on a terminal
    you are asked first. Breakpoints stay. Where the program is over, a file that only defines takes nobody's place: its
    names are imported, as the program's next cell. On a saved tape everything works that looks and moves; nothing can
    be computed again or changed, and the program of this session waits where it is: `load` alone goes back to it.
    """
    from nnrepl.programs.loading import program_of
    from nnrepl.view.saved_file import facts_text

    if not text:
        if not it.go_home():
            raise UserError("no saved tape is being looked at; load FILE opens one")
        return Text("back at the program", style="hint")
    program = program_of(text)
    if program is not None:
        return _start(it, program)
    from nnrepl.programs.saved import find, open_session

    session, facts = open_session(find(file_name(text)))
    it.visit(session)
    return facts_text(facts)


def _start(it: Interpreter, program: Script) -> RenderableType | None:
    """Let another program take the place of the one that waits. Raises Load."""
    from nnrepl.programs.loading import import_of

    it.go_home()
    session = it.session
    if session.debuggee is not None and session.debuggee.waits:
        line = import_of(program)
        if line:
            session.goto("end")
            it.cell(parse(line))
            return Text(line.splitlines()[-1], style="hint")
    if session.files is None:
        raise UserError("there is no program here that another could take the place of; nnrepl PROGRAM starts one")
    count = len(session.changes.timelines)
    many = f"{len(session.tape)} ops" + (f" on {count} timelines" if count > 1 else "")
    question = f"{program.title} takes the place of this program; its {many} are lost. Go on? [y/N] "
    if len(session.tape) and not session.hooks.confirm(question, otherwise=True):
        return Text("nothing has changed", style="hint")
    raise Load(program)


@command("examples", takes=NOTHING, group=FILES)
def examples_(it: Interpreter, text: str) -> RenderableType | None:
    """List the programs that come with nnrepl; `load example NAME` opens one.

    Those under `broken/` are faulty on purpose; `load example dead_relu_sound` is the sound twin of one.
    """
    from nnrepl.programs.examples import examples
    from nnrepl.view.narrow import Grid

    table = Grid(show_header=False, expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for found in examples():
        if not found.is_twin:
            table.add_row(Text(found.name, style="value.name"), Text(found.summary))
    said = "load example NAME opens one, without its folder too; NAME_sound is the sound twin of a broken one"
    return Group(table, Text(said, style="hint"))
