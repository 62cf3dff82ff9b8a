"""Answer: what `why` has found, as data. The view makes a picture of it."""

from __future__ import annotations

from dataclasses import field

from nnrepl.classes import dataclass
from nnrepl.tape import Op
from nnrepl.tape.claims import Said


@dataclass(slots=True)
class Link:
    """One step of the chain from the loss to what was asked about.

    Attributes:
        op: The op.
        does: What the op was in the forward pass: `a1 @ weights2`.
        factor: Its local factor, with numbers if they are few.
        name: What comes out of it: `∂L/∂a1`.
        value: That, in numbers if they are few, else its norm.
        mark: What is to be said about it: "first zero", "".
    """

    op: Op | None
    does: str
    factor: str
    name: str
    value: str
    mark: str = ""


@dataclass(slots=True)
class Evidence:
    """A tensor that shows it."""

    name: str
    text: str


@dataclass(slots=True)
class Cause:
    """A cause, with its evidence.

    Attributes:
        headline: The answer in a sentence or two.
        op: The op that is to blame, None if none is.
        reasons: Why, in sentences.
        evidence: The tensors that show it.
        links: The chain from the loss.
        also: What else is to be known.
        cause: For a missing gradient one of the keys of `missing.WORDS`, such as "cut", "unused", "frozen".
        owner: For a frozen parameter, what the program calls the model that has it.
        ops: How many ops were evaluated for it.
    """

    headline: Said
    op: Op | None = None
    reasons: list[Said] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    also: list[Said] = field(default_factory=list)
    advice: Said = field(default_factory=Said)
    cause: str = ""
    owner: str = ""
    ops: int = 0
