"""Dead ways: where a gradient that is not 0 becomes 0, while the weights are still taught on other ways."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.blame import Blame, became_zero, blame, cone_stats
from nnrepl.explain.health.gradient_findings import dead, is_meant, line_of, will_move
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.explain.paths import upstream
from nnrepl.explain.regions import moves
from nnrepl.explain.stuck import reason_for
from nnrepl.explain.zero_reasons import Reason
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim


def dead_ways(case: Checkup) -> Iterator[Finding]:
    """Find what is computed from the weights, counts in the loss, and gets a gradient of 0 from all that uses it."""
    if case.broken:
        return
    told: set[object] = {key for one in dead(case) for key in (one.reason.came, one.reason.op or one.op, *one.others)}
    groups: dict[object, list[_Way]] = {}
    for of, gradient in _ends(case):
        made = _made_by(case, gradient)
        reason = reason_for(case.look, made.op, made.value, made.mask)
        key: object = reason.op or reason.came or made.op  # with the zeros of one tensor many ops pass nothing
        if key not in told and not _is_sound(case, made.op, of, reason):
            groups.setdefault(key, []).append((made, of, gradient, reason))
    lines: dict[object, list[tuple[object, list[_Way]]]] = {}
    for key, ways in groups.items():
        made, of, *_ = ways[0]
        forward = made.op.of
        where = key if forward is None else (forward.name, words.spot(forward), _level(made.op, of))
        lines.setdefault(where, []).append((key, ways))
    for (key, ways), *again in lines.values():  # the turns of a loop are one fault
        made, of, *_ = ways[0]
        begin = key if isinstance(key, Op) else made.op
        command = f"why grad({words.reference(of)}) == 0"
        claim = _is_dead(case, ways, [way for _, more in again for way in more])
        yield from findings(claim, "zero gradient", command, begin, _level(made.op, of))


_Way = tuple[Blame, Value, Value, Reason]
"""What made a gradient 0, the tensor that gets it, the gradient, and why."""


def _made_by(case: Checkup, gradient: Value) -> Blame:
    """Return what made a gradient 0. An op that only moves numbers has got the zeros that it hands on."""
    op = gradient.op
    assert op is not None
    made = Blame(op, gradient)
    if op.of is None or not moves(op.of):
        return made
    return next(iter(blame(case.look, gradient, cone_stats(case.look, gradient))), made)


def _is_dead(case: Checkup, ways: list[_Way], again: list[_Way]) -> Claim[str]:
    """Claim of ops that each gives 0 for a gradient out of something else, and that nothing else comes to its
    tensor.

    Args:
        ways: Those that do so for one reason.
        again: Those of the same line, each for its own.
    """
    made, of, _, reason = ways[0]
    op = made.op

    def holds() -> bool:
        return all(_gives_zero(case, *way[:3]) for way in (*ways, *again))

    term = ", that of one number on the way to the loss" if of.size == 1 else ""
    others = [(other, at.op) for at, other, *_ in ways[1:]]
    more = list(dict.fromkeys(f"∂L/∂{_called(case, other)} at {words.title(at)}{line_of(at)}" for other, at in others))
    likewise = "" if not more else (
        f", and so did {more[0]}"
        + (f" and {words.counted(len(more) - 1, 'other')}" if len(more) > 1 else ""))  # fmt: skip
    besides = len({at.op for at, *_ in again})
    turns = f". {words.counted(besides, 'other op')} of that line give{'s' if besides == 1 else ''} 0 as well"
    return Claim(
        "finding: dead way",
        holds,
        lambda: (
            f"∂L/∂{_called(case, of)} is 0{term}: it became 0 at {words.title(op)}{line_of(op)}{likewise}: "
            f"{reason.text.rstrip('.')}{turns if besides else ''}"
        ),
    )


def _called(case: Checkup, value: Value) -> str:
    """Return the name of a tensor; where others of the pass are called so, as in a loop, with the op that made it."""
    name, made = value.name, value.op
    if made is None or name.startswith("#"):
        return name
    same = {out.canonical for op in case.forward for out in op.outputs if out.name == name}
    return f"{name}@{made.label.removeprefix('#')}" if len(same) > 1 else name


def _gives_zero(case: Checkup, made: Blame, of: Value, gradient: Value) -> bool:
    zeros = [gradient, case.pass_.grads[of.canonical][-1]]
    return not any(case.look.numbers([mx.any(case.look.array(one) != 0) for one in zeros])) and became_zero(
        case.look, made
    )


def _ends(case: Checkup) -> Iterator[tuple[Value, Value]]:
    """Yield what a backward op that takes what is not 0 gives 0 everywhere: the tensor, which gets nothing on any other
    way either, and the gradient."""
    trained = {leaf.canonical for leaf in case.pass_.wrt}
    ops = [
        op for op in case.pass_.ops if op.of is not None and op.of.pass_ is case.pass_ and op.operation.kind == "vjp"
    ]
    found = [(op, of, given) for op in ops for given in op.outputs
             if (of := given.gradient_of) is not None and given.size and not given.refusal and is_inexact(given)
             and is_inexact(of) and of.op is not None and of.canonical not in trained]  # fmt: skip
    whole = {of: case.pass_.grads[of.canonical][-1] for _, of, _ in found if case.pass_.grads.get(of.canonical)}
    values = [value for op, _, given in found for value in (*upstream(op), given) if not value.refusal]
    stats = case.look.stats([*values, *(value for value in whole.values() if not value.refusal)])
    for op, of, given in found:
        lost = of in whole and whole[of] in stats and stats[whole[of]].is_zero and stats[given].is_zero
        if lost and not all(stats[up].is_zero for up in upstream(op) if up in stats):
            yield of, given


def _is_sound(case: Checkup, op: Op, of: Value, reason: Reason) -> bool:
    """Whether it is how such models work: a weight that is 0 and learns, a sum whose terms cancel, a candidate that
    was not chosen, what `dead units` tells."""
    forward = op.of
    if forward is None or reason.cancels or will_move(case, reason.start) or is_meant(case, op, [of]):
        return True
    if not has(forward.name, Trait.CHOOSES):
        return reason.start is not None and reason.start.op is not None and _passes_elsewhere(case, op)
    rivals = [taken for taken in forward.inputs if is_inexact(taken) and taken.canonical is not of.canonical]
    return any(case.pass_.grads.get(taken.canonical) for taken in rivals)


def _passes_elsewhere(case: Checkup, op: Op) -> bool:
    """Whether the same line passes something on in another turn of its loop: a state begins with zeros."""
    same = [other for other in case.pass_.ops if other.of is not None and other is not op and op.of is not None
            and other.of.name == op.of.name and other.of.source == op.of.source]  # fmt: skip
    turns = [out for other in same for out, gone in zip(other.outputs, op.outputs)
             if case.look.can_see(out) and out.shape == gone.shape and out.size]  # fmt: skip
    return len(turns) > 0 and not all(stat.is_zero for stat in case.look.stats(turns).values())


def _level(op: Op, of: Value) -> str:
    """Return how bad it is: a limit that is kept, a hinge that is satisfied, a branch that is not taken, a single
    number may be meant."""
    forward = op.of
    flat = forward is not None and has(forward.name, Trait.STEPS, Trait.SATURATES)
    return WARNING if flat and of.size > 1 else NOTE


CHECKS: list[Check] = [dead_ways]
