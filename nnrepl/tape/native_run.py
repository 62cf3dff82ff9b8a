"""Native run: what of a native run is kept beside its tape, so that it can be run forward without computing."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nnrepl.tape.passes import GRADIENT_PASS, Pass


class KeptPoint(Protocol):
    """A moment of which the program's tensors are kept.

    Attributes:
        number: How many gradient calls had been made before it.
    """

    number: int


@dataclass(frozen=True, slots=True)
class ClosedCall:
    """A call as it was before its step was opened.

    Attributes:
        kind, title: Of its pass.
        by_hand: Whether weights were updated by hand behind it.
        loss: What it differentiated, if that was known.
    """

    kind: str
    title: str
    by_hand: bool
    loss: Any


@dataclass(frozen=True, slots=True)
class OpenedStep:
    """A step that ran natively and has been opened; it can be closed again.

    Attributes:
        number: Its number.
        start, end: Where on the tape the ops lie that took the place of its calls.
        calls: What stood there.
    """

    number: int
    start: int
    end: int
    calls: tuple[ClosedCall, ...]


Answer = tuple[str, Any]
"""What the program asked of a tensor (`array.item`), and what it was told."""


class NativeRun:
    """What the program read from tensors while it ran natively, and the restart points of that run.

    Attributes:
        points: The restart points in order.
    """

    def __init__(self) -> None:
        self.points: list[KeptPoint] = []
        self._numbers, self._starts = array("q"), array("q")
        self._asked: list[str] = []
        self._told: list[Any] = []
        self._tape_seen = self._calls = 0

    def calls(self, passes: Sequence[Pass]) -> int:
        """How many gradient calls there are among the passes of a tape, always the same one that grows."""
        if self._tape_seen > len(passes):
            self._tape_seen = self._calls = 0
        for pass_ in passes[self._tape_seen :]:
            self._calls += pass_.kind == GRADIENT_PASS
        self._tape_seen = len(passes)
        return self._calls

    def begins(self, number: int) -> None:
        """Note that a gradient call is about to be made natively, after so many others: what is told from here on is
        kept under it."""
        if self._numbers and self._numbers[-1] >= number:
            self._cut(number)
        self._numbers.append(number)
        self._starts.append(len(self._told))

    def tell(self, how: str, answer: Any) -> None:
        """Note what the program has been told natively."""
        if self._starts and len(self._told) - self._starts[-1] <= _MANY:
            self._asked.append(how)
            self._told.append(answer if _is_small(answer) else UNKEPT)

    def told(self, number: int) -> Sequence[Answer]:
        """Return what the program was told from a gradient call on up to the next one."""
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            return ()
        start, end = self._starts[at], self._starts[at + 1] if at + 1 < len(self._starts) else len(self._told)
        return list(zip(self._asked[start:end], self._told[start:end]))

    def before(self, number: int) -> NativeRun:
        """Return what is kept from before a number of gradient calls."""
        twin = NativeRun()
        twin.points = [point for point in self.points if point.number < number]
        twin._numbers, twin._starts = self._numbers[:], self._starts[:]
        twin._asked, twin._told = self._asked[:], self._told[:]
        twin._cut(number)
        return twin

    def _cut(self, number: int) -> None:
        """Forget what was told from a gradient call on, and later."""
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers):
            return
        start = self._starts[at]
        del self._numbers[at:], self._starts[at:], self._asked[start:], self._told[start:]


def count_calls(passes: Sequence[Pass]) -> int:
    """How many gradient calls of the top level there are among some passes."""
    return sum([pass_.kind == GRADIENT_PASS for pass_ in passes])


UNKEPT = object()
"""Stands for an answer that is too large to be kept."""
_MANY = 256
"""So many answers from one gradient call to the next are kept; of a program that asks more, no more is known."""
_FEW = 64


def _is_small(answer: Any) -> bool:
    if isinstance(answer, (bool, int, float, complex)):
        return True
    if isinstance(answer, str):
        return len(answer) <= 16 * _FEW
    if isinstance(answer, list):
        return _numbers(answer) <= _FEW
    return getattr(answer, "nbytes", 16 * _FEW) <= 8 * _FEW and hasattr(answer, "copy")


def _numbers(answer: list[Any]) -> int:
    return sum([_numbers(part) if isinstance(part, list) else 1 for part in answer[: _FEW + 1]])
