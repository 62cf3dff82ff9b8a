"""Forward: which line of the program made the numbers of a tensor as large, or as small, as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from nnrepl.explain import words
from nnrepl.explain.look import Look, Stat
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Value

NOTABLE = 30.0
"""A line that changes a typical element by less than this is not worth a word."""
_LOOKED = 3000


@dataclass(frozen=True, slots=True)
class Growth:
    """What made numbers large, or small.

    Attributes:
        value: The tensor that was asked about.
        typical: A typical element of it (the root mean square).
        ops: The ops of the line of the program that did most, as they were passed; () where the numbers came in so.
        leaf: The tensor with which they came in so; None where ops made them.
        factor: By what those ops multiplied a typical element.
    """

    value: Value
    typical: float
    ops: tuple[Op, ...]
    leaf: Value | None
    factor: float

    @property
    def text(self) -> str:
        """What there is to say, in a sentence."""
        head = f"A typical element of {words.name(self.value)} is {words.number(self.typical)} in size"
        if self.leaf is not None:
            same = self.leaf is self.value
            return f"{head}." if same else f"{head}: {words.name(self.leaf)} came in so."
        op = self.ops[0]
        large = self.factor >= 1
        by = words.number(float(f"{self.factor if large else 1 / self.factor:.3g}"))
        grows = f"{by} times as {'large' if large else 'small'}"
        if len(self.ops) > 1:
            return (f"{head}: {op.name} at {words.place(op.source)} is passed {len(self.ops)} times on the way to it, "
                    f"and makes it {grows} altogether.")  # fmt: skip
        return f"{head}: {op.label}, {words.call(op)} ({words.place(op.source)}), makes it {grows}."


def made_large(look: Look, value: Value) -> Growth | None:
    """Which line of the program made a tensor as large as it is; None where nothing did, or it is not large."""
    return _made(look, value, 1.0)


def made_small(look: Look, value: Value) -> Growth | None:
    """Which line of the program made a tensor as small as it is; None where nothing did, or it is not small."""
    return _made(look, value, -1.0)


def _made(look: Look, value: Value, sign: float) -> Growth | None:
    stats = look.stats(_ancestors(value))
    size = stats[value].typical
    if not size or sign * math.log(size) < math.log(NOTABLE):
        return None
    lines: dict[tuple[str, str], list[tuple[Op, float]]] = {}
    level = math.log(size)  # what comes before an op counts only as far as it is left in the end
    end: Value = value
    for op, taken in _way(value, stats, sign):
        before = math.log(stats[taken].typical)
        rise = sign * (level - before)
        if rise > 0:
            lines.setdefault((words.place(op.source), op.name), []).append((op, rise))
            level = before
        end = taken
    found = max(lines.values(), key=lambda steps: sum(rise for _, rise in steps), default=[])
    total = sum(rise for _, rise in found)
    if total >= math.log(NOTABLE):
        return Growth(value, size, tuple(op for op, _ in found), None, math.exp(sign * total))
    came = end.op is None and sign * level >= math.log(NOTABLE)
    return Growth(value, size, (), end, 1.0) if came else None


def _ancestors(value: Value) -> list[Value]:
    """Return a tensor, and all from which it was made in its pass, as far as their numbers can be had."""
    found: dict[Value, None] = {value: None}
    stack = [value]
    pass_ = None if value.op is None else value.op.pass_
    while stack and len(found) < _LOOKED:
        op = stack.pop().op
        if op is None or op.pass_ is not pass_:
            continue
        for taken in op.inputs:
            if taken not in found and taken.size and is_inexact(taken) and not taken.refusal:
                found[taken] = None
                stack.append(taken)
    return list(found)


def _way(value: Value, stats: dict[Value, Stat], sign: float) -> Iterator[tuple[Op, Value]]:
    """Back from a tensor, at each op to the operand that has most to do with its size."""
    seen = {value}
    while value.op is not None:
        op = value.op
        taken = [one for one in dict.fromkeys(op.inputs) if one in stats and stats[one].typical]
        if not taken:
            return
        chosen = (max if sign > 0 or has(op.name, Trait.ADDS) else min)(taken, key=lambda one: stats[one].typical)
        if chosen in seen:
            return
        seen.add(chosen)
        yield op, chosen
        value = chosen
