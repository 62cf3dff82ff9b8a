"""Hints: what is said once of how a line was read."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text

from nnrepl.commands.table import TypedLine
from nnrepl.installed import is_library
from nnrepl.record.frame_variables import variables_of
from nnrepl.session.reading import Reading
from nnrepl.tape import UNBOUND


class Hints:
    """Says each hint once.

    Args:
        is_tensor: Whether a word is the name of a tensor where the user stands.
        session: Gives the session that is looked at.
    """

    def __init__(self, is_tensor: Callable[[str], bool], session: Callable[[], Reading]) -> None:
        self._is_tensor = is_tensor
        self._session = session
        self._said: set[str] = set()

    def inner(self, name: str) -> Text | None:
        """Return what to say of a name that means a variable of a library's function, which makes the op, where a
        function of the program's that led there has another of that name; None if that is not so, or has been said."""
        session = self._session()
        where = session.where()
        call, op = where.scope, session.op
        if not name.isidentifier() or "inner" in self._said or call is None or (op is not None and op.of is not None):
            return None
        path = [step for step in reversed(call.path()) if not is_library(step.code.co_filename)]
        own = next((step for step in path if name in variables_of(step.code)), call)
        held = [session.tape.bindings.held(step, name, where.position) for step in (call, own)]
        if own is call or held[0] is UNBOUND or held[0] is held[1]:
            return None
        self._said.add("inner")
        inner, outer = call.code.co_qualname, own.code.co_qualname
        said = f"that of {outer} is not set yet" if held[1] is UNBOUND else f"up leads to that of {outer}"
        return Text(f"({name} is that of {inner}, which makes this op; {said})", style="hint")

    def of(self, line: TypedLine, text: str) -> Text | None:
        """Return what to say of a command that is to go away, and of a bare word that is the name of a tensor as well;
        None if that is nothing, or has been said."""
        command, word = line.command, text.partition(" ")[0]
        if command is None or word in self._said:
            return None
        if command.instead:
            said = f"({word} is to go away; type instead: {command.instead})"
        elif not line.text and self._is_tensor(text):
            said = f"({text} is also a tensor: p {text} shows it)"
        else:
            return None
        self._said.add(word)
        return Text(said, style="hint")
