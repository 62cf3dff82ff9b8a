"""Zero: why a gradient is 0, and where it became so."""

from __future__ import annotations

from nnrepl.explain import words
from nnrepl.explain.answer import Cause
from nnrepl.explain.blame import Blame, blame, cone_stats
from nnrepl.explain.links import describe, links_along
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.paths import path
from nnrepl.explain.stuck import made_zero, reason_for
from nnrepl.explain.zero_reasons import Reason
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
    answer.also.extend(_others(look, gradient, first, reason))
    answer.also.extend(_beginner(look, op.pass_, reason.start))
    answer.ops = look.ops
    return answer


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


def _others(look: Look, gradient: Value, culprit: Blame, why: Reason) -> list[str]:
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
        same_line = _spot(first.op) and _spot(first.op) == _spot(culprit.op)
        if (first.op is culprit.op or same_line) and reason.kind == why.kind:
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


def _spot(op: Op) -> str:
    """Where the forward op stands that an op differentiates."""
    return words.spot(op.of or op)


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
    origin = made_zero(look, value)
    answer = Cause(origin.text, origin.op, evidence=origin.evidence)
    answer.ops = look.ops
    return answer
