"""Blame: the ops of a backward pass that made a gradient 0."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain.known import ELEMENTWISE, entry_for
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.paths import cone, rule_of, upstream
from nnrepl.explain.regions import Mask, backwards, is_zero_on, moves, places, reduced
from nnrepl.ops import Trait, has
from nnrepl.tape import Op, Value


def cone_stats(look: Look, gradient: Value) -> dict[Value, Stat]:
    """Every gradient that leads to one, in a few numbers."""
    values = [gradient]
    for op in cone([gradient]):
        values.extend(upstream(op))
        values.extend(op.outputs)
    return look.stats(values)


@dataclass(frozen=True, slots=True)
class Blame:
    """An op that made a gradient 0 (or a part of it) out of something that was not.

    Attributes:
        op: The op.
        value: The gradient that it gives.
        mask: The places of it that count; None for all.
    """

    op: Op
    value: Value
    mask: Mask | None = None


def became_zero(look: Look, one: Blame) -> bool:
    """Look at the numbers themselves whether an op gives 0, where it counts, and something came in that is not 0 (or
    nothing at all: a rule of the program's own that makes a constant)."""
    before = upstream(one.op)
    if not look.can_see(one.value) or not one.value.size:
        return not one.value.size
    left = look.array(one.value) != 0
    alive = [mx.any(look.array(given) != 0) for given in before if look.can_see(given)]
    gives, *came = look.numbers([mx.any(left if one.mask is None else left & one.mask), *alive])
    return not gives and (any(came) or not before)


def blame(look: Look, gradient: Value, stats: dict[Value, Stat]) -> list[Blame]:
    """Return the ops that made a gradient 0 out of something that was not, in order of execution. Through ops that
    only move numbers the very elements are followed: a part that is cut out further on is not the fault of what
    joined it."""
    found: dict[Op, Blame] = {}
    seen: set[Value] = set()
    stack: list[tuple[Value, Mask | None]] = [(gradient, None)]
    while stack:
        value, mask = stack.pop()
        if value in seen or value.op is None or value.op.phase != "backward":
            continue
        seen.add(value)
        before = upstream(value.op)
        if not before:
            found.setdefault(value.op, Blame(value.op, value, mask))  # the program's own rule makes a constant of it
            continue
        if mask is None and all(stats[given].is_zero for given in before):
            stack.extend((given, None) for given in before)
            continue
        further = _further(look, value, mask, before)
        if further:
            stack.extend((given, None if stats[given].is_zero else part) for given, part in further.items())
        else:
            found.setdefault(value.op, Blame(value.op, value, mask))
    ways = [one for one in found.values() if one.value.dtype != mx.bool_]  # a condition is no way of its own
    return sorted(ways or found.values(), key=lambda one: one.op.position)


def _further(look: Look, value: Value, mask: Mask | None, before: tuple[Value, ...]) -> dict[Value, Mask]:
    """Return the gradients whose zeros an op only hands on, with the places that count; {} if the op makes the
    zeros."""
    op = value.op
    assert op is not None
    if op.operation.kind == "accumulate" and rule_of(op) is None:
        parts = {given: mask for given in before if mask is not None}
    elif op.of is not None and moves(op.of):
        parts = dict(backwards(look, op, value, mask, before))
    elif mask is not None and op.of is not None:
        parts = _sources(look, op, op.of, value, mask, before)
    else:
        return {}
    counting = {given: part for given, part in parts.items() if places(look, part)}
    if not counting or not all(is_zero_on(look, given, part) for given, part in counting.items()):
        return {}
    return counting


def _sources(look: Look, op: Op, forward: Op, value: Value, mask: Mask, before: tuple[Value, ...]) -> dict[Value, Mask]:
    """Return which elements of the gradients that came in have a share in the marked ones of what an op gives, whatever
    the numbers are that it differentiates; {} if that cannot be told."""
    if has(forward.name, Trait.PRODUCT):
        return backwards(look, op, value, mask, before, whatever=True)
    found: dict[Value, Mask | None] = {}
    for given in before:
        if given.shape == value.shape and (given.gradient_of is value.gradient_of or _place_by_place(op)):
            found[given] = mask
        elif has(forward.name, Trait.REDUCES):
            found[given] = reduced(forward, mask, given.shape)
        else:
            found[given] = _stretched(mask, given.shape) if _place_by_place(op) else None
    known = {given: part for given, part in found.items() if part is not None}
    return known if len(known) == len(found) else {}


def _stretched(mask: Mask, shape: tuple[int, ...]) -> Mask | None:
    """Mark, after an operand was broadcast, what was made of its marked elements."""
    try:
        return mx.broadcast_to(mask, shape)
    except ValueError:
        return None


def _place_by_place(op: Op) -> bool:
    entry = entry_for(op)
    return entry is not None and entry.kind == ELEMENTWISE
