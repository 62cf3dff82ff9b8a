"""History: which values of old passes are kept, so that a long run stays within a budget of bytes.

Ops are never forgotten, so every value can be computed again, bit for bit, from older values that are kept. As
with rr's checkpoints these lie close together near the present and thin out towards the past: what passes hand
on to each other (parameters, optimizer state) stays at a few passes, at distances that double.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from nnrepl.tape import Pass, Tape, Value

RECENT = 2
"""So many of the newest passes are never touched: the program is still at work on them."""


class History:
    """Keeps the evaluated values of a tape within a budget.

    Args:
        tape: The tape.
        budget: In bytes.
        drop: Lets go of a value's array.

    Attributes:
        dropped: How many values have been dropped.
        bytes: What is held by the values of the passes that have been looked through.
    """

    def __init__(self, tape: Tape, budget: int, drop: Callable[[Value], None]) -> None:
        self.tape = tape
        self.budget = budget
        self.dropped = 0
        self.bytes = 0
        self._drop = drop
        self._sizes: list[tuple[Pass, int]] = []
        self._seen = 0
        self._thinned = 0
        self._noted = 0
        self._handed_on: set[Value] = set()

    def trim(self) -> None:
        """A pass begins: take in those that have become old, and drop what is too much."""
        ready = len(self.tape.passes) - RECENT
        while self._seen < ready:
            part = self.tape.passes[self._seen]
            size = self._take_in(part)
            self._sizes.append((part, size))
            self.bytes += size
            self._seen += 1
        if self.bytes <= self.budget:
            return
        self._note_handed_on()
        for at in range(self._thinned, len(self._sizes)):
            if self.bytes <= self.budget:
                return
            self._release(at, keep=self._handed_on)
            self._thinned = at + 1
        for at in self._superfluous():
            if self.bytes <= self.budget:
                return
            self._release(at, keep=frozenset())

    def _take_in(self, part: Pass) -> int:
        """The bytes that the evaluated values of a pass hold."""
        return sum(
            value.held.nbytes for op in part.ops for value in op.outputs if value.evaluated and value.held is not None
        )

    def _note_handed_on(self) -> None:
        """The values that later passes begin with."""
        passes = self.tape.passes
        fresh, self._noted = passes[self._noted : -1], max(len(passes) - 1, 0)  # the last one has just begun
        for part in fresh:
            for leaf in part.wrt:
                if leaf.origin is not None:
                    self._handed_on.add(leaf.origin)
            for op in part.ops:
                for value in op.inputs:
                    if value.op is not None and value.op.position < part.start:
                        self._handed_on.add(value)

    def _release(self, at: int, keep: set[Value] | frozenset[Value]) -> None:
        part, size = self._sizes[at]
        left = 0
        for op in part.ops:
            if op.operation.kind == "data":
                continue  # the op itself holds it
            for value in op.outputs:
                if value.held is None:
                    continue
                if value in keep:
                    left += value.held.nbytes if value.evaluated else 0
                else:
                    self._drop(value)
                    self.dropped += 1
        self._sizes[at] = (part, left)
        self.bytes -= size - left

    def _superfluous(self) -> list[int]:
        """The passes whose handed-on values may go, the oldest first. At a distance of 2^k and more from the
        present only every 2^k-th is kept, so that one that is kept later was kept before."""
        newest = len(self._sizes)
        return [at for at in range(1, newest) if self._sizes[at][1] and at % (1 << ((newest - at).bit_length() - 1))]


def default_budget() -> int:
    """A quarter of the machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def parse_size(text: str) -> int:
    """`500M` or `2GB` in bytes. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2].upper()])
