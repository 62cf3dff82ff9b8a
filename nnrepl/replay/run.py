"""Run: what has to run again, and for what."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from nnrepl.classes import dataclass
from nnrepl.tape import Op, OpenedStep, Tape, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Run:
    """What has to run again.

    Attributes:
        old: The tape as it is.
        position: From where on something else happens.
        ops: What the user put in at that place.
        cursor: Where the user is to stand afterwards.
        pass_number: In which pass they are to stand instead, by its number, where other ops may come before; 0: none.
        recoded: Whether the program runs other source from the position on: whatever it does there is right.
        opened: The numbers of steps of which every op is to be recorded: they are closed on the old tape.
        closing: Steps that were opened before, and are to be closed again.
        behind: How many ops come from what happens there; the user is to stand after them. None: not known yet.
        forward: Whether what ran natively may be run forward without computing anything.
        losses: Whether the losses of what runs natively are computed, and kept.
        seen: Up to where on the new tape the user has seen what the program prints; by default that is all before
            the position.
    """

    old: Tape
    position: int
    ops: tuple[Op, ...]
    cursor: int
    pass_number: int = 0
    recoded: bool = False
    opened: frozenset[int] = frozenset()
    closing: tuple[OpenedStep, ...] = ()
    seen: int | None = None
    behind: Callable[[], int | None] | None = None
    forward: bool = True
    losses: bool = False

    @classmethod
    def opening(
        cls, old: Tape, steps: frozenset[int], cursor: int, closing: tuple[OpenedStep, ...], losses: bool
    ) -> Run:
        """Return a run along all of a tape, in which some steps that are closed on it are recorded."""
        return cls(old, len(old), (), cursor, opened=old.whole(steps), closing=closing, seen=sys.maxsize,
                   forward=not losses, losses=losses)  # fmt: skip

    def computing(self) -> Run:
        """Return the same once more, in which nothing is run forward without computing it."""
        for op in self.ops:
            for value in op.outputs:
                value.op = op  # not what stood for it on the tape of the run that failed
        return replace(self, forward=False)

    def stands(self) -> int | None:
        """Where on the new tape the user is to stand; None while that is not known."""
        if self.behind is None or self.cursor < self.position:
            return self.cursor
        more = self.behind()
        return None if more is None else self.cursor + more

    def is_noticed(self, recorder: Recorder, was: Mapping[Value, Value]) -> bool:
        """Whether the program can know of the edit: it has read a number that depends on it, got another shape or an
        exception.

        Args:
            was: What is the same as on the tape before.
        """
        start = self.position
        if self.recoded:
            return True
        edited = [(op.outputs[0], self.old.notes.edits[op]) for op in self.ops if op in self.old.notes.edits]
        if any([(new.shape, new.dtype) != (old.shape, old.dtype) for new, old in edited]):
            return True
        if any([start <= op.position for op in recorder.tape.notes.errors if op.position < len(recorder.tape)]):
            return True
        read = [value for mark in recorder.tape.marks if mark.position >= start for value in mark.values]
        if any([value not in was and (value.op is None or value.op.position >= start) for value in read]):
            return True
        new = [op for op in recorder.tape.ops[start:] if op.inputs and op not in self.old.notes.inserted]
        made = [value for op in new for value in op.outputs if value not in was and value.held is not None]
        return any([value.evaluated for value in made])  # by the program: NumPy reads numbers without a call of MLX's

    @property
    def expected(self) -> list[Op]:
        """The ops that the new tape begins with."""
        return [*self.old.ops[: self.position], *self.ops]


class Changing(Protocol):
    """What changes in the program on the way."""

    def reach(self, position: int, *, entering: bool = False, alive: bool = True, due: bool = False) -> None:
        """Note that the program has come to a position of the tape."""

    def has_line(self, start: int, end: int, passing: bool = False) -> bool:
        """Whether a line is to run from one position on, before another; one that only changes a tensor (`passing`)."""


class Unchanging:
    """Nothing changes on the way."""

    def reach(self, position: int, *, entering: bool = False, alive: bool = True, due: bool = False) -> None:
        """Do nothing."""

    def has_line(self, start: int, end: int, passing: bool = False) -> bool:
        """Say that none is to run."""
        return False
