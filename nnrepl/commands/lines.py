"""Lines: those of a file, those of an alias, and those that were typed."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.blocks import in_file
from nnrepl.commands.general import GENERAL
from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import COUNT, FILE, Grammar, command
from nnrepl.session.errors import UserError


@command("source", takes=FILE, group=GENERAL)
def source(it: Interpreter, text: str) -> RenderableType | None:
    """Run the commands and the Python in a file; `#!` begins a comment. They go on at the next stop after a motion.

    Lines that belong together (a class, a loop) are one piece; Python throughout, or a file called `.py`, is one cell.
    """
    path = Path(text).expanduser()
    try:
        pieces = in_file(path.read_text(encoding="utf-8"), path.name, it.table)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        hint = f"; ll {text} shows the source of a function" if text.isidentifier() else ""
        raise UserError(f"cannot read {text}: {reason}{hint}") from None
    it.given.extendleft(reversed(pieces))
    return None


@command("alias", takes=Grammar("[NAME [LINE]]", lambda text: not text or _name(text) is not None), group=GENERAL)
def alias(it: Interpreter, text: str) -> RenderableType | None:
    """Give a line a name: `alias pg p grad(%1)`, then `pg z1`. `%1` to `%9` are the words after the name, `%*` all.

    `;;` separates several commands. Without a line, show the alias; without a name, all of them.
    """
    if not text:
        shown = [Text(f"{name} = {line}") for name, line in it.aliases.items()]
        return Group(*shown) if shown else Text("There are no aliases; alias pg p grad(%1) makes one.", style="hint")
    name, _, line = text.partition(" ")
    if line.strip():
        if name in it.table:
            raise UserError(f"{name} is a command; an alias needs another name")
        it.aliases[name] = line.strip()
        return None
    if name not in it.aliases:
        raise UserError(f"there is no alias {name}; alias {name} LINE makes one")
    return Text(f"{name} = {it.aliases[name]}")


def _name(text: str) -> re.Match[str] | None:
    return re.match(r"[A-Za-z_][\w-]*(?:\s|$)", text)


@command("unalias", takes=Grammar("NAME", lambda text: _name(text) is not None, "words"), group=GENERAL)
def unalias(it: Interpreter, text: str) -> RenderableType | None:
    """Forget an alias."""
    if text not in it.aliases:
        raise UserError(f"there is no alias {text}; alias lists them")
    del it.aliases[text]
    return None


@command("history", takes=COUNT, group=GENERAL)
def history(it: Interpreter, text: str) -> RenderableType | None:
    """Show what was typed in this session: all of it, or the last lines: `history 10`."""
    typed = list(enumerate(it.typed, 1))
    shown = typed[-int(text[:9]) :] if text and int(text[:9]) else typed
    return Group(*(Text(f"{number:4d}  {line}") for number, line in shown))
