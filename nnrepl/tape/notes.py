"""Notes: what is known about ops and values, beside the list of ops that a tape is.

All timelines of a session share one `Notes`: an op or a value that lies on several of them is the same object on each,
and what is known about it is known on all. What belongs to one timeline only (its ops, passes, marks, holes, the
bindings, where compiled functions ran) stands on its `Tape`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.tape.op import Op
from nnrepl.tape.passes import Inside
from nnrepl.tape.value import Leaf, Value, sketch_of

KEPT: dict[str, type | None] = {"errors": BaseException, "edits": Value, "inserted": None, "belonging": Op}
"""The notes about ops that a saved tape keeps, and what is noted there (None: nothing but the op itself). `streams`,
`structures` and `inside` say how an op is called again, which a loaded tape refuses."""


_THEMSELVES: dict[Any, Any] = {}


@dataclass(eq=False, slots=True)
class Notes:
    """What is known about ops and values. Timelines share it.

    Attributes:
        labels: The path or argument name of values that came in by one.
        leaves: The leaf that came in last with an array object, by the `id` that it had; it may hold another one now.
        aliases: Values that are another value in MLX's own graph.
        sketches: Shape and dtype of values whose array is not held.
        dropped: Values whose array the tape has let go of (others may not be built yet).
        restored: Values that were dropped and are back because somebody looks.
        errors: What ops raised.
        streams: The stream or device of ops that ran on another than the default one.
        structures: What an op returned that returned more than one array: a tree with slots for arrays.
        belonging: Ops that a custom function's own backward pass made, and its forward op.
        edits: Ops that the user made in order to change a value, and the value that they changed.
        inserted: All ops that came from the user and not from the program.
        following: Those of them that stand after a gradient call, before the program's line that makes the next op.
        typed: Ops that a line of the user's has made, which the program runs as one of its own.
        awaited: Ops for whose results the program waited when a line was typed before them that was done at once, and
            those that have been made in their place.
        forced: Results of nested transforms that the program has evaluated before the backward pass.
        looked: Values that the program has evaluated by other means than MLX's own (NumPy) before the backward pass.
        glimpsed: Places (indices) whose numbers nnrepl has looked at before the program has.
        read: Calls of nested transforms, and what from outside was evaluated while they ran.
        cut: Values at which MLX's graph ended when the backward pass began (see `nnrepl.record.cuts`).
        unlinked: Calls of nested transforms, and of their arguments those that no gradient reaches through them.
        carried: Values that a function takes where MLX runs it once more (a checkpoint in a nested gradient), and not
            in its first run.
        from_closed: Leaves that stand for what was made in steps that have been closed since.
        updates: Ops of updates, lazy when they were looked at last, for which MLX may write over an operand: by that it
            chooses how the result lies in memory.
        inside: Ops of which the places that they take have been looked at and lie inside of their axes.
        calls: The ops of calls that MLX ran by itself, and what happened inside of them.
        entered: What stands inside of such calls for the arrays that went in, and in which.
        mapped: Ops inside of a `vmap` whose results differ from sample to sample, and in which ones they lie, outermost
            first.
    """

    labels: dict[Value, str] = field(default_factory=dict)
    leaves: dict[int, Leaf] = field(default_factory=dict)
    aliases: dict[Value, Value] = field(default_factory=dict)
    sketches: dict[Value, tuple[tuple[int, ...], mx.Dtype]] = field(default_factory=dict)
    dropped: set[Value] = field(default_factory=set)
    restored: list[Value] = field(default_factory=list)
    errors: dict[Op, BaseException] = field(default_factory=dict)
    streams: dict[Op, Any] = field(default_factory=dict)
    structures: dict[Op, Any] = field(default_factory=dict)
    belonging: dict[Op, Op] = field(default_factory=dict)
    edits: dict[Op, Value] = field(default_factory=dict)
    inserted: set[Op] = field(default_factory=set)
    following: set[Op] = field(default_factory=set)
    typed: set[Op] = field(default_factory=set)
    awaited: set[Op] = field(default_factory=set)
    forced: set[Value] = field(default_factory=set)
    looked: set[Value] = field(default_factory=set)
    updates: list[Op] = field(default_factory=list)
    glimpsed: set[Value] = field(default_factory=set)
    read: dict[Op, tuple[Value, ...]] = field(default_factory=dict)
    cut: set[Value] = field(default_factory=set)
    unlinked: dict[Op, frozenset[Value]] = field(default_factory=dict)
    carried: set[Value] = field(default_factory=set)
    from_closed: set[Value] = field(default_factory=set)
    inside: set[Op] = field(default_factory=set)
    calls: dict[Op, Inside] = field(default_factory=dict)
    entered: dict[Value, Inside] = field(default_factory=dict)
    mapped: dict[Op, tuple[Inside, ...]] = field(default_factory=dict)

    # -- the same op again ---------------------------------------------------------------------------------

    def carry(self, old: Op, new: Op, now: Mapping[Any, Any] = _THEMSELVES) -> None:
        """Note of an op that calls again what another one called, on whatever values: how it is called.

        Args:
            now: The ops and values that have others in their place where the new op lies, with those.
        """
        if old in self.streams:
            self.streams[new] = self.streams[old]
        if old in self.structures:
            self.structures[new] = self.structures[old]
        if old in self.mapped:
            self.mapped[new] = self.mapped[old]
        if old in self.belonging:
            root = self.belonging[old]
            self.belonging[new] = now.get(root, root)

    def carry_all(self, old: Op, new: Op, now: Mapping[Any, Any] = _THEMSELVES) -> None:
        """Note of an op that is another one again, on another tape or in a second run: all that happened there too."""
        self.carry(old, new, now)
        if old in self.calls:
            self.calls[new] = self.calls[old]
        if old in self.read:
            self.read[new] = self.read[old]
        if old in self.errors:
            self.errors[new] = self.errors[old]
        if old in self.edits:
            target = self.edits[old]
            self.edits[new] = now.get(target, target)
        if old in self.inserted:
            self.inserted.add(new)
        if old in self.following:
            self.following.add(new)
        if old in self.typed:
            self.typed.add(new)

    def carry_value(self, old: Value, new: Value, image: Callable[[Value], Value] | None = None) -> None:
        """Note of a value that stands for another one: its label, and its shape where it has no array either.

        Args:
            image: Gives what stands for the value that the old one is in MLX's own graph; None: that is not known.
        """
        if old in self.labels:
            self.labels[new] = self.labels[old]
        if new.held is None:
            self.sketches[new] = sketch_of(old)
            if old in self.dropped:
                self.dropped.add(new)
        if image is not None and old in self.aliases:
            self.aliases[new] = image(self.aliases[old])

    def keep(self, ops: Collection[Op], values: Collection[Value]) -> None:
        """Let go of what is noted of any other ops and values."""
        of_ops, of_values = self._tables()
        for table, known in (*((table, ops) for table in of_ops), *((table, values) for table in of_values)):
            for key in [key for key in table if key not in known]:
                del table[key]
        for noted in (self.inserted, self.following, self.typed, self.awaited, self.inside):
            noted.intersection_update(ops)
        for marked in self._marked():
            marked.intersection_update(values)
        self.restored[:] = [value for value in self.restored if value in values]
        for key in [key for key, leaf in self.leaves.items() if leaf not in values]:
            del self.leaves[key]

    def forget(self, ops: Collection[Op], values: Collection[Value]) -> None:
        """Let go of what is noted of some ops and values."""
        of_ops, of_values = self._tables()
        for table, gone in (*((table, ops) for table in of_ops), *((table, values) for table in of_values)):
            if table:
                for key in gone:
                    table.pop(key, None)
        for noted in (self.inserted, self.typed, self.awaited, self.inside):
            noted.difference_update(ops)
        for marked in self._marked():
            marked.difference_update(values)
        known, gone = set(values), set(ops)
        self.updates = [op for op in self.updates if op not in gone]
        self.restored[:] = [value for value in self.restored if value not in known]
        for at in [at for at, leaf in self.leaves.items() if leaf in known]:
            del self.leaves[at]

    def _tables(self) -> tuple[tuple[dict[Any, Any], ...], tuple[dict[Any, Any], ...]]:
        """Return what is noted of ops, and of values."""
        of_ops = (self.errors, self.streams, self.structures, self.belonging, self.edits, self.read, self.unlinked,
                  self.calls, self.mapped)  # fmt: skip
        return of_ops, (self.labels, self.aliases, self.sketches, self.entered)

    def _marked(self) -> tuple[set[Value], ...]:
        return self.dropped, self.forced, self.looked, self.glimpsed, self.cut, self.carried, self.from_closed

    # -- files ---------------------------------------------------------------------------------------------

    def rows(self, ops: Sequence[Op]) -> Iterator[tuple[str, list[tuple[Op, Any]]]]:
        """Yield what a saved tape keeps: the name of each note, and the ops of a tape of which something is noted
        there, with that (None where the op says it all). An op that lies on another tape is left out."""
        for name in KEPT:
            table = getattr(self, name)
            noted = [(op, table[op] if isinstance(table, dict) else None) for op in ops if op in table]
            yield name, [(op, thing) for op, thing in noted if not isinstance(thing, Op) or _lies(thing, ops)]

    def enter(self, name: str, op: Op, thing: Any) -> None:
        """Note what `rows` gave, of an op of another tape."""
        table = getattr(self, name)
        if isinstance(table, dict):
            table[op] = thing
        else:
            table.add(op)


def _lies(op: Op, ops: Sequence[Op]) -> bool:
    """Whether an op is one of a tape's."""
    return op.position < len(ops) and ops[op.position] is op
