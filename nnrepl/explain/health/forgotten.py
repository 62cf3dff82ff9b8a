"""Forgotten: gradients that no update takes, though the program has gone on; what is made of them for nothing; what an
optimizer was given in their place."""

from __future__ import annotations

from collections.abc import Iterator

from nnrepl.explain import words
from nnrepl.explain.health.gradient_findings import finals
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.explain.health.update_findings import ParameterUpdate, changes, same_weight
from nnrepl.session.births import is_inexact
from nnrepl.tape import GRADIENT_PASS, Op, Pass, Value
from nnrepl.tape.claims import Claim, Possibility


def forgotten(case: Checkup) -> Iterator[Finding]:
    """Gradients that nobody uses, although the program has gone on to take others."""
    passes = case.session.tape.passes
    later = [pass_ for pass_ in passes[passes.index(case.pass_) + 1 :] if pass_.kind == GRADIENT_PASS]
    over = later or (case.session.recorder is not None and not case.session.running)
    grads = finals(case)
    if not over or not grads:
        return
    seen = {value for mark in case.session.tape.marks if mark.how not in _WAITS for value in mark.values}
    if any(grad in seen for grad in grads.values()):
        return  # the program prints them, or takes them as numbers
    if any(op.pass_ is not case.pass_ for grad in grads.values() for op in case.session.tape.consumers(grad)):
        if not case.session.running:
            yield from _made_for_nothing(case, list(grads.values()), seen)
        return
    if not later and _were_used(case):
        return  # a loop that ends with a gradient has one more than it has updates
    first = next(iter(grads))
    yield from findings(_forgot(case, grads, later), "forgotten update", f"what grad({first.name})", grads[first].op)


def _were_used(case: Checkup) -> bool:
    """Whether the program has taken the gradients that it had taken of the same function before."""
    for before in reversed(case.series[: case.series.index(case.pass_)]):
        grads = finals(Checkup(case.session, before, case.look, case.limits)).values()
        if grads:
            users = (op for grad in grads for op in case.session.tape.consumers(grad))
            return any(op.pass_ is not before for op in users)
    return False


def _made_for_nothing(case: Checkup, grads: list[Value], seen: set[Value]) -> Iterator[Finding]:
    """Find what is made of gradients, scaled or clipped, and is used by nothing though the program has ended."""
    made, ends = _made_of(case, grads)
    waited = {value for mark in case.session.tape.marks for value in mark.values}
    weights = {one for leaf in case.pass_.wrt for one in (leaf, leaf.origin)}
    updates = any(op.scope is not None and op.scope.updating for op in made)
    by_hand = any(taken in weights for op in made for taken in op.inputs)
    if not made or updates or by_hand or any(op.pass_.kind == GRADIENT_PASS for op in made):
        return
    if any(value in seen for op in made for value in op.outputs) or any(value in waited for value in ends):
        return
    first = made[0]

    def holds() -> bool:
        return not any(value in op.inputs for value in ends for op in case.session.tape.ops[case.pass_.end :])

    claim = Claim("finding: made for nothing", holds, lambda: (
        f"what is made of the gradients of {case.pass_.address} ({first.label} {words.call(first)}, "
        f"{words.place(words.call_of(first))}) is used by nothing: no update takes it"))  # fmt: skip
    yield from findings(claim, "forgotten update", f"what {first.label}", first)


def _made_of(case: Checkup, grads: list[Value]) -> tuple[list[Op], list[Value]]:
    """Return the ops behind a pass that take some tensors, or what was made of them, in order; and what nothing takes
    of that."""
    stack, seen, made = list(grads), set(grads), set()
    ends: list[Value] = []
    while stack:
        value = stack.pop()
        users = [op for op in case.session.tape.consumers(value) if op.pass_ is not case.pass_]
        if not users:
            ends.append(value)
        for op in users:
            made.add(op)
            stack.extend(one for one in op.outputs if one not in seen)
            seen.update(op.outputs)
    return sorted(made, key=lambda op: op.position), ends


def _forgot(case: Checkup, grads: dict[Value, Value], later: list[Pass]) -> Claim[str]:
    """Claim that no op after a pass takes one of its gradients, and which op an update takes instead, if one does."""
    same = bool(later) and any(same_weight(leaf, other) for leaf in case.pass_.wrt for other in later[0].wrt)
    text = f"no op after {case.pass_.address} takes one of its gradients"
    given = next(((one, op) for one in changes(case) if (op := _given(one)) is not None), None)
    if given is not None:
        one, op = given
        text += f": the update of {one.name} takes {words.made(op.outputs[0], op)} in the place of its gradient"
        text += ", which is made of the weights" if _is_made_of_weights(case, op) else ""
    if same:
        text += f", and {later[0].address} begins with the same weights: the update is probably forgotten"

    def holds() -> bool:
        own = set(grads.values())
        return not any(own & set(op.inputs) for op in case.session.tape.ops[case.pass_.end :])

    return (Possibility if same else Claim)("finding: forgotten update", holds, lambda: text)


def _given(change: ParameterUpdate) -> Op | None:
    """Return the op outside of an optimizer that made what its update of a weight takes in the place of a gradient."""
    stack, seen = [change.after], {change.after}
    while stack:
        op = stack.pop().op
        if op is None or op.scope is None:
            continue
        if not op.scope.updating:
            return op
        fresh = [taken for taken in op.inputs if taken not in seen and taken.shape == change.before.shape
                 and is_inexact(taken) and taken.op is not None]  # fmt: skip
        seen.update(fresh)
        stack.extend(fresh)
    return None


def _is_made_of_weights(case: Checkup, op: Op) -> bool:
    """Whether what an op makes after a pass comes from the weights of that pass, and from nothing else but numbers."""
    weights = {leaf.oldest for leaf in case.pass_.wrt}
    stack, entered = [op], set[Value]()
    seen = {op}
    while stack:
        for taken in stack.pop().inputs:
            if taken.op is not None and taken.op.pass_ in case.after:
                if taken.op not in seen:
                    seen.add(taken.op)
                    stack.append(taken.op)
            elif taken.size > 1:
                entered.add(taken.oldest)
    return bool(entered) and entered <= weights


_WAITS = ("mx.eval", "mx.async_eval")

CHECKS: list[Check] = [forgotten]
