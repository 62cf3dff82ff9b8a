"""Zero: why a gradient is 0, and where it became so."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Cause
from nnrepl.explain.known import ELEMENTWISE, entry_for
from nnrepl.explain.links import describe, links_along
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.paths import cone, path, rule_of, upstream
from nnrepl.explain.regions import Mask, backwards, is_zero_on, moves, places
from nnrepl.explain.stuck import reason_for
from nnrepl.explain.zeros import zero_value
from nnrepl.session.reading import Reading
from nnrepl.tape import Op, Pass, Value


def why_zero(session: Reading, gradient: Value, name: str = "") -> Cause:
    """Walk from the loss to a gradient, and name the first op where it became 0."""
    look = Look(session)
    stats = cone_stats(look, gradient)
    name = name or gradient.name
    if not stats[gradient].is_zero:
        stat = stats[gradient]
        zeros = f"; {words.count_of(stat.zeros, stat.size)} elements are 0" if stat.zeros else ""
        answer = Cause(f"{name} is not 0: its norm is {words.number(stat.norm)}{zeros}.")
        answer.links = links_along(look, _way(gradient, stats), None)
        answer.ops = look.ops
        return answer
    culprits = blame(look, gradient, stats)
    if not culprits:
        return Cause(f"{name} is 0 because the backward pass began with 0.", ops=look.ops)
    first = culprits[0]
    op = first.op
    reason = reason_for(look, op, first.value, first.mask)
    answer = Cause(f"{name} is 0: it became 0 at {words.title(op)}, {_made(op)}.", op)
    answer.reasons = [reason.text]
    answer.evidence = reason.evidence
    answer.links = links_along(look, _way(gradient, stats), op)
    known = {reason.op or reason.text}
    for other in culprits[1:4]:
        why = reason_for(look, other.op, other.value, other.mask)
        if (why.op or why.text) in known:
            continue  # the next turn of a loop
        known.add(why.op or why.text)
        answer.also.append(
            f"It also became 0 on another way, at {words.title(other.op)}, {_made(other.op)}: {why.text}"
        )
    answer.also.extend(_others(look, gradient, first, reason.text))
    answer.also.extend(_beginner(look, op.pass_, reason.start))
    answer.ops = look.ops
    return answer


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
    elif mask is not None and all(given.shape == value.shape for given in before) and _place_by_place(op):
        parts = dict.fromkeys(before, mask)
    else:
        return {}
    counting = {given: part for given, part in parts.items() if places(look, part)}
    if not counting or not all(is_zero_on(look, given, part) for given, part in counting.items()):
        return {}
    return counting


def _place_by_place(op: Op) -> bool:
    entry = entry_for(op)
    return entry is not None and entry.kind == ELEMENTWISE


def _way(gradient: Value, stats: dict[Value, Stat]) -> list[Value]:
    """From the loss through the first op that made it 0: backwards over zeros, then over what is largest."""

    def choose(before: tuple[Value, ...]) -> Value:
        zeros = [value for value in before if stats[value].is_zero]
        if len(zeros) == len(before):
            return min(zeros, key=lambda value: value.op.position if value.op is not None else -1)
        return max(before, key=lambda value: stats[value].norm)

    return path(gradient, choose)


def _made(op: Op) -> str:
    """Which line of the program an op differentiates: `a1 = maximum(z1, 0)  (simple_nn.py:29)`."""
    forward = op.of
    if forward is None or op.operation.kind == "accumulate":
        return words.place(op.source)
    result = forward.outputs[0].name if forward.outputs else ""
    given = "" if result.startswith("#") else f"{result} = "
    where = words.spot(forward)
    return f"{given}{describe(forward)}" + (f" ({where})" if where else "")


def _others(look: Look, gradient: Value, culprit: Blame, text: str) -> list[str]:
    """Return what became of the other parameters of the pass: which are 0 for the same reason, which still learn."""
    pass_: Pass | None = gradient.op.pass_ if gradient.op is not None else None
    if pass_ is None:
        return []
    finals = {leaf: pass_.grads[leaf][-1] for leaf in pass_.wrt if leaf.size and pass_.grads.get(leaf)}
    stats = look.stats(finals.values())
    same: list[str] = []
    other: list[str] = []
    alive: list[tuple[Value, Value]] = []
    for leaf, final in finals.items():
        if final is gradient:
            continue
        if not stats[final].is_zero:
            alive.append((leaf, final))
            continue
        blamed = blame(look, final, cone_stats(look, final))
        first = blamed[0] if blamed else None
        if first is None or first.value is culprit.value:
            same.extend([leaf.name] if first is not None else [])
            continue
        # One VJP gives several gradients, each of which can be 0 for a reason of its own: a weight or an input is 0.
        reason = reason_for(look, first.op, first.value, first.mask)
        if first.op is culprit.op and reason.text == text:
            same.append(leaf.name)
        elif len(other) < 2:
            at = f"{words.title(first.op)}, {_made(first.op)}"
            other.append(f"∂L/∂{leaf.name} is 0 as well, for another reason, at {at}: {reason.text}")
    lines = []
    if same:
        are, them = ("is", "") if len(same) == 1 else ("are", " all")
        lines.append(f"{_listed([f'∂L/∂{name}' for name in same])} {are}{them} 0 for the same reason.")
    lines.extend(other)
    if alive:
        shown = [_learns(leaf, final, stats[final]) for leaf, final in alive[:3]]
        more = f" and {len(alive) - 3} more" if len(alive) > 3 else ""
        verb = "learns" if len(alive) == 1 else "learn"
        names = _listed([leaf.name for leaf, _ in alive[:3]]) + more
        lines.append(f"{names} still {verb}: {', '.join(shown)}.")
    elif finals:
        lines.append("No parameter gets a gradient that is not 0.")
    return lines


def _beginner(look: Look, pass_: Pass, start: Value | None) -> list[str]:
    """Return that a parameter whose zeros are the reason learns itself."""
    grads = pass_.grads.get(start) if start is not None else None
    if start is None or not grads or look.stat(grads[-1]).is_zero:
        return []
    return [f"∂L/∂{start.name} is not 0: an update that follows it makes {start.name} something else than 0."]


def _learns(leaf: Value, final: Value, stat: Stat) -> str:
    numbers = words.inline(final.array)
    return f"∂L/∂{leaf.name} = {numbers}" if numbers else f"‖∂L/∂{leaf.name}‖ = {words.number(stat.norm)}"


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def why_zero_value(session: Reading, value: Value) -> Cause:
    """Why a tensor of the forward pass is 0: back along the zeros to where they began."""
    look = Look(session)
    stat = look.stat(value)
    if not stat.is_zero:
        share = words.count_of(stat.zeros, stat.size)
        return Cause(f"{value.name} is not 0 everywhere: {share} elements are, and its norm is "
                      f"{words.number(stat.norm)}.", ops=look.ops)  # fmt: skip
    origin = zero_value(look, value)
    answer = Cause(origin.text, origin.op, evidence=origin.evidence)
    answer.ops = look.ops
    return answer
