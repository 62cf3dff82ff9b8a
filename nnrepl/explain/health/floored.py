"""Floored: numbers that differ, of which a whole division leaves 0 everywhere: `t // 50` where `t / 50` was meant."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.explain.known import arguments
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.session.expressions import aside
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Possibility


def floored(case: Checkup) -> Iterator[Finding]:
    """Find a whole division of more than two numbers that gives 0 everywhere, and is calculated with as a float: where
    it is an index, or is compared, it numbers blocks or groups, of which there may be one."""
    for op in (*case.prepared, *case.forward):
        whole = has(op.name, Trait.DIVIDES) and has(op.name, Trait.STEPS)
        if whole and op.outputs[0].size > 2 and _is_calculated_with(op.outputs[0]):
            yield from _found(case, op)


def _is_calculated_with(value: Value) -> bool:
    """Whether all that takes a tensor, past changes of shape and dtype, multiplies, divides, adds or subtracts, and
    makes floats."""
    users = [user for user in value.consumers if user.of is None]
    for user in users:
        made = user.outputs[0]
        if has(user.name, Trait.ARRANGES, Trait.CONVERTS, Trait.PICKS) and user.inputs[0] is value:
            if not _is_calculated_with(made):
                return False
        elif not has(user.name, Trait.SCALES, Trait.ADDS) or not is_inexact(made):
            return False
    return bool(users)


def _found(case: Checkup, op: Op) -> Iterator[Finding]:
    result, (above, below) = op.outputs[0], arguments(op)[0][:2]
    if not isinstance(above, Value) or not all(case.look.can_see(one) for one in (*op.inputs, result)):
        return
    case.look.see([*op.inputs, result])
    with aside():
        parts = above.array / (below.array if isinstance(below, Value) else below)
        ends = [mx.min(above.array), mx.max(above.array), mx.min(parts), mx.max(parts)]
        low, high, least, most = case.look.numbers(ends)
    if not low < high:
        return

    def holds() -> bool:
        return bool(case.look.numbers([mx.all(result.array == 0)])[0])

    claim = Possibility("finding: floored", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.spot(op)}) is 0 everywhere, and the floats made of it say nothing of "
        f"{words.name(above)}, which goes from {words.number(low)} to {words.number(high)}: / in the place of // gives "
        f"{words.number(least)} to {words.number(most)}"))  # fmt: skip
    yield from findings(claim, "floored", f"explain {op.label}", op)


CHECKS: list[Check] = [floored]
