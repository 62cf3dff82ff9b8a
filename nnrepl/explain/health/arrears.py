"""Arrears: gradients of steps that have been taken already, which are added to those of this one."""

from __future__ import annotations

from collections.abc import Iterator

from nnrepl.explain import words
from nnrepl.explain.health.gradient_findings import finals
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.explain.health.update_findings import same_weight
from nnrepl.explain.paths import leaves_later
from nnrepl.tape import Op, Pass, Value
from nnrepl.tape.claims import Claim


def never_cleared(case: Checkup) -> Iterator[Finding]:
    """Find a sum of this step's gradients and those of an earlier one, after which the weights have been updated, that
    goes into an update."""
    before = case.before
    if before is None:
        return
    later = leaves_later(before, case.pass_)
    now = finals(case)
    for was, old in finals(Checkup(case.session, before, case.look, case.limits)).items():
        leaf = later.get(was)
        grad = now.get(leaf) if leaf is not None else None
        if leaf is None or grad is None or same_weight(was, leaf):
            continue  # the same weights: a step of several batches
        added = _sum_of(case, grad, old)
        if added is not None:
            claim = _heaped(before, case.pass_, was, leaf, grad, added)
            yield from findings(claim, "old gradients", f"explain {added.label}", added)
            return


def _heaped(before: Pass, pass_: Pass, was: Value, leaf: Value, grad: Value, added: Op) -> Claim[str]:
    """Claim that a sum takes the new gradient, an update takes the sum, and the weight is not what it was before."""

    def holds() -> bool:
        taken = any(user.scope is not None and user.scope.updating for out in added.outputs for user in out.consumers)
        return grad in added.inputs and taken and not same_weight(was, leaf)

    return Claim("finding: old gradients", holds, lambda: (
        f"{added.label} {words.call(added)} ({words.place(added.source)}) adds the gradients of {before.address}, with "
        f"which the weights were updated already, to ∂L/∂{leaf.name} of {pass_.address}, and the update takes the sum: "
        "is it cleared after each update?"))  # fmt: skip


def _sum_of(case: Checkup, grad: Value, old: Value) -> Op | None:
    """Find the op behind a pass that adds an old gradient, or a sum of such, to a new one for an update."""
    for pass_ in case.after:
        for op in pass_.ops:
            if op.name != "add" or grad not in op.inputs or (op.scope is not None and op.scope.updating):
                continue
            others = [taken for taken in op.inputs if taken is not grad]
            updating = any(user.scope is not None and user.scope.updating for user in op.outputs[0].consumers)
            if updating and any(_holds(taken, old) for taken in others):
                return op
    return None


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
