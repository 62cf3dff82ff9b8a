"""Averages: those of the weights, kept beside the model, into which nothing of the weights goes."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.explain.health.update_findings import changes
from nnrepl.ops import Trait, has
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim


def standing(case: Checkup) -> Iterator[Finding]:
    """Find sums behind an update that take 0 times a weight, and are what they were: an average with a decay of 1."""
    if case.broken:
        return
    weights = {change.after: change.name for change in changes(case)}
    sums: list[tuple[Op, Value, Value, str]] = []
    for pass_ in case.after:
        for op in pass_.ops:
            if op.error is None and not (op.scope is not None and op.scope.updating) and has(op.name, Trait.ADDS):
                sums += [(op, part, other, name) for part, other in _pairs(op) if (name := _of(part, weights))]
    seen = [(op, part, other, name) for op, part, other, name in sums
            if all(map(case.look.can_see, (part, other, op.outputs[0])))]  # fmt: skip
    case.look.see([value for op, part, other, _ in seen for value in (part, other, op.outputs[0])])
    still = [one for one in seen if _is_still(case, one)]
    if still:
        yield from findings(_stands(case, still, len(sums)), "standing average", f"explain {still[0][0].label}",
                            still[0][0])  # fmt: skip


def _pairs(op: Op) -> list[tuple[Value, Value]]:
    """Return the two that an op adds up, each with the other."""
    if len(op.inputs) != 2 or len(op.outputs) != 1:
        return []
    return [(op.inputs[0], op.inputs[1]), (op.inputs[1], op.inputs[0])]


def _of(part: Value, weights: dict[Value, str]) -> str:
    """Return of which new weight a product with a single number is, or of the distance to which; "" of none."""
    made = part.op
    if made is None or not has(made.name, Trait.MULTIPLIES):
        return ""
    for taken in made.inputs:
        ends = [taken]
        if taken.op is not None and has(taken.op.name, Trait.DIFFERENCE):
            ends += taken.op.inputs
        name = next((weights[end] for end in ends if end in weights), "")
        if name and taken.shape == part.shape and all(other is taken or other.size == 1 for other in made.inputs):
            return name
    return ""


def _is_still(case: Checkup, one: tuple[Op, Value, Value, str]) -> bool:
    """Whether a product is 0, of what is not, and the sum is what the other term was."""
    op, part, other, _ = one
    assert part.op is not None
    whole = max(part.op.inputs, key=lambda taken: taken.size)
    if not case.look.can_see(whole):
        return False
    begun = other if other.op is None or not has(other.op.name, Trait.MULTIPLIES) else max(
        other.op.inputs, key=lambda taken: taken.size)  # fmt: skip
    if begun.shape != op.outputs[0].shape or not case.look.can_see(begun):
        return False
    tests = [mx.all(case.look.array(part) == 0), mx.any(case.look.array(whole) != 0),
             mx.all(case.look.array(begun) == op.outputs[0].array)]  # fmt: skip
    return all(case.look.numbers(tests))


def _stands(case: Checkup, still: list[tuple[Op, Value, Value, str]], count: int) -> Claim[str]:
    """Claim that sums are what they were, and that what they take of the weights is 0."""
    op, part, _, name = still[0]
    product = part.op
    assert product is not None
    these = f"so are {len(still) - 1} more of {count}" if len(still) > 1 else "it is one of " + str(count)
    more = f" ({these})" if count > 1 else ""
    return Claim("finding: standing average", lambda: all(_is_still(case, one) for one in still), lambda: (
        f"{product.label} {words.call(product)} is 0 everywhere, so {op.label} {words.call(op)} ({words.spot(op)}) is "
        f"what it was before{more}: nothing of {name} goes into it. Is the decay of an average 1?"))  # fmt: skip


CHECKS: list[Check] = [standing]
