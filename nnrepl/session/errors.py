"""What can go wrong at the prompt, each with one line that says what and what to type instead."""

from nnrepl.record.guide import Unwinding


class UserError(Exception):
    """A command that cannot be done; the message is for the person."""


class NotYet(UserError):
    """A value that lies ahead of the cursor: an answer, not a mistake."""


class NoGradient(UserError):
    """A value that no gradient flows to: an answer, not a mistake."""


class Quit(Unwinding):
    """Unwinds the program when the person quits."""


class Restart(Unwinding):
    """Unwinds the program so that it runs again from its start."""
