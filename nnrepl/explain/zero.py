"""Zero: why a gradient is 0, and where it became so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Cause
from nnrepl.explain.blame import Blame, became_zero, blame, cone_stats
from nnrepl.explain.links import describe, links_along
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.paths import path
from nnrepl.explain.stuck import made_zero, reason_for
from nnrepl.explain.zero_reasons import Reason
from nnrepl.session.reading import Reading
from nnrepl.tape import Op, Pass, Value
from nnrepl.tape.claims import Claim, Possibility, Said, say, say_first, stated


def why_zero(session: Reading, gradient: Value, name: str = "") -> Cause:
    """Walk from the loss to a gradient, and name the first op where it became 0."""
    look = Look(session)
    stats = cone_stats(look, gradient)
    name = name or gradient.name
    culprits = blame(look, gradient, stats)
    reason = reason_for(look, culprits[0].op, culprits[0].value, culprits[0].mask) if culprits else None
    answer = Cause(stated(*_heads(look, gradient, name, culprits)))
    if reason is None or not stats[gradient].is_zero:
        answer.links = [] if stats[gradient].is_zero else links_along(look, _way(gradient, stats), None)
        answer.ops = look.ops
        return answer
    first = culprits[0]
    answer.op, answer.reasons, answer.evidence = first.op, [reason.text], reason.evidence
    answer.links = links_along(look, _way(gradient, stats), first.op)
    known = {reason.op or reason.text}
    for other in culprits[1:4]:
        why = reason_for(look, other.op, other.value, other.mask)
        if (why.op or why.text) in known:
            continue  # the next turn of a loop
        known.add(why.op or why.text)
        answer.also.extend(say(_on_another_way(look, other, why.text)))
    answer.also.extend(_others(look, gradient, first, reason))
    answer.also.extend(_beginner(look, first.op.pass_, reason.start))
    answer.ops = look.ops
    return answer


def _heads(look: Look, gradient: Value, name: str, culprits: list[Blame]) -> Iterator[Claim[str]]:
    """Yield what may be said of a gradient of which it was asked why it is 0."""
    stat = look.stat(gradient)
    zeros = f"; {words.count_of(stat.zeros, stat.size)} elements are 0" if stat.zeros else ""
    yield Claim("why: not 0", lambda: _is_any(look, gradient), lambda: (
        f"{name} is not 0: its norm is {words.number(stat.norm)}{zeros}."))  # fmt: skip
    first = culprits[0] if culprits else None
    yield Claim("why: became 0", lambda: first is not None and became_zero(look, first), lambda: (
        "" if first is None else f"{name} is 0: it became 0 at {words.title(first.op)}, {_made(first.op)}."
    ))  # fmt: skip
    seeds = [seed for _, seed in (gradient.op.pass_.roots if gradient.op is not None else ()) if look.can_see(seed)]
    yield Claim("why: began with 0", lambda: bool(seeds) and not any(_is_any(look, seed) for seed in seeds), lambda: (
        f"{name} is 0 because the backward pass began with 0."))  # fmt: skip
    yield Claim("why: 0 all along", lambda: not _is_any(look, gradient), lambda: (
        f"{name} is 0, and so is every gradient on the tape from which it was made."))  # fmt: skip


def _is_any(look: Look, value: Value) -> bool:
    """Look at the numbers themselves whether one is not 0."""
    return bool(value.size and look.numbers([mx.any(look.array(value) != 0)])[0])


def _on_another_way(look: Look, other: Blame, why: Said) -> Claim[str]:
    """Claim that a gradient became 0 at a second op as well."""
    at = f"{words.title(other.op)}, {_made(other.op)}"
    return Claim("why: also became 0", lambda: became_zero(look, other), lambda: (
        f"It also became 0 on another way, at {at}: {why}"))  # fmt: skip


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


@dataclass(slots=True)
class _Rest:
    """The other gradients of a pass: those that are 0 for the same reason, for another one, and those that are not."""

    same: list[tuple[Value, Blame]] = field(default_factory=list)
    other: list[Claim[str]] = field(default_factory=list)
    alive: list[tuple[Value, Value]] = field(default_factory=list)


def _rest(look: Look, gradient: Value, culprit: Blame, why: Reason, finals: dict[Value, Value]) -> _Rest:
    """Look at the other gradients of a pass."""
    stats = look.stats(finals.values())
    rest = _Rest()
    for leaf, final in finals.items():
        if final is gradient:
            continue
        if not stats[final].is_zero:
            rest.alive.append((leaf, final))
            continue
        blamed = blame(look, final, cone_stats(look, final))
        first = blamed[0] if blamed else None
        if first is None or first.value is culprit.value:
            rest.same.extend([(final, first)] if first is not None else [])
            continue
        # One VJP gives several gradients, each of which can be 0 for a reason of its own: a weight or an input is 0.
        reason = reason_for(look, first.op, first.value, first.mask)
        same_line = _spot(first.op) and _spot(first.op) == _spot(culprit.op)
        if (first.op is culprit.op or same_line) and reason.kind == why.kind:
            rest.same.append((final, first))
        else:
            rest.other.append(_for_another(look, leaf, final, first, reason.text))
    return rest


def _spot(op: Op) -> str:
    """Where the forward op stands that an op differentiates."""
    return words.spot(op.of or op)


def _for_another(look: Look, leaf: Value, final: Value, first: Blame, why: Said) -> Claim[str]:
    """Claim that another gradient is 0 as well, and became so at another op, or for another reason."""
    at = f"{words.title(first.op)}, {_made(first.op)}"
    return Claim(
        "why: another 0",
        lambda: became_zero(look, first) and not _is_any(look, final),
        lambda: f"∂L/∂{leaf.name} is 0 as well, for another reason, at {at}: {why}",
    )


def _others(look: Look, gradient: Value, culprit: Blame, why: Reason) -> list[Said]:
    """Return what became of the other parameters of the pass: which are 0 for the same reason, which are not 0."""
    pass_: Pass | None = gradient.op.pass_ if gradient.op is not None else None
    if pass_ is None:
        return []
    finals = {leaf: pass_.grads[leaf][-1] for leaf in pass_.wrt if leaf.size and pass_.grads.get(leaf)}
    finals = {leaf: final for leaf, final in finals.items() if look.can_see(final)}
    rest = _rest(look, gradient, culprit, why, finals)
    same, alive = rest.same, rest.alive
    are, them = ("is", "") if len(same) == 1 else ("are", " all")
    shown = ", ".join(_learns(leaf, final, look.stat(final)) for leaf, final in alive[:3])
    more = f" and {len(alive) - 3} more" if len(alive) > 3 else ""

    def same_holds() -> bool:
        return bool(same) and all(became_zero(look, first) and not _is_any(look, final) for final, first in same)

    return [
        *say(Claim("why: same reason", same_holds, lambda: (
            f"{_listed([final.name for final, _ in same])} {are}{them} 0 for the same reason."))),
        *say(*rest.other[:2]),
        *say_first([
            Claim("why: others alive", lambda: bool(alive) and all(_is_any(look, final) for _, final in alive), lambda:
                  f"Still not 0: {shown}{more}."),
            Claim("why: none alive", lambda: len(finals) > 1 and not any(_is_any(look, one) for one in finals.values()),
                  lambda: f"All {len(finals)} gradients of {pass_.address} are 0."),
        ]),
    ]  # fmt: skip


def _beginner(look: Look, pass_: Pass, start: Value | None) -> list[Said]:
    """Return that a parameter whose zeros are the reason has a gradient itself."""
    grads = pass_.grads.get(start) if start is not None else None
    if start is None or not grads:
        return []
    return say(
        Possibility(
            "why: begins to learn",
            lambda: _is_any(look, grads[-1]),
            lambda: (
                f"∂L/∂{start.name} is not 0: an update that follows it can make {start.name} something else than 0."
            ),
        )
    )


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
    share = words.count_of(stat.zeros, stat.size)
    said = say(
        Claim(
            "why: not all 0",
            lambda: _is_any(look, value),
            lambda: (
                f"{value.name} is not 0 everywhere: {share} elements are, and its norm is {words.number(stat.norm)}."
            ),
        )
    )
    if said:
        return Cause(said[0], ops=look.ops)
    origin = made_zero(look, value)
    answer = Cause(origin.text, origin.op, evidence=origin.evidence)
    answer.ops = look.ops
    return answer
