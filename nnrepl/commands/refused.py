"""Refused: what Python raised at the prompt, in one line, with what may have been meant."""

from __future__ import annotations

import traceback
from difflib import get_close_matches
from typing import Any, cast

from nnrepl.commands import habits
from nnrepl.commands.table import Table
from nnrepl.record.stack import is_module
from nnrepl.session.errors import alike, meant
from nnrepl.session.parsed import parse
from nnrepl.session.session import TapeSession


def reason(session: TapeSession, table: Table, error: BaseException, text: str, alone: bool) -> str:
    """Return what an exception of a line says, and how the line is written, if it was meant as a command.

    Args:
        alone: Whether the text is all of the line: of `p kill` nothing is a command.
    """
    if isinstance(error, NameError):
        return _name_error(session, table, error, text, alone)
    said = traceback.format_exception_only(type(error), error)[-1].strip().splitlines()
    first = said[0][:300] if said else type(error).__name__
    if said[-1].startswith("Invoked with types"):  # nanobind: the signatures in between help nobody
        first = f"{first.partition(' The following')[0]} {said[-1]}"
    if isinstance(error, AttributeError):
        first += _attribute_like(error)
    return first + _as_command(table, text)


def _name_error(session: TapeSession, table: Table, error: NameError, text: str, alone: bool) -> str:
    name = error.name or str(error)
    answer = habits.answer(text.strip()) if alone else None
    if answer is not None:
        return answer
    where = session.lookup.belongs(name)
    if where:
        return f"nothing here is called {name}{where}" + _as_command(table, text)
    known = _known(session)
    if name in known:
        return f"{name} is not bound yet" + _as_command(table, text)
    close = [*_of_mlx(session, name), *alike(name, known)]
    if alone and text.strip() == name and get_close_matches(name, [*table.names, *close], 1) != close[:1]:
        command = get_close_matches(name, table.names, 1)
        close = [f"the command {one}" for one in command] or close
    return f"nothing here is called {name}{meant(close)}" + _as_command(table, text)


def _of_mlx(session: TapeSession, name: str) -> list[str]:
    """Return what MLX calls so, under the short names that the prompt knows: `mx.exp`, `nn.relu`, `optim.Adam`."""
    modules = ((short, session.expressions.variable(short, session.where())) for short in ("mx", "nn", "optim"))
    return [f"{short}.{name}" for short, module in modules if name[:1] != "_" and hasattr(module, name)][:1]


def _known(session: TapeSession) -> list[str]:
    """Return the names that may have been meant: of tensors, and of variables, those included that are not set yet."""
    variables = {*session.expressions.known(session.where()), *session.program.variables(), *session.program.imported()}
    if session.debuggee is not None:
        variables.update(session.debuggee.namespace)
    return [*session.names.spellings(), *sorted(one for one in variables if one[:2] != "__")]


def _attribute_like(error: AttributeError) -> str:
    """Return the attribute that may have been meant, as Python does at its own prompt, a module's parts included."""
    name, owner = error.name, error.obj
    if not name or owner is None:
        return ""
    named = map(str, cast(Any, owner)) if is_module(owner) else ()
    known = [*dir(owner), *(one for one in named if one.isidentifier())]
    return meant(get_close_matches(name, [one for one in known if name[:1] == "_" or one[:1] != "_"], 1))


def _as_command(table: Table, text: str) -> str:
    """Return what to type instead of a line that was meant as a command and is Python."""
    word, _, rest = text.strip().partition(" ")
    if word not in table or not rest or parse(text).assignment is not None:
        return ""
    usage = table[word].usage
    return f" (the line was read as Python; the command is written: {usage})"
