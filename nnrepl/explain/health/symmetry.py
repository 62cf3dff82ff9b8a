"""Symmetry: units that are the same and get the same gradient, and so stay the same."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain.health.gradient_findings import finals
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.tape import Value
from nnrepl.tape.claims import Claim


def same_units(case: Checkup) -> Iterator[Finding]:
    """Weights of a product whose rows are all one row, and whose gradient's rows are too."""
    if case.broken:
        return
    found = [(leaf, grad) for leaf, grad in finals(case).items()
             if len(leaf.shape) > 1 and leaf.shape[0] > 1 and leaf.shape[-1] > 1 and _is_factor(leaf)]  # fmt: skip
    case.look.see([value for pair in found for value in pair])
    tests = [mx.stack([mx.all(leaf.array == leaf.array[:1]), mx.all(grad.array == grad.array[:1]),
                       mx.any(grad.array != 0)]) for leaf, grad in found]  # fmt: skip
    for (leaf, grad), (weights, gradients, learns) in zip(found, case.look.numbers(tests)):
        if weights and gradients and learns:
            yield from findings(_one_unit(case, leaf, grad), "same units", f"p {leaf.name}",
                                leaf.consumers[0] if leaf.consumers else None)  # fmt: skip


def _one_unit(case: Checkup, leaf: Value, grad: Value) -> Claim[str]:
    """Claim that no row of a weight, or of its gradient, differs from another: by the largest and smallest of each
    column."""

    def holds() -> bool:
        spans = [mx.all(mx.max(one.array, axis=0) == mx.min(one.array, axis=0)) for one in (leaf, grad)]
        return all(case.look.numbers(spans))

    return Claim("finding: same units", holds, lambda: (
        f"all {leaf.shape[0]} rows of {leaf.name} are the same, and so are those of its gradient: an update that "
        "follows it leaves its units one unit. Weights must begin with different numbers"))  # fmt: skip


def _is_factor(leaf: Value) -> bool:
    """Whether a product takes it, turned or not: its rows are units then."""
    users = [user for user in leaf.consumers if user.phase == "forward" and user.outputs]
    if any(has(user.name, Trait.PRODUCT) for user in users):
        return True
    return any(has(user.name, Trait.ARRANGES) and _is_factor(user.outputs[0]) for user in users)


CHECKS: list[Check] = [same_units]
