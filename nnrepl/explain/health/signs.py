"""Signs: a loss that falls where the shares of its targets fall, or where a prediction goes away from its target."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.picks import picked
from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding, findings
from nnrepl.explain.health.shares import logits_of
from nnrepl.explain.known import arguments
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Possibility

_EVEN = 1e-3


def turned(case: Checkup) -> Iterator[Finding]:
    """Find likelihoods that are minimized, and distances to data that are maximized: each of them by the same amount,
    as a mean does; what is weighted by rewards has both signs, and means it."""
    told: set[str] = set()
    for op, sign, text in _counted(case):
        known = case.pass_.grads.get(op.outputs[0].canonical) if len(op.outputs) == 1 else None
        gradient = known[-1] if known else None
        if gradient is None or gradient.refusal or words.spot(op) in told or case.broken:
            continue
        claim = _goes_away(case, op, gradient, sign, text)
        for finding in findings(claim, "away from targets", f"explain {gradient.op.label if gradient.op else op.label}",
                                op, NOTE):  # fmt: skip
            told.add(words.spot(op))
            yield finding


def _goes_away(case: Checkup, op: Op, gradient: Value, sign: int, text: str) -> Claim[str]:
    """Claim that the gradient by each number has one sign, and is the same or 0."""

    def holds() -> bool:
        part = sign * case.look.array(gradient).astype(mx.float32)
        low, high, least = case.look.numbers([mx.min(part), mx.max(part), mx.min(mx.where(part == 0, mx.inf, part))])
        return bool(low >= 0 and 0 < high < float("inf") and high - least <= _EVEN * high)

    which = "positive" if sign > 0 else "negative"
    return Possibility("finding: away from targets", holds, lambda: (
        f"the gradient by {op.label} {words.call(op)} ({words.spot(op)}) is {which} in all that counts: the loss falls "
        f"as {text}. Is a sign wrong, or is that meant?"))  # fmt: skip


def _counted(case: Checkup) -> Iterator[tuple[Op, int, str]]:
    """Yield what measures how far a model is from its targets: the op, the sign of the loss's gradient by it where a
    smaller loss is further from them, and what happens then."""
    for pick in picked(case):
        yield pick.op, pick.sign, "the shares of the targets fall"
    for op in case.forward:
        logits = logits_of(op) if op.name == "logaddexp" else None
        if logits is not None:
            yield op, -1, f"{words.name(logits)} goes away from its targets"
            continue
        apart = difference(case, op)
        if apart is not None:
            _, ours, target = apart
            yield op, -1, f"{words.name(ours)} goes away from {words.name(target)}"
        elif _squares(op) and op.inputs[0].size >= _MANY and _is_learned_sum(case, op):
            yield op, -1, f"{words.name(op.inputs[0], op)} goes away from 0"


def difference(case: Checkup, op: Op) -> tuple[Op, Value, Value] | None:
    """Return a difference, what is computed and what it is held against, where an op squares that or takes its size;
    past what it was divided by. None of other ops."""
    if not _squares(op):
        return None
    value = op.inputs[0]
    made = value.op
    while made is not None and made.inputs and made.name != "subtract":
        scales = made.name in ("divide", "multiply") and isinstance(arguments(made)[0][0], Value)
        if not scales and not has(made.name, Trait.ARRANGES, Trait.CONVERTS):
            return None
        made = arguments(made)[0][0].op if scales else made.inputs[0].op
    if made is None or made.pass_ is not op.pass_ or len(made.inputs) != 2:
        return None
    learned = [bool(case.pass_.grads.get(one.canonical)) for one in made.inputs]
    if sum(learned) != 1:
        return None
    ours, target = made.inputs if learned[0] else made.inputs[::-1]
    if target.size < 2 or not is_inexact(target) or _comes_from(target, ours):
        return None
    return made, ours, target


def _squares(op: Op) -> bool:
    """Whether an op squares a tensor, or takes the size of its numbers."""
    args, _ = arguments(op)
    return bool(op.inputs) and (op.name in ("square", "abs") or (op.name == "power" and len(args) > 1 and args[1] == 2)
                                or (op.name == "multiply" and len(args) == 2 and args[0] is args[1]))  # fmt: skip


_MANY = 8


def _is_learned_sum(case: Checkup, op: Op) -> bool:
    """Whether the size of what is learned goes into the loss as it is: scaled, and added up with the rest. A deviation
    is the root of such a sum, and a share is a part of one."""
    stack, seen = list(op.outputs), set(op.outputs)
    while stack and len(seen) < 64:
        for user in stack.pop().consumers:
            if user.phase != "forward" or user.pass_ is not op.pass_:
                continue
            if (
                not has(user.name, Trait.ADDS, Trait.DIFFERENCE, Trait.ARRANGES, Trait.TOTALS, Trait.AVERAGES)
                and user.name not in _ADDED
            ):
                return False
            fresh = [value for value in user.outputs if value not in seen]
            seen.update(fresh)
            stack += fresh
    return bool(case.pass_.grads.get(op.inputs[0].canonical))


_ADDED = ("negative", "multiply", "divide")


def _comes_from(target: Value, ours: Value) -> bool:
    """Whether what something is held against was made of it: its mean, its largest number, itself without gradient."""
    stack, seen = [target], {target}
    while stack and len(seen) < 64:
        op = stack.pop().op
        for taken in op.inputs if op is not None else ():
            if taken.canonical is ours.canonical:
                return True
            if taken not in seen:
                seen.add(taken)
                stack.append(taken)
    return False


CHECKS: list[Check] = [turned]
