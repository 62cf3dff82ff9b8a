"""What can go wrong at the prompt, each with one line that says what and what to type instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnrepl.record.intake import Unwinding

if TYPE_CHECKING:
    from nnrepl.replay.run import Run


class UserError(Exception):
    """A command that cannot be done; the message is for the person."""


class NotYet(UserError):
    """A value that lies ahead of the cursor: an answer, not a mistake."""


class NoGradient(UserError):
    """A value that no gradient flows to: an answer, not a mistake."""


class CannotAsk(UserError):
    """A condition that raised, and where."""

    def __init__(self, said: str, position: int) -> None:
        super().__init__(said)
        self.position = position


class Quit(Unwinding):
    """Unwinds the program when the person quits."""


class Restart(Unwinding):
    """Unwinds the program so that it runs again from its start."""


class Load(Unwinding):
    """Unwinds the program so that another takes its place.

    Attributes:
        program: The other one, as the room of programs knows it.
    """

    def __init__(self, program: object) -> None:
        super().__init__("load")
        self.program = program


class RunAgain(Unwinding):
    """Unwinds the program so that it runs again from its start, along the tape as far as that holds."""

    def __init__(self, run: Run) -> None:
        super().__init__("run again")
        self.run = run
