"""Zero reasons: why something is 0, with what shows it."""

from __future__ import annotations

import re
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

    @property
    def kind(self) -> str:
        """The sentences without numbers: what the same line says of another layer, or of another turn of its loop."""
        return re.sub(r"\d+(\.\d+)?(e[+−-]?\d+)?", "", self.text)
