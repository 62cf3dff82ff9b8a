"""Checks: every check of `health`, in the order in which findings are listed; a new one is an entry of its module."""

from __future__ import annotations

from nnrepl.explain.health import (
    activations,
    arrears,
    broadcasts,
    dead_ways,
    gradient_findings,
    growth,
    parameters,
    precision,
    program_findings,
    repeats,
    results,
    shares,
    symmetry,
    update_findings,
)
from nnrepl.explain.health.indices import outside
from nnrepl.explain.health.report import Check, Checkup, Finding

__all__ = ["CHECKS", "of_the_step_before", "outside"]

_MODULES = (
    gradient_findings,
    activations,
    dead_ways,
    symmetry,
    shares,
    broadcasts,
    precision,
    results,
    update_findings,
    arrears,
    repeats,
    growth,
    parameters,
    program_findings,
)
CHECKS: tuple[Check, ...] = (*(check for module in _MODULES for check in module.CHECKS), *results.INSIDE)


def of_the_step_before(case: Checkup) -> list[Finding]:
    """Tell how this step began from the one before, and, where this one's update lies ahead, what the program did with
    the gradients of the one before. Notes in `case` whether the program drops what an update makes."""
    before = case.before
    if before is None:
        return []
    earlier = Checkup(case.session, before, case.look, case.limits)
    found: list[Finding] = []
    for check in results.BETWEEN if case.after else (*results.CHECKS, *update_findings.CHECKS):
        found.extend(check(earlier))
    case.unapplied = earlier.unapplied
    return found
