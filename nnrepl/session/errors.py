"""What can go wrong at the prompt, each with one line that says what and what to type instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from nnrepl.record.intake import Unwinding

if TYPE_CHECKING:
    from nnrepl.tape import Op, Value


class UserError(Exception):
    """A command that cannot be done; the message is for the user."""

    def _render_traceback_(self) -> list[str]:
        """One line at IPython's prompt and in a notebook: where in nnrepl it was raised is of no use."""
        return [f"{type(self).__name__}: {self}"]


class NoTensor(UserError):
    """A name that stands for something else than a tensor."""


class NotYet(UserError):
    """A name that means nothing yet where the cursor stands: an answer, not a mistake.

    Attributes:
        last: The last tensor of that name, if there is one; `address` is what it is called.
        maker: The op that makes it, if that is known.
    """

    def __init__(self, said: str, address: str = "", last: Value | None = None, maker: Op | None = None) -> None:
        super().__init__(said)
        self.address = address
        self.last = last
        self.maker = maker


def not_made(
    name: str,
    where: str,
    maker: Op | None,
    position: int,
    address: str = "",
    last: Value | None = None,
    whose: str = "",
) -> NotYet:
    """Say that a name is not made yet, which op makes it, and which one was the last.

    Args:
        where: ` in this call`, ` in this step`, or nothing.
        maker: The op that makes it, if that is known.
        position: Where the cursor stands.
        address: Under what the last one is known; `whose` it is, such as "layers.0's".
    """
    said = f"{name} is not made yet{where}"
    if maker is not None and maker.position < position:  # the tensor is there, but not under that name
        said = f"{name} is not set yet{where}: it will hold what {maker.label} ({maker.name}) has made"
    elif maker is not None:
        ahead = maker.position - position + 1
        said += f": {maker.label} ({maker.name}) makes it, {ahead} op{'s' if ahead > 1 else ''} on"
    if last is not None:
        said += f"; the last one is {whose}{': ' if whose else ''}{address}"
    return NotYet(said, address, last, maker)


class NoGradient(UserError):
    """A value that no gradient flows to: an answer, not a mistake.

    Attributes:
        value: The value; None where it is not on this tape. Why it has none, `explain.missing` knows.
    """

    def __init__(self, said: str, value: Value | None = None) -> None:
        super().__init__(said)
        self.value = value


class CannotAsk(UserError):
    """A condition that raised, and where."""

    def __init__(self, said: str, position: int) -> None:
        super().__init__(said)
        self.position = position


class Quit(Unwinding):
    """Unwinds the program when the user quits."""


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


def alike(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that are most like one, three at most: paths that end so (`wte.weight` for `weight`), that have
    the longest end of it, two words at least (`wte.weight` for `model.body.wte.weight`), or what is written much alike.
    """
    known, words = list(known), name.split(".")
    ends = [name, *(".".join(words[at:]) for at in range(1, len(words) - 1))]
    same = ([one for one in known if f".{one}".endswith(f".{end}")][:3] for end in ends)
    return next(filter(None, same), []) or get_close_matches(name, known, 1)


def meant(close: list[str]) -> str:
    """Return the question that ends a line about a name that is unknown."""
    *others, last = close or [""]
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if close else ""
