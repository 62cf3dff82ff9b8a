"""Turns: the turns of the loops of a program that trains or computes by hand, told by its evaluations.

Without a gradient call nothing says where a training step ends. But a program evaluates what a turn of its loop has
made, and where it comes to an evaluation from one further on, or from the same, it has gone through a turn. Only the
places count from which MLX was called, so turns are the same whether ops were recorded or not.
"""

from __future__ import annotations

import dis
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, Protocol

from nnrepl.tape.origins import Activation

Places = tuple[tuple[CodeType, int], ...]
"""Where each of the program's calls stands, the outermost first."""
_WAYS = 64
"""So many ways from one evaluation to the next are remembered: a loop comes by the same ones in each turn."""


class Made(Protocol):
    """An op, as far as it tells where the program stood."""

    @property
    def operation(self) -> Any: ...
    @property
    def scope(self) -> Activation | None: ...
    @property
    def lasti(self) -> int: ...


def places_of(scope: Activation | None, lasti: int) -> Places:
    """Return where a call and those around it stand."""
    found = []
    while scope is not None:
        found.append((scope.code, lasti))
        lasti, scope = scope.lasti, scope.parent
    return tuple(found[::-1])


class Turns:
    """The turns of a run, counted from 1. What comes before the first evaluation belongs to the first, and what comes
    after the last one (the program prints a result) to the last.

    Attributes:
        is_over: Whether MLX has taken gradients since: the program has steps.
        curves: What expressions were at the ends of turns that ran natively, as somebody has asked: by their text, then
            by the turn. What is still `asked` a run along this one has to tell.
        recorded: Where ops are recorded after an evaluation: their position, and the how manyth of the run that was.
    """

    def __init__(self) -> None:
        self.curves: dict[str, dict[int, float]] = {}
        self.asked: set[str] = set()
        self.recorded: dict[int, int] = {}
        self._starts = array("q")
        self._begun, self._ended = 0, (0, 0)
        self.is_over = self._counts = False
        self._last: Places = ()
        self._ways: dict[tuple[int, int], tuple[Places, Places, tuple[bool, bool]]] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def evaluated(self, places: Places, position: int, evaluations: int) -> None:
        """Note that the program forces an evaluation, the how manyth of the run, and where the tape goes on after
        it."""
        if self.is_over:
            return
        last, self._last = self._last, places
        known = self._ways.get((id(last), id(places)))
        ends, again = self._way(last, places) if known is None else known[2]
        if ends:
            if again and not self._counts:
                self._add()  # now it shows that what came before was one
            self._begun, self._counts = self._ended[0], again
            if again:
                self._add()
        self._ended = position, evaluations

    def _way(self, last: Places, places: Places) -> tuple[bool, bool]:
        """Whether an evaluation shows that something is over since the last one, and whether that is a turn of the loop
        in which both stand."""
        same = places == last and not _are_cells(last, places)  # the code of cells is equal where they say the same
        ends = bool(last) and (same or not _is_one_turn(last, places))
        again = ends and (same or not _are_apart(last, places))
        if len(self._ways) >= _WAYS:
            self._ways.clear()
        # Both are held, so that nothing else has their `id`.
        self._ways[id(last), id(places)] = last, places, (ends, again)
        return ends, again

    def move(self, position: int, recorded: bool) -> None:
        """Note that the tape goes on elsewhere after the last evaluation: what follows is closed, or opened, by
        itself."""
        self._ended = position, self._ended[1]
        if recorded:
            self.recorded[position] = self._ended[1]

    def _add(self) -> None:
        self._starts.append(self._begun)

    def stop(self) -> None:
        """Note that MLX takes gradients from here on: the program has steps."""
        self.is_over = True

    def before(self, position: int) -> Turns:
        """Return what is known of the turns that begin before a position."""
        twin, count = Turns(), bisect_right(self._starts, position - 1)
        twin._starts = self._starts[:count]
        twin.is_over = self.is_over
        twin.recorded = {at: number for at, number in self.recorded.items() if at < position}
        return twin

    def start_of(self, number: int, ops: Sequence[Made]) -> int | None:
        """Return the position at which a turn begins, if the tape has it; of one that lies in a closed stretch, that of
        the stretch. The turn after the last one is known from its first op, if that has been recorded."""
        if 0 < number <= len(self._starts):
            return self._starts[number - 1]
        return self._coming(ops) if number == len(self._starts) + 1 else None

    def _coming(self, ops: Sequence[Made]) -> int | None:
        """Return where the turn begins in which the program is, if it has not come to an evaluation of it."""
        at = self._ended[0]
        if self.is_over or not self._counts or at >= len(ops):
            return None
        op = ops[at]
        places = () if op.operation.kind == "closed" else places_of(op.scope, op.lasti)
        return at if places and not _is_one_turn(self._last, places) and not _are_apart(self._last, places) else None

    @property
    def said(self) -> str:
        """Return `, of 2,000 turns (goto turn 2000)`; "" if there are none."""
        return f", of {len(self):,} turns (goto turn {len(self)})" if len(self) else ""

    @property
    def current(self) -> int:
        """The number of the turn to which the last evaluation belongs."""
        return len(self._starts) + (not self._counts)

    def end_of(self, number: int) -> int:
        """Return where on the tape a turn ends, as far as that is known."""
        return self._starts[number] if number < len(self._starts) else self._ended[0]

    def number_at(self, position: int, ops: Sequence[Made]) -> int:
        """Return the number of the turn in which a position lies; 0 if it lies in none that is known."""
        number = bisect_right(self._starts, position)
        if self.is_over and position >= self._ended[0]:
            return 0
        coming = self._coming(ops) if number == len(self._starts) and position >= self._ended[0] else None
        return number + (coming is not None)


def _split(before: Places, after: Places) -> tuple[int, bool]:
    """Return in which of the calls around two places they part, and whether it is one call at different places: else
    it has been called twice from one place, or is another function."""
    for depth, (one, other) in enumerate(zip(before, after)):
        if one != other:
            return depth, one[0] is other[0]
    return min(len(before), len(after)), False


def _are_cells(before: Places, after: Places) -> bool:
    """Whether two places have nothing around them in common, not even the program: cells of a notebook, or lines at the
    prompt. One comes after the other, and no loop goes around both."""
    return bool(before and after) and before[0][0] is not after[0][0]


def _is_one_turn(before: Places, after: Places) -> bool:
    """Whether the program came from an evaluation to another without another turn of a loop in which both stand."""
    depth, same = _split(before, after)
    if _are_cells(before, after):
        return not _are_apart(before, after)
    if not same:
        return False
    code, start, end = before[depth][0], before[depth][1], after[depth][1]
    return start < end and leads(code, start, end, outwards=True) and not _are_apart(before, after)


def _are_apart(before: Places, after: Places) -> bool:
    """Whether each of two evaluations stands in a loop in which the other does not."""
    depth, same = _split(before, after)
    if _are_cells(before, after):
        return all(any(is_in_own_loop(*place, None) for place in places) for places in (before, after))
    if not same:
        return False
    code, start, end = before[depth][0], before[depth][1], after[depth][1]
    first = any(is_in_own_loop(*place, None) for place in before[depth + 1 :]) or is_in_own_loop(code, start, end)
    second = any(is_in_own_loop(*place, None) for place in after[depth + 1 :]) or is_in_own_loop(code, end, start)
    return first and second


# -- where control may go in a function, as its bytecode tells ---------------------------------------------


@lru_cache(maxsize=1024)
def _flow(code: CodeType) -> tuple[dict[int, tuple[int, ...]], tuple[tuple[int, int], ...]]:
    """Where control may go from each instruction, jumps back left out; and the stretches that these jump over."""
    instructions = list(dis.get_instructions(code))
    onward: dict[int, tuple[int, ...]] = {}
    loops: list[tuple[int, int]] = []
    for instruction, following in zip(instructions, [*instructions[1:], None]):
        name, at = instruction.opname, instruction.offset
        jumps = instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs
        back = jumps and instruction.argval <= at
        if back and "NO_INTERRUPT" not in name:  # (that one waits for a coroutine)
            loops.append((instruction.argval, at))
        targets = [instruction.argval] if jumps and not back else []
        leaves = name.startswith(("RETURN", "RAISE", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD"))
        if following is not None and not leaves:
            targets.append(following.offset)
        onward[at] = tuple(targets)
    return onward, tuple(loops)


@lru_cache(maxsize=4096)
def leads(code: CodeType, start: int, end: int, outwards: bool = False) -> bool:
    """Whether control can come from one instruction to a later one without a jump back, or (`outwards`) with jumps back
    in loops that it leaves. (During a call a frame's offset points into the caches after the instruction.)"""
    onward, loops = _flow(code)
    heads = {last: first for first, last in loops if outwards and last < end}
    offsets = list(onward)
    start, end = (offsets[max(bisect_right(offsets, at) - 1, 0)] for at in (start, end))
    pending, seen = [start], {start}
    while pending:
        at = pending.pop()
        if at == end:
            return True
        for target in (*onward.get(at, ()), *([heads[at]] if at in heads else ())):
            if target not in seen and target <= end:
                seen.add(target)
                pending.append(target)
    return False


def is_in_loop(code: CodeType, at: int) -> bool:
    """Whether an instruction stands in a loop."""
    return any(first <= at <= last for first, last in _flow(code)[1])


def is_in_own_loop(code: CodeType, at: int, other: int | None) -> bool:
    """Whether an instruction stands in a loop in which another one, if there is one, does not."""
    return any(first <= at <= last and not (other and first <= other <= last) for first, last in _flow(code)[1])
