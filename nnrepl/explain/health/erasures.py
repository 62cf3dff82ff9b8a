"""Erasures: weights that an update has made 0."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.explain.health.update_findings import changes
from nnrepl.explain.paths import leaves_later
from nnrepl.explain.stuck import made_zero
from nnrepl.session.births import is_inexact
from nnrepl.tape import Value
from nnrepl.tape.claims import Claim


def erased(case: Checkup) -> Iterator[Finding]:
    """Find matrices that an update has made 0 in all numbers: this one, or one since the first step."""
    now = [(change.before, change.after) for change in changes(case)]
    since = list(leaves_later(case.series[0], case.pass_).items()) if case.series[0] is not case.pass_ else []
    for pairs, is_now in ((since, False), (now, True)):
        pairs = [(old, new) for old, new in pairs if len(new.shape) > 1 and new.size and is_inexact(new)
                 and case.look.can_see(old) and case.look.can_see(new)]  # fmt: skip
        stats = case.look.stats([one for pair in pairs for one in pair])
        gone = [(old, new) for old, new in pairs if stats[new].is_zero and not stats[old].is_zero]
        if gone and not case.broken:
            op = gone[0][1].op if is_now else None
            yield from findings(_erased(case, gone, is_now), "erased weight", f"why {gone[0][0].name}", op)
            return


def _erased(case: Checkup, gone: list[tuple[Value, Value]], is_now: bool) -> Claim[str]:
    """Claim that weights of which some number was not 0 have none any more."""

    def holds() -> bool:
        alive = case.look.numbers([mx.any(case.look.array(one) != 0) for pair in gone for one in pair])
        return all(alive[::2]) and not any(alive[1::2])

    names = ", ".join(old.name for old, _ in gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
    if is_now:
        return Claim("finding: erased weight", holds, lambda: (
            f"the update makes all numbers of {names} 0: {made_zero(case.look, gone[0][1]).text.rstrip('.')}"
        ))  # fmt: skip
    return Claim("finding: erased since", holds, lambda: (
        f"all numbers of {names} are 0, and were not in {case.series[0].step.title}: an update has made them so"
    ))  # fmt: skip


CHECKS: list[Check] = [erased]
