"""Claims: a sentence, and the check that is run before it is said.

What shows a sentence takes a `Said`, which no plain string is (mypy refuses one), and only a claim whose check holds
gives a `Said`. What cannot be proved is a `Possibility`: its check is that of its premise, and its words say that it is
none but possible. What to type next is a claim as well: its check is that this does what is said of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from nnrepl.classes import dataclass

T = TypeVar("T")


class Worded(Protocol):
    """What is said in words, with what belongs to them beside."""

    @property
    def text(self) -> str:
        """The sentence."""


class Advised(Worded, Protocol):
    """The same, with what may be done about it."""

    @property
    def advice(self) -> str:
        """What may be done, "" where nothing can be said."""


W = TypeVar("W", bound=Worded)
A = TypeVar("A", bound=Advised)


class Said(str):
    """A sentence whose check has been run, and holds."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Claim(Generic[T]):
    """Something that is said only if it is so.

    Attributes:
        kind: Which sentence it is, in a word or two: tests hold each kind against a program in which it is so, and one
            in which it is not.
        holds: Looks at the numbers of which the sentence speaks.
        what: Makes the sentence (or what holds it); asked only where it holds.
    """

    kind: str
    holds: Callable[[], bool]
    what: Callable[[], T]


class Possibility(Claim[T]):
    """Something that may be so: said only where what speaks for it holds, in words that leave it open (`HEDGES`)."""

    __slots__ = ()


HEDGES = ("may ", "might ", "can ", "could ", "probably", "perhaps", "as it seems", "?", " if ", "where ")
"""One of these words stands in each sentence about something that is possible."""


def proved(claim: Claim[T]) -> bool:
    """Run the check of a claim. All are run here."""
    return claim.holds()


def say(*claims: Claim[str]) -> list[Said]:
    """Return the sentences of those claims that hold, in order."""
    return [Said(claim.what()) for claim in claims if proved(claim)]


def say_first(claims: Iterable[Claim[str]]) -> list[Said]:
    """Return the sentence of the first claim that holds; of the others the check is not run."""
    return next(([Said(claim.what())] for claim in claims if proved(claim)), [])


def first_worded(claims: Iterable[Claim[W]]) -> tuple[Said, W] | None:
    """Return what the first claim that holds says, and its sentence; None where none does."""
    for claim in claims:
        if proved(claim):
            what = claim.what()
            return Said(what.text), what
    return None


def first_advised(claims: Iterable[Claim[A]]) -> tuple[Said, Said] | None:
    """Return the sentence of the first claim that holds, and what it advises; None where none does: no advice without
    its premise."""
    found = first_worded(claims)
    return None if found is None else (found[0], Said(found[1].advice))


UNPROVED = Said("What was found here does not hold on the numbers themselves, so nothing is said of it.")
"""What stands where an answer's first sentence would, if its check said no: that would be a fault of nnrepl."""


def stated(*claims: Claim[str]) -> Said:
    """Return the sentence of the first claim that holds, where there has to be one."""
    return next(iter(say_first(claims)), UNPROVED)


def perhaps(*claims: Claim[str]) -> Said:
    """Return the sentence of the first claim that holds; "" where none does, and where nothing need be said."""
    return next(iter(say_first(claims)), Said())


def joined(*sentences: Iterable[Said]) -> Said:
    """Return sentences one after the other: what has been said is said together."""
    return Said(" ".join(one for some in sentences for one in some))


def full_stop(said: Said) -> Said:
    """Return what has been said, without its end, as a sentence."""
    return Said(f"{said}.")
