"""Checks: every check of `health`, in the order in which findings are listed; a new one is an entry of its module.
`health` runs them over a pass, and gathers what they find."""

from __future__ import annotations

from collections.abc import Sequence

from nnrepl.explain.health import (
    activations,
    arrears,
    averages,
    axes,
    broadcasts,
    dead_ways,
    erasures,
    floored,
    forgotten,
    from_the_end,
    frozen_parts,
    gradient_findings,
    growth,
    kept_out,
    made_anew,
    masked_late,
    masked_whole,
    no_gradient,
    own_numbers,
    parameters,
    peeking,
    precision,
    program_findings,
    repeats,
    results,
    shares,
    sharp,
    shuffling,
    signs,
    symmetry,
    tables,
    terms,
    update_findings,
    wholes,
)
from nnrepl.explain.health.indices import outside
from nnrepl.explain.health.report import WARNING, Check, Checkup, Finding, Report
from nnrepl.explain.limits import usual
from nnrepl.explain.look import Look
from nnrepl.explain.paths import gradient_pass, same_function
from nnrepl.session.errors import UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Pass
from nnrepl.tape.collector import paused

_MODULES = (
    gradient_findings,
    no_gradient,
    activations,
    dead_ways,
    frozen_parts,
    kept_out,
    terms,
    own_numbers,
    symmetry,
    shares,
    sharp,
    axes,
    peeking,
    signs,
    broadcasts,
    precision,
    results,
    update_findings,
    forgotten,
    erasures,
    arrears,
    averages,
    repeats,
    growth,
    parameters,
    tables,
    program_findings,
    wholes,
    floored,
    shuffling,
    masked_late,
    masked_whole,
    made_anew,
    from_the_end,
)
CHECKS: tuple[Check, ...] = (*(check for module in _MODULES for check in module.CHECKS), *results.INSIDE)


def of_the_step_before(case: Checkup) -> list[Finding]:
    """Tell how this step began from the one before, and, where this one's update lies ahead, what the program did with
    the gradients of the one before. Notes in `case` whether the program drops what an update makes."""
    number = case.pass_.step.number
    turns = [pass_ for pass_ in case.series if pass_.step.number < number]  # one step makes several, which are summed
    before = turns[-1] if turns else case.before
    if before is None:
        return []
    earlier = Checkup(case.session, before, case.look, case.limits)
    found: list[Finding] = []
    updated = case.after and not case.updating
    for check in results.BETWEEN if updated else (*results.CHECKS, *update_findings.CHECKS, *forgotten.CHECKS):
        found.extend(check(earlier))
    case.unapplied = earlier.unapplied
    return found


@paused()
def health(session: Reading, **limits: float) -> Report:
    """Look over the gradient pass at the cursor, those of other functions in its step, and the update after each.

    Raises:
        UserError: If no gradient has been taken.
    """
    pass_ = gradient_pass(session)
    if pass_.error is not None:
        raise UserError(f"{pass_.address} ended with {type(pass_.error).__name__}; why error tells more")
    look = Look(session)
    report = Report(pass_)
    _look_over(Checkup(session, pass_, look, usual() | limits), report)
    for other in _others(session, pass_):
        if not report.unsafe:
            _look_over(Checkup(session, other, look, usual() | limits), report)
            report.also.append(other)
    report.findings.sort(key=lambda finding: finding.level != WARNING)
    report.looked, report.ops, report.refused = look.looked, look.ops, look.refused
    looked = {pass_, *report.also}
    report.elsewhere = session.pass_ is not None and session.pass_.step.number != pass_.step.number
    report.others = sum(other.kind == GRADIENT_PASS and other not in looked for other in pass_.step.passes)
    return report


def _look_over(case: Checkup, report: Report) -> None:
    """Run every check over a pass, and add to a report what is new."""
    found = list(outside(case))
    checks: Sequence[Check] = () if case.unsafe else CHECKS
    before, is_last = case.before, case.next is None
    later = case.next is not None and case.next.step.number > case.pass_.step.number
    told = [] if later or case.unsafe else of_the_step_before(case)
    for check in checks:
        found.extend(check(case))
    kinds = {finding.kind for finding in told}
    known = {(finding.kind, finding.op) for finding in report.findings}
    found = [finding for finding in found if finding.kind not in kinds] + told
    report.findings.extend(one for one in found if one.op is None or (one.kind, one.op) not in known)
    report.checks += len(checks) + 1
    report.unsafe = report.unsafe or case.unsafe
    passes = case.pass_.step.passes
    goes_on = any(other.kind == GRADIENT_PASS and other.start > case.pass_.start for other in passes)
    if is_last and (case.updating if case.after else not goes_on):  # the last call of a step has the update
        instead = f" ({before.address} was looked at instead)" if before is not None else ""
        _leave_unseen(report, f"the {'rest of the ' if case.after else ''}update{instead}")
    closed = before is not None and isinstance(before.tape.ops[before.start], ClosedOp)
    if is_last and (before is None or closed):
        _leave_unseen(report, "what differs from step to step")


def _leave_unseen(report: Report, what: str) -> None:
    if what not in report.unseen:
        report.unseen.append(what)


def _others(session: Reading, pass_: Pass) -> list[Pass]:
    """Return the last gradient pass of each other function in the step, or since the pass before of the same function:
    the other of two models, whose update makes a step of its own."""
    series = same_function(session, pass_)
    at = series.index(pass_)
    start = series[at - 1].end if at else pass_.step.start
    found: list[Pass] = []
    looked = set(series)
    for other in reversed(session.tape.passes):
        if other.start < min(start, pass_.step.start) or (other.step is not pass_.step and other.start > pass_.start):
            continue
        recorded = len(other) and not isinstance(other.tape.ops[other.start], ClosedOp)
        if other.kind == GRADIENT_PASS and other.error is None and recorded and other not in looked:
            found.append(other)
            looked.update(same_function(session, other))
    return found[::-1]
