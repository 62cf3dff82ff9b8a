"""Forward: which line of the program made the numbers of a tensor as large, or as small, as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.look import Look, Stat
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Said, say_first

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
        text: What there is to say, in a sentence.
    """

    value: Value
    typical: float
    ops: tuple[Op, ...]
    leaf: Value | None
    factor: float
    text: Said


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
    lines: dict[tuple[str, str], list[_Step]] = {}
    level = math.log(size)  # what comes before an op counts only as far as it is left in the end
    end: Value = value
    for op, taken in _way(value, stats, sign):
        before = math.log(stats[taken].typical)
        rise = sign * (level - before)
        if rise > 0:
            lines.setdefault((words.place(op.source), op.name), []).append(_Step(op, taken, rise))
            level = before
        end = taken
    found = max(lines.values(), key=lambda steps: sum(step.rise for step in steps), default=[])
    rise = sum(step.rise for step in found)
    made = rise >= math.log(NOTABLE)
    came = not made and end.op is None and sign * level >= math.log(NOTABLE)
    if not made and not came:
        return None
    factor = math.exp(sign * rise) if made else 1.0
    said = say_first([_came_so(look, value, end, sign)] if came else [_made_so(look, value, found, factor)])
    ops = tuple(step.op for step in found) if made else ()
    return Growth(value, size, ops, end if came else None, factor, said[0]) if said else None


@dataclass(frozen=True, slots=True)
class _Step:
    """An op on the way to a tensor, the operand from which most of its size is, and by how much of that, in powers of
    e, the op has changed it."""

    op: Op
    taken: Value
    rise: float

    def ratio(self, look: Look) -> float:
        """By how much a typical element of the result is beyond one of the operand, in powers of e; 0 of no number."""
        sizes = [look.stat(one).typical for one in (max(self.op.outputs, key=lambda out: look.stat(out).typical),
                                                    self.taken)]  # fmt: skip
        return math.log(sizes[0] / sizes[1]) if all(sizes) else 0.0


def _head(look: Look, value: Value) -> str:
    return f"A typical element of {words.name(value)} is {words.number(look.stat(value).typical)} in size"


def _came_so(look: Look, value: Value, end: Value, sign: float) -> Claim[str]:
    """Claim that a tensor came in as large, or as small, as it is, or what it was made of did."""
    return Claim(
        "why: came in so",
        lambda: end.op is None and sign * math.log(look.stat(end).typical) >= math.log(NOTABLE),
        lambda: f"{_head(look, value)}{'' if end is value else f': {words.name(end)} came in so'}.",
    )


def _made_so(look: Look, value: Value, steps: list[_Step], factor: float) -> Claim[str]:
    """Claim that the ops of one line made a tensor so: of what came in, by at least so much."""
    op = steps[0].op
    large = factor >= 1
    by = words.number(float(f"{factor if large else 1 / factor:.3g}"))
    grows = f"{by} times as {'large' if large else 'small'}"
    where = words.place(op.source)
    done = f"{op.label}, {words.call(op)} ({where}), makes it {grows}"
    if len(steps) > 1:
        done = f"{op.name} at {where} is passed {len(steps)} times on the way to it, and makes it {grows} altogether"

    def holds() -> bool:
        changed = sum(step.ratio(look) for step in steps)
        return (changed if large else -changed) >= abs(math.log(factor)) - _ROUNDING

    return Claim("why: made so", holds, lambda: f"{_head(look, value)}: {done}.")


_ROUNDING = 1e-3


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
