"""Checks: every check of `health`, in the order in which findings are listed; a new one is an entry of its module.
`health` runs them over a pass, and gathers what they find."""

from __future__ import annotations

from collections.abc import Sequence

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
    wholes,
)
from nnrepl.explain.health.indices import outside
from nnrepl.explain.health.report import WARNING, Check, Checkup, Finding, Report
from nnrepl.explain.limits import usual
from nnrepl.explain.look import Look
from nnrepl.explain.paths import gradient_pass
from nnrepl.session.errors import UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, ClosedOp
from nnrepl.tape.collector import paused

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
    wholes,
)
CHECKS: tuple[Check, ...] = (*(check for module in _MODULES for check in module.CHECKS), *results.INSIDE)


def of_the_step_before(case: Checkup) -> list[Finding]:
    """Tell how this step began from the one before, and, where this one's update lies ahead, what the program did with
    the gradients of the one before. Notes in `case` whether the program drops what an update makes."""
    number = case.pass_.step.number
    turns = [
        pass_ for pass_ in case.series if pass_.step.number < number
    ]  # of sums of gradients one step makes several
    before = turns[-1] if turns else case.before
    if before is None:
        return []
    earlier = Checkup(case.session, before, case.look, case.limits)
    found: list[Finding] = []
    for check in results.BETWEEN if case.after else (*results.CHECKS, *update_findings.CHECKS):
        found.extend(check(earlier))
    case.unapplied = earlier.unapplied
    return found


@paused()
def health(session: Reading, **limits: float) -> Report:
    """Look over the gradient pass at the cursor, and the update after it.

    Raises:
        UserError: If no gradient has been taken.
    """
    pass_ = gradient_pass(session)
    if pass_.error is not None:
        raise UserError(f"{pass_.address} ended with {type(pass_.error).__name__}; why error tells more")
    look = Look(session)
    values = usual() | limits
    case = Checkup(session, pass_, look, values)
    report = Report(pass_)
    report.findings.extend(outside(case))
    checks: Sequence[Check] = () if case.unsafe else CHECKS
    before = case.before
    later = case.next is not None and case.next.step.number > pass_.step.number
    told = [] if later or case.unsafe else of_the_step_before(case)
    for check in checks:
        report.findings.extend(check(case))
    kinds = {finding.kind for finding in told}
    report.findings = [finding for finding in report.findings if finding.kind not in kinds] + told
    report.checks, report.unsafe = len(checks) + 1, case.unsafe
    report.findings.sort(key=lambda finding: finding.level != WARNING)
    report.looked, report.ops, report.refused = look.looked, look.ops, look.refused
    report.others = sum(other.kind == GRADIENT_PASS and other is not pass_ for other in pass_.step.passes)
    if not case.after and case.next is None:
        instead = f" ({before.address} was looked at instead)" if before is not None else ""
        report.unseen.append(f"the update{instead}")
    closed = before is not None and isinstance(before.tape.ops[before.start], ClosedOp)
    if case.next is None and (before is None or closed):
        report.unseen.append("what differs from step to step")
    return report
