"""Zero reasons: why something is 0, with what shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import field

from nnrepl.classes import dataclass
from nnrepl.explain.answer import Evidence
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import UNPROVED, Claim, Said, first_worded


@dataclass(slots=True)
class Because:
    """What is claimed about a zero, in a sentence or two, and what shows it.

    Attributes:
        text: The sentences.
        evidence: The tensors that show it.
        op: The op in which it began, where that is another one than what was asked about.
        start: The tensor with whose zeros it begins, where the program made them as such: a parameter, a state.
        cancels: Whether it is a sum whose terms cancel.
        came: The tensor that came into the pass with the zeros that count.
    """

    text: str
    evidence: list[Evidence] = field(default_factory=list)
    op: Op | None = None
    start: Value | None = None
    cancels: bool = False
    came: Value | None = None


@dataclass(slots=True)
class Reason:
    """What holds of that: the same, after its check.

    Attributes:
        text: The sentences.
        because: What was claimed.
    """

    text: Said
    because: Because

    @property
    def kind(self) -> str:
        """The sentences without numbers: what the same line says of another layer, or of another turn of its loop."""
        return re.sub(r"\d+(\.\d+)?(e[+−-]?\d+)?", "", self.text)

    @property
    def evidence(self) -> list[Evidence]:
        """The tensors that show it."""
        return self.because.evidence

    @property
    def op(self) -> Op | None:
        """The op in which it began, where that is another one than what was asked about."""
        return self.because.op

    @property
    def start(self) -> Value | None:
        """The tensor with whose zeros it begins."""
        return self.because.start

    @property
    def came(self) -> Value | None:
        """The tensor that came into the pass with the zeros that count."""
        return self.because.came

    @property
    def cancels(self) -> bool:
        """Whether it is a sum whose terms cancel."""
        return self.because.cancels


def reasoned(claims: Iterable[Claim[Because]]) -> Reason:
    """Return what the first claim that holds says."""
    found = first_worded(claims)
    return Reason(UNPROVED, Because(UNPROVED)) if found is None else Reason(*found)
