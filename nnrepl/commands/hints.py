"""Hints: what is said once of how a line was read."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text

from nnrepl.commands.table import TypedLine


class Hints:
    """Says each hint once.

    Args:
        is_tensor: Whether a word is the name of a tensor where the user stands.
    """

    def __init__(self, is_tensor: Callable[[str], bool]) -> None:
        self._is_tensor = is_tensor
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
