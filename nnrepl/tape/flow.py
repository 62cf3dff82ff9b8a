"""Flow: where control may go in a function, as its bytecode tells."""

from __future__ import annotations

import dis
from bisect import bisect_right
from functools import lru_cache
from types import CodeType


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
