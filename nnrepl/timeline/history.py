"""History: which values of old passes are kept, so that a long run stays within a budget of bytes.

Ops are never forgotten, so every value can be computed again, bit for bit, from older values that are kept. As
with rr's checkpoints these lie close together near the present and thin out towards the past: what passes hand
on to each other (parameters, optimizer state) stays at a few passes, at distances that double. Where even these are
more than the budget, the oldest go first. What is one number (a loss) stays, it costs nothing.
"""

from __future__ import annotations

import os
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

import mlx.core as mx

from nnrepl.record.kept_number import KeptNumber
from nnrepl.tape import Leaf, Op, Tape, Value
from nnrepl.tape.lasting import lasting

_copy = mx.array.__copy__

RECENT = 2
"""So many of the newest stretches make a step: nobody knows yet what of them is handed on, so what the program still
holds is kept; and the step that comes will need as much room as they did."""

OPS = 4
"""Such a part of the budget is for what is known of ops beside their numbers."""

SHARE = 8
"""Where no gradient pass begins, a stretch ends when it holds such a part of the budget."""


class History:
    """Keeps the evaluated values of a tape within a budget.

    Args:
        tape: The tape.
        budget: In bytes.
        drop: Lets go of a value's array.
        shared: Tells of which values the program holds the content by array objects of its own.

    Attributes:
        dropped: How many values have been dropped.
        bytes: What is held by the values of the stretches that have been looked through.
        due: At which length of the tape its oldest steps are to be closed.
    """

    def __init__(
        self, tape: Tape, budget: int, drop: Callable[[Value], None], shared: Callable[[], set[Value]]
    ) -> None:
        self.tape = tape
        self.budget = budget
        self.dropped = 0
        self.bytes = 0
        self._drop = drop
        self._shared = shared
        self._sizes: dict[int, int] = {}
        self._starts: list[int] = []
        self._end = 0
        self._thinned = 0
        self._noted = 0
        self._noted_passes = 0
        self._handed_on: set[Value] = set()
        self._leaves: dict[Value, list[Value]] = {}
        self._measured = self._evaluated = 0
        self._grown = 0
        self.due = self._remnants = 0
        self._spare: list[Value] = []
        self._looked_at = 0

    def cut(self, start: int, end: int, moved: Callable[[int], int], spare: Sequence[Value]) -> None:
        """Note that ops have been closed between two positions, which lie elsewhere now.

        Args:
            spare: What stands for values made there that variables held and no later op has taken.
        """
        # The stretches stay as many as they were: which are kept goes by their numbers.
        for at, (begin, stop) in enumerate(zip(self._starts, [*self._starts[1:], self._end])):
            if start <= begin and stop <= end:
                self.bytes -= self._sizes.pop(at, 0)
        self._starts = [*map(moved, self._starts)]
        self._end, self._measured, self._evaluated = moved(self._end), moved(self._measured), moved(self._evaluated)
        self._noted_passes = max(len(self.tape.passes) - 1, 0)
        known = {value for op in self.tape.ops for value in op.inputs}
        self._handed_on &= known
        self._spare = [leaf for leaf in {*self._spare, *spare} - _with_older(known) if _bytes(leaf)]
        self._looked_at = len(self.tape.ops)
        self._remnants = sum([_bytes(leaf) for leaf in self.tape.notes.from_closed])
        kept = {leaf for pass_ in self.tape.passes for leaf in pass_.wrt}
        self._leaves = {origin: alive for origin, leaves in self._leaves.items()
                        if (alive := [leaf for leaf in leaves if leaf in kept and leaf.origin is origin])}  # fmt: skip

    def evaluated(self) -> None:
        """Drop what is too much before the program evaluates, if a good part of the budget has come to be held since
        the last time. What the program asked for before is there by now; what it asks for now comes to be."""
        ops, reached = self.tape.ops, len(self.tape.ops)
        self._grown += sum([_bytes(value) for op in ops[self._measured : self._evaluated] for value in op.outputs])
        coming = ops[self._evaluated :]
        self._measured, self._evaluated = max(self._measured, self._evaluated), reached
        size = sum([value.held.nbytes for op in coming for value in op.outputs if value.held is not None])
        if (self._grown + size) * SHARE <= self.budget:
            return
        if self._grown * SHARE > self.budget:
            self.trim()
        if self.bytes + self._grown + size > self._all_room():
            self._forgo(coming)

    def _all_room(self) -> int:
        """How many bytes the results of ops may hold: a part of the budget is for what else is known of them; what
        points take is taken, and what stands for what was made in closed steps."""
        points = sum([point.nbytes for point in self.tape.kept.points])
        return self.budget - self.budget // OPS - points - self._remnants

    def _forgo(self, coming: list[Op]) -> None:
        """Let go of what is about to be computed and the program does not hold, while it is lazy: MLX then reuses each
        buffer as soon as it can, as in plain Python, where the tape would hold a whole step's at once."""
        shared = self._held_elsewhere()
        for op in coming:
            if op.operation.kind == "data":
                continue
            for value in op.outputs:
                if value.held is not None and value.size > 1 and not self._is_held(value, shared):
                    self._let_go(value)

    def trim(self) -> None:
        """Take a stretch in that ends, since a gradient pass begins or much is held, and drop what is too much. What
        that takes does not depend on how long the run has been."""
        reached = len(self.tape.ops)
        if reached > self._end:
            self._starts.append(self._end)
            self._end = self._measured = reached
        self._grown = 0
        lasting.budget = min(lasting.MOST, self.budget // SHARE)
        self._note_leaves()
        self._let_go_of_spare()
        count = len(self._starts)
        recent = range(max(count - RECENT, 0), count)
        for at in range(max(count - RECENT - 1, self._thinned), count):  # some of it has been evaluated meanwhile
            self._resize(at, sum([_bytes(value) for op in self._ops(at) for value in op.outputs]))
        room = self._all_room() - sum([self._sizes.get(at, 0) for at in recent])
        if self.bytes <= room:
            return
        room = room * 9 // 10  # so that not every pass has to look through all that is kept
        self._note_handed_on()
        while self.bytes > room and self._thinned < recent.start:
            self._release(self._thinned, keep=self._handed_on)
            self._thinned += 1
        for at in recent:
            if self.bytes > room:
                self._release(at, keep=self._handed_on, and_held=True)
        for at in (*self._superfluous(recent.start), *sorted(self._sizes)):
            if self.bytes <= room or at >= recent.start:
                break
            self._release(at, keep=frozenset())
        for at in recent:  # last of all: no step could be computed again from here on
            if self.bytes > room:
                self._release(at, keep=frozenset(), and_held=True)

    def _ops(self, at: int) -> list[Op]:
        """Return the ops of a stretch."""
        end = self._starts[at + 1] if at + 1 < len(self._starts) else self._end
        return self.tape.ops[self._starts[at] : end]

    def _resize(self, at: int, size: int) -> None:
        """Note that a stretch holds so many bytes now."""
        self.bytes += size - self._sizes.pop(at, 0)
        if size:
            self._sizes[at] = size

    def _note_handed_on(self) -> None:
        """Note the values that later stretches begin with: parameters, the optimizer's state, what a loop carries
        on."""
        for at in range(self._noted, len(self._starts)):
            start = self._starts[at]
            for op in self._ops(at):
                for value in op.inputs:
                    if value.op is not None and value.op.position < start:
                        self._handed_on.add(value)
        self._noted = len(self._starts)

    def _note_leaves(self) -> None:
        """Note the leaves of the passes since the last time, by what they continue."""
        passes = self.tape.passes
        fresh, self._noted_passes = passes[self._noted_passes :], max(len(passes) - 1, 0)
        for leaf in [leaf for pass_ in fresh for leaf in pass_.wrt]:
            if leaf.origin is not None and leaf not in self._leaves.get(leaf.origin, ()):
                self._handed_on.add(leaf.origin)
                self._leaves.setdefault(leaf.origin, []).append(leaf)
                self._bring_back(leaf, leaf.origin)

    def _let_go_of_spare(self) -> None:
        """Let go of what only variables held where closed steps ended (as a rule gradients), once the program holds it
        no more, if that is much: no op takes it."""
        if sum(map(_bytes, self._spare)) * SHARE <= self.budget:
            return
        shared = self._held_elsewhere()
        taken = _with_older([value for op in self.tape.ops[self._looked_at :] for value in op.inputs])
        self._looked_at = len(self.tape.ops)
        self._spare = [leaf for leaf in self._spare if leaf not in taken and leaf not in self._leaves]
        for leaf in self._spare:
            if leaf not in shared:
                self._remnants -= _bytes(leaf)
                self._drop(leaf)
        self._spare = [leaf for leaf in self._spare if leaf in shared]

    def _bring_back(self, leaf: Value, older: Value | None) -> None:
        """Count again what had been dropped before a leaf continued it: the array is there."""
        while older is not None and older.held is None and older.dropped and leaf.held is not None:
            older.held = _copy(leaf.held)
            if older.op is not None:
                at = bisect_right(self._starts, older.op.position) - 1
                self._resize(at, self._sizes.get(at, 0) + _bytes(older))
            older = older.origin if isinstance(older, Leaf) else None

    def _release(self, at: int, keep: set[Value] | frozenset[Value], and_held: bool = False) -> None:
        """Drop what a stretch holds, but for `keep` and (if so wished) what the program itself holds."""
        left, shared = 0, self._held_elsewhere() if and_held else set()
        for op in self._ops(at):
            if op.operation.kind in ("data", "closed"):
                continue  # the op itself holds it; a closed call's loss no op can make again
            for value in op.outputs:
                if value.held is None:
                    continue
                if (
                    value in keep
                    or (value.size == 1 and value.evaluated)
                    or (and_held and self._is_held(value, shared))
                ):
                    left += _bytes(value)
                else:
                    self._let_go(value)
        self._resize(at, left)

    def _is_held(self, value: Value, shared: set[Value]) -> bool:
        """Whether the program holds a value: its array, that of a leaf which continues it, or another object for it."""
        if value in shared or (value.held is not None and sys.getrefcount(value.held) > _OF_THE_TAPE):
            return True
        return any([self._is_held(leaf, shared) for leaf in self._leaves.get(value, ())])

    def _held_elsewhere(self) -> set[Value]:
        """Return the values that the program holds by objects of its own: what these stand for, and what that
        continues."""
        return _with_older(self._shared())

    def _let_go(self, value: Value) -> None:
        """Drop a value, and the leaves by which later passes hold the same buffer: one continues the other."""
        pending = [value]
        while pending:
            going = pending.pop()
            if going.held is not None:
                self._drop(going)
                self.dropped += 1
            pending.extend(self._leaves.get(going, ()))

    def _superfluous(self, newest: int) -> list[int]:
        """Return the stretches whose handed-on values may go, the oldest first. At a distance of 2^k pairs and more
        from the present only every 2^k-th pair is kept (a step is often two), so that one that is kept later was kept
        before."""
        pairs = [(at, at // 2) for at in sorted(self._sizes) if at > 0 and at // 2 < newest // 2]
        return [at for at, pair in pairs if pair % (1 << ((newest // 2 - pair).bit_length() - 1))]


_OF_THE_TAPE = 2
"""An array that only its value holds has so many references: that one, and the look at it."""


def _with_older(values: Iterable[Value]) -> set[Value]:
    """Return values with what they continue."""
    found: set[Value] = set()
    for value in values:
        older: Value | None = value
        while older is not None and older not in found:
            found.add(older)
            older = older.origin if isinstance(older, Leaf) else None
    return found


def _bytes(value: Value) -> int:
    """Return what a value holds; nothing that counts if it is one number."""
    if type(value) is KeptNumber:
        return 0  # of which a tensor would have to be made
    held = value.held
    return held.nbytes if held is not None and held.size > 1 and value.evaluated else 0


def default_budget() -> int:
    """Return a quarter of the machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def parse_size(text: str) -> int:
    """`500M` or `2GB` in bytes. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2].upper()])
