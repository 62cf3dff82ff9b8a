"""Claims: a sentence with its own check on the values it speaks of, which is run before the sentence is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nnrepl.explain.answer import Evidence
from nnrepl.tape import Op, Value


@dataclass(slots=True)
class Reason:
    """Why, in a sentence or two, and what shows it.

    Attributes:
        text: The sentences.
        evidence: The tensors that show it.
        op: The op in which it began, where that is another one than what was asked about.
        start: The tensor with whose zeros it begins, where the program made them as such: a parameter, a state.
        cancels: Whether it is a sum whose terms cancel.
    """

    text: str
    evidence: list[Evidence] = field(default_factory=list)
    op: Op | None = None
    start: Value | None = None
    cancels: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence that is said only if it is so.

    Attributes:
        holds: Looks at the numbers.
        reason: The sentence; made only where it holds.
    """

    holds: Callable[[], bool]
    reason: Callable[[], Reason]


def first_proved(claims: Iterable[Claim], otherwise: Callable[[], Reason]) -> Reason:
    """Return the first claim that holds; where none does, what can be said without one."""
    for claim in claims:
        if claim.holds():
            return claim.reason()
    return otherwise()
