"""Arrears: gradients of steps that have been taken already, which are added to those of this one."""

from __future__ import annotations

from collections.abc import Iterator

from nnrepl.explain import words
from nnrepl.explain.health.gradient_findings import finals
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.explain.health.update_findings import same_weight
from nnrepl.explain.paths import leaves_later
from nnrepl.ops import Trait, has
from nnrepl.tape import GRADIENT_PASS, Op, Pass, Value
from nnrepl.tape.claims import Claim


def never_cleared(case: Checkup) -> Iterator[Finding]:
    """Find a sum of this step's gradients and those of an earlier one, after which the weights have been updated, that
    goes into an update."""
    now = finals(case)
    earlier = reversed(case.series[: case.series.index(case.pass_)])
    before = next((pass_ for pass_ in earlier if _updated(pass_, case)), None)
    if before is None:
        return
    later = leaves_later(before, case.pass_)
    for was, old in finals(Checkup(case.session, before, case.look, case.limits)).items():
        leaf = later.get(was)
        grad = now.get(leaf) if leaf is not None else None
        if leaf is None or grad is None or same_weight(was, leaf):
            continue
        added = _sum_of(case, leaf, grad, old)
        if added is not None:
            claim = _heaped(case, before, was, leaf, grad, added)
            yield from findings(claim, "old gradients", f"explain {added.label}", added)
            return


def _updated(before: Pass, case: Checkup) -> bool:
    """Whether weights have been updated between two passes: one step may add up the gradients of several."""
    return any(not same_weight(was, leaf) for was, leaf in leaves_later(before, case.pass_).items())


def _heaped(case: Checkup, before: Pass, was: Value, leaf: Value, grad: Value, added: Op) -> Claim[str]:
    """Claim that a sum takes the new gradient, an update takes the sum, and the weight is not what it was before."""

    def holds() -> bool:
        return grad in added.inputs and _is_applied(case, leaf, added) and not same_weight(was, leaf)

    return Claim("finding: old gradients", holds, lambda: (
        f"{added.label} {words.call(added)} ({words.place(added.source)}) adds the gradients of {before.address}, with "
        f"which the weights were updated already, to ∂L/∂{leaf.name} of {case.pass_.address}, and the update takes the "
        "sum: is it cleared after each update?"))  # fmt: skip


def _sum_of(case: Checkup, leaf: Value, grad: Value, old: Value) -> Op | None:
    """Find the op behind a pass that adds an old gradient, or a sum of such, to a new one for an update."""
    for op in case.session.tape.consumers(grad):
        if op.name != "add" or op.pass_.kind == GRADIENT_PASS or _updates(op, leaf):
            continue
        others = [taken for taken in op.inputs if taken is not grad]
        if any(_holds(taken, old) for taken in others) and _is_applied(case, leaf, op):
            return op
    return None


def _is_applied(case: Checkup, leaf: Value, added: Op) -> bool:
    """Whether an update takes a sum, or what is made of it element by element: a mean over batches, a clipped one."""
    stack, seen = [added], {added}
    while stack:
        for out in stack.pop().outputs:
            for user in case.session.tape.consumers(out):
                if _updates(user, leaf):
                    return True
                if user not in seen and len(seen) < _FAR and [one.shape for one in user.outputs] == [leaf.shape]:
                    seen.add(user)
                    stack.append(user)
    return False


def _updates(op: Op, leaf: Value) -> bool:
    """Whether an op belongs to an optimizer's update, or makes new weights of this one by hand."""
    if op.scope is not None and op.scope.updating:
        return True
    moves = has(op.name, Trait.SUM, Trait.DIFFERENCE) and op.pass_.kind != GRADIENT_PASS
    return moves and any(one in (leaf, leaf.origin) for one in op.inputs)


def _holds(value: Value, old: Value) -> bool:
    """Whether a tensor is a gradient, or a sum in which it stands as it was."""
    stack, seen = [value], {value}
    while stack:
        one = stack.pop()
        if one is old:
            return True
        sums = one.op is not None and one.op.name == "add" and one.origin is None
        following = [one.origin] if one.origin is not None else one.op.inputs if sums and one.op is not None else ()
        for taken in following:
            if taken not in seen and len(seen) < _FAR:
                seen.add(taken)
                stack.append(taken)
    return False


_FAR = 1000

CHECKS: list[Check] = [never_cleared]
