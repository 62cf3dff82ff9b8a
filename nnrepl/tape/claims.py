"""Claims: a sentence, and the check that is run before it is said.

What shows a sentence takes a `Said`, which no plain string is (mypy refuses one), and only a claim whose check holds
gives a `Said`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Said(str):
    """A sentence whose check has been run, and holds; or one that asserts nothing (`open_said`)."""

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


def proved(claim: Claim[T]) -> bool:
    """Run the check of a claim. All are run here."""
    return claim.holds()


def first_proved(claims: Iterable[Claim[T]], otherwise: Callable[[], T]) -> T:
    """Return what the first claim that holds says; where none does, what can be said without one."""
    return next((claim.what() for claim in claims if proved(claim)), None) or otherwise()


def say(*claims: Claim[str]) -> list[Said]:
    """Return the sentences of those claims that hold, in order."""
    return [Said(claim.what()) for claim in claims if proved(claim)]


def say_first(claims: Iterable[Claim[str]]) -> list[Said]:
    """Return the sentence of the first claim that holds; of the others the check is not run."""
    return next(([Said(claim.what())] for claim in claims if proved(claim)), [])


def open_said(text: str) -> Said:
    """Return a sentence that asserts nothing about numbers: a possibility, a heading, what to type."""
    return Said(text)
