"""Kept out: what is computed from the weights, counts in the loss, and is kept from the gradient by stop_gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nnrepl.explain import words
from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding, findings
from nnrepl.installed import is_library
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Pass, Value
from nnrepl.tape.claims import Claim


def kept_out(case: Checkup) -> Iterator[Finding]:
    """Find a stop_gradient of the program's own behind which weights lie that learn on other ways."""
    stops = [op for op in case.forward if op.name == "stop_gradient" and op.inputs and is_inexact(op.inputs[0])]
    if not stops:
        return
    behind = from_weights(case)
    counting = in_the_loss(case)
    told: set[str] = set()
    for op in stops:
        leaves = behind.get(op.inputs[0].canonical, {})
        spot = words.spot(op)
        if op not in counting or spot in told or is_library(op.source.file) or _is_usual(op):
            continue
        if not leaves or not all(_learns(case, leaf) for leaf in leaves):
            continue  # what gets no gradient at all, or 0, is told as that
        told.add(spot)
        yield from findings(_keeps_out(case, op, list(leaves)), "kept out", f"what {op.label}", op, NOTE)


def _keeps_out(case: Checkup, op: Op, leaves: list[Value]) -> Claim[str]:
    """Claim that no gradient passes an op, and that those weights which it takes get one nevertheless."""

    def holds() -> bool:
        return not any(one.of is op for one in case.pass_.ops) and all(_learns(case, leaf) for leaf in leaves)

    names = ", ".join(leaf.name for leaf in leaves[:3]) + (f" and {len(leaves) - 3} more" if len(leaves) > 3 else "")
    learn = "learns" if len(leaves) == 1 else "learn"
    return Claim("finding: kept out", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.spot(op)}) lets no gradient through to "
        f"{words.name(op.inputs[0])}, though the loss depends on it: {names} {learn} on other ways only"))  # fmt: skip


def _learns(case: Checkup, leaf: Value) -> bool:
    """Whether a gradient comes to a weight that is not 0 everywhere."""
    parts = case.pass_.grads.get(leaf)
    return parts is not None and not (case.look.can_see(parts[-1]) and case.look.stat(parts[-1]).is_zero)


def _is_usual(op: Op) -> bool:
    """Whether it is a straight-through estimator, `y + stop_gradient(q - y)`, or takes the largest of a row, as in a
    softmax by hand."""
    made = op.inputs[0].op
    if made is None:
        return False
    if has(made.name, Trait.REDUCES) and has(made.name, Trait.CHOOSES):
        return True
    ends = {taken.canonical for taken in made.inputs} if has(made.name, Trait.DIFFERENCE) else set()
    users = [user for user in op.outputs[0].consumers if has(user.name, Trait.ADDS)]
    return any(taken.canonical in ends for user in users for taken in user.inputs)


def from_weights(case: Checkup) -> dict[Value, dict[Value, None]]:
    """Return, for each tensor of the forward part, the weights from which it was computed, also past stop_gradient."""
    found: dict[Value, dict[Value, None]] = {
        leaf.canonical: {leaf: None} for leaf in case.pass_.wrt if leaf.size and is_inexact(leaf)
    }
    for op in case.forward:
        leaves: dict[Value, None] = {}
        for taken in op.inputs:
            leaves.update(found.get(taken.canonical, {}))
        if leaves:
            found.update((value.canonical, leaves) for value in op.outputs)
    return found


def in_the_loss(case: Checkup) -> set[Op]:
    """Return the forward ops on which the loss depends."""
    return made_by(case.pass_, [root for root, _ in case.pass_.roots])


def made_by(pass_: Pass, values: Iterable[Value]) -> set[Op]:
    """Return the ops of a pass from which tensors were computed."""
    found: set[Op] = set()
    stack = list(values)
    while stack:
        op = stack.pop().op
        if op is not None and op.pass_ is pass_ and op not in found:
            found.add(op)
            stack.extend(op.inputs)
    return found


CHECKS: list[Check] = [kept_out]
