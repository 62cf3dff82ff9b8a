"""Leavings: arrays made inside of a call that MLX ran by itself, which the program has kept.

A statistic of a normalization in a nested loss, a tensor appended to a list: MLX's graph goes on from it. When the
program takes it outside, it becomes one more result of the call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.tape import Inside, Op, Tape, Value
from nnrepl.tape.passes import outermost

if TYPE_CHECKING:
    from types import FrameType

Mark = tuple[Any, int, int]
"""Which array it is: the code and the offset of the op that made it, and how often that had run; "handed", and which
one, if MLX has handed it to the function; "block", which run and which one, if it is a function in it that it got."""

Block = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function of the program's, and what it was called with."""


def mark_of_handed(number: int) -> Mark:
    """Return the mark of an array that MLX has handed to the function of a call."""
    return "handed", number, 0


class Sheet(Tape):
    """Has what a function does that MLX runs once more (a checkpoint in a nested gradient); the tape has its first run.

    Attributes:
        call: The outermost of the calls around that function, on the tape.
    """

    def __init__(self, tape: Tape, call: Inside) -> None:
        super().__init__(tape.names, tape.notes)
        self.call = call
        call.sheets.append(self)


def call_around(pass_: Inside) -> Inside:
    """Return the outermost of the calls in which something lies that is made inside, or where a function runs once
    more."""
    return pass_.tape.call if isinstance(pass_.tape, Sheet) else outermost(pass_)


def lies_in(value: Value, call: Inside) -> bool:
    """Whether a value was made inside of a call, or where a function in it ran once more."""
    if isinstance(value.tape, Sheet):
        return value.tape.call is call
    pass_ = value.inside
    return pass_ is not None and outermost(pass_) is call


class Leavings:
    """What the program has kept of what was made inside.

    Attributes:
        kept: Each array that is still there, by `id`, and what it is inside.
        made: In a run that follows a tape: what is made inside now.
        blocks: There, too: the functions in the call that may run more than once, with what they got, by their first
            run.
    """

    def __init__(self) -> None:
        self.kept: dict[int, tuple[weakref.ref[mx.array], Value]] = {}
        self.made: dict[Mark, weakref.ref[mx.array]] | None = None
        self.blocks: dict[int, Block] = {}
        self._counts: dict[tuple[Any, int], int] = {}
        self._runs = 0

    def keep(self, arrays: Iterable[tuple[weakref.ref[mx.array], Value]]) -> None:
        """Keep what is still there of what was made inside of a call that is over."""
        for reference, value in arrays:
            array = reference()
            if array is not None:
                # When it dies its `id` may become another array's: the entry goes with it.
                self.kept[id(array)] = weakref.ref(array, self._forgetter(id(array))), value

    def _forgetter(self, key: int) -> Callable[[Any], Any]:
        return lambda _: self.kept.pop(key, None)

    def follow(self) -> Any:
        """Begin to note what is made inside of a call that is on the tape. Returns what `followed` takes."""
        before = self.made, self._counts, self.blocks, self._runs
        self.made, self._counts, self.blocks, self._runs = {}, {}, {}, 0
        return before

    def followed(self, before: Any) -> tuple[dict[Mark, weakref.ref[mx.array]], dict[int, Block]]:
        """End that. Returns what was made inside, and the functions in it that may run more than once."""
        found = self.made or {}, self.blocks
        self.made, self._counts, self.blocks, self._runs = before
        return found

    def begins(self, block: Block, arrays: Sequence[mx.array], first: bool) -> None:
        """Note that a function begins that may run more than once: what MLX has handed to it."""
        if first:
            # Only the first run has what the program gave: in its VJP MLX runs the function on tracers of its own
            # (`checkpoint` in mlx/transforms.cpp: `vjp(fun, depends(primals, outputs), cotangents)`).
            self.blocks[self._runs] = block
        if self.made is not None:
            self.made.update((("block", self._runs, at), weakref.ref(array)) for at, array in enumerate(arrays))
        self._runs += 1

    def note(self, frame: FrameType, result: Any) -> None:
        """Note that a line of the program's has made something inside."""
        place = frame.f_code, frame.f_lasti
        number = self._counts[place] = self._counts.get(place, -1) + 1
        assert self.made is not None  # whoever notes has asked
        if type(result) is mx.array:
            self.made[*place, number] = weakref.ref(result)


def mark_of(pass_: Inside, value: Value) -> Mark | None:
    """Which of the arrays that are made inside of a call it is. What a call in there has left is known by where it was
    made: that call is not on its own when MLX runs the whole again."""
    # Each run gets new tracers (`make_tracer` in mlx/transforms.cpp): it is known by its place among them.
    if value in pass_.leaves:
        return mark_of_handed(pass_.leaves.index(value))
    op = (value := _made(value)).op
    around = value.inside
    if op is None and around is not None and around.number_of_run >= 0:
        return "block", around.number_of_run, around.leaves.index(value)
    if op is None or op.scope is None:
        return None
    before = [
        other
        for other in _ops_before(pass_, op)
        if other.lasti == op.lasti and other.scope is not None and other.scope.code is op.scope.code
    ]
    return op.scope.code, op.lasti, len(before)


def marked(pass_: Inside, mark: Mark) -> Value | None:
    """Return the array of a call that has a mark, where an op has made it that made nothing else."""
    code, lasti, count = mark
    ops = pass_.tape.ops[pass_.start : pass_.end]
    found = [op for op in ops if op.lasti == lasti and op.scope is not None and op.scope.code is code]
    return found[count].outputs[0] if count < len(found) and len(found[count].outputs) == 1 else None


def _ops_before(pass_: Inside, op: Op) -> list[Op]:
    """Return the ops of a call that were made before one: what runs once more runs when its first runs are over."""
    if not isinstance(op.tape, Sheet):
        return op.tape.ops[pass_.start : op.position]
    earlier = pass_.sheets[: pass_.sheets.index(op.tape)] if op.tape in pass_.sheets else []
    return [*pass_.ops, *(other for sheet in earlier for other in sheet.ops), *op.tape.ops[: op.position]]


def _made(value: Value) -> Value:
    """Return what a value is where it was made: inside of the call that has left it, if one has."""
    op = value.op
    recipe = None if op is None else getattr(op.operation.run, "recipe", None)
    if op is None or recipe is None:
        return value
    left = value.slot - len(op.outputs) + len(recipe.kept)
    return value if left < 0 else _made(recipe.kept[left])
