"""Hints: what is said once of how a line was read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from nnrepl.commands.table import TypedLine

if TYPE_CHECKING:
    from nnrepl.commands.interpreter import Interpreter


class Hints:
    """Says each hint once.

    Args:
        interpreter: Whose lines they are about.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._said: set[str] = set()

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

    def _is_tensor(self, word: str) -> bool:
        session = self._interpreter.session
        return session.expressions.is_tensor(word, session.where())
