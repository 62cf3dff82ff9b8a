"""Made anew: weights that a layer draws in the midst of the pass, are others in the next one, and learn nothing."""

from __future__ import annotations

from collections.abc import Iterator

from nnrepl.explain import words
from nnrepl.explain.disconnected import leads_to_loss
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.record.stack import is_module
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim


def made_anew(case: Checkup) -> Iterator[Finding]:
    """Find a weight of a product that a Module's __init__ has drawn in this very pass."""
    told: set[str] = set()
    for op in case.forward:
        for taken in op.inputs if has(op.name, Trait.PRODUCT, Trait.LOOKS_UP) else ():
            drawn = _drawn(case, taken)
            where = words.place(words.call_of(drawn)) if drawn is not None else ""
            if drawn is None or where in told or not leads_to_loss(case.session, case.pass_, taken):
                continue
            told.add(where)
            yield from findings(_is_drawn(case, drawn, op), "made anew", f"explain {drawn.label}", drawn)


def _drawn(case: Checkup, value: Value) -> Op | None:
    """Return the random op of this pass that has made a weight in the __init__ of a Module, before it was transposed
    or scaled."""
    while (op := value.op) is not None and op.pass_ is case.pass_:
        if has(op.name, Trait.RANDOM):
            scope = op.scope
            while scope is not None:
                if scope.code.co_name == "__init__" and is_module(scope.owner):
                    return op
                scope = scope.parent
            return None
        if len(op.inputs) != 1 or not has(op.name, Trait.ARRANGES, Trait.SCALES, Trait.CONVERTS):
            return None
        value = op.inputs[0]
    return None


def _is_drawn(case: Checkup, drawn: Op, taker: Op) -> Claim[str]:
    """Claim that what a product takes was drawn in its own pass, and has no gradient there."""
    value = drawn.outputs[0]
    return Claim(
        "finding: made anew",
        lambda: drawn.pass_ is taker.pass_ and not case.pass_.grads.get(value.canonical),
        lambda: (
            f"{words.name(value)} is drawn by a Module's __init__ in the midst of {case.pass_.address} ({drawn.label}, "
            f"{words.spot(drawn)}) and used as a weight by {taker.label}: each call makes its own, and none is "
            "trained. Make the layer once, before the training"
        ),
    )


CHECKS: list[Check] = [made_anew]
