"""Growth: graphs that grow from step to step because nothing evaluates them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.session.closed import TELLING
from nnrepl.tape import GRADIENT_PASS, Op, Pass, Tape, Value
from nnrepl.tape.claims import Claim
from nnrepl.tape.steps import in_one_turn

_STEPS = TELLING
"""So many steps are looked at: what is evaluated in every second step only is no fault."""


def growing(case: Checkup) -> Iterator[Finding]:
    """Values that outlive their step while nothing that the program evaluates needs them."""
    tape = case.session.tape
    turns = _turns(case)
    at = max(sum(pass_.start <= case.pass_.start for pass_ in turns) - 1, _STEPS)
    if len(turns) <= at:
        return
    now = turns[at].start  # where the next step begins
    since = turns[at - _STEPS]
    done = _evaluated(tape, now)
    alive = [value for value in _outliving(tape, turns[at - 1].start, now) if value not in done]
    grown = [value for value in alive if _reaches(value, done, since)]
    if not grown or _lets_go(tape, grown, now):
        return
    names = list(dict.fromkeys(value.name for value in grown))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    waiting = _waiting(grown, done)

    def holds() -> bool:
        """Whether each of the steps since has left ops behind that wait."""
        behind = {op.step.number for op in waiting}
        return all(pass_.step.number in behind for pass_ in turns[at - _STEPS : at])

    yield from findings(
        Claim("finding: growing graph", holds, lambda: (
            f"nothing has evaluated {shown} when {turns[at].address} begins: {len(waiting)} ops back to "
            f"{since.address} wait with all their tensors, and each of the last {_STEPS} steps has added to them; an "
            "mx.eval in every step lets go of them")),
        "growing graph", f"what {names[0]}", grown[0].op)  # fmt: skip


def _turns(case: Checkup) -> list[Pass]:
    """Return the first gradient pass of each step: what is added up over several calls before one update waits by
    intent, and is let go of with it. Where the program makes no update, every pass is a turn."""
    passes = [pass_ for pass_ in case.session.tape.passes if pass_.kind == GRADIENT_PASS and pass_.error is None]
    firsts = {pass_.step.number: pass_ for pass_ in reversed(passes)}
    return passes if len(firsts) == 1 else list(reversed(firsts.values()))


def _lets_go(tape: Tape, grown: list[Value], since: int) -> bool:
    """Whether the program evaluates what waits a little later, in the turn of a loop further out in which it was made:
    the steps of a sampler, or of an inner loop, wait for the step around them, and no longer."""
    done: set[Value] = set()
    for mark in tape.marks:
        if mark.position > since:
            _add(done, mark.values)
            if done.issuperset(grown):
                return all(value.op is not None and in_one_turn(value.op, mark.scope, mark.lasti) for value in grown)
    return False


def _evaluated(tape: Tape, end: int) -> set[Value]:
    """Return what the program itself has evaluated before a position, with all that was needed for it."""
    done: set[Value] = set()
    _add(done, [value for mark in tape.marks if mark.position <= end for value in mark.values])
    return done


def _add(done: set[Value], values: Iterable[Value]) -> None:
    """Add values to what has been evaluated, with all that was needed for them."""
    stack = list(values)
    while stack:
        value = stack.pop()
        if value in done:
            continue
        done.add(value)
        if value.origin is not None:
            stack.append(value.origin)
        if value.op is not None:
            stack.extend(value.op.outputs)
            stack.extend(value.op.inputs)


def _outliving(tape: Tape, start: int, end: int) -> Iterator[Value]:
    """Yield what was made between two positions and is used after the second."""
    later: set[Value] = set()
    for op in tape.ops[end:]:
        for taken in op.inputs:
            later.update(_itself(taken))
    for mark in tape.marks:
        if mark.position > end:
            for value in mark.values:
                later.update(_itself(value))
    for op in tape.ops[start:end]:
        yield from (value for value in op.outputs if value in later)


def _itself(value: Value | None) -> Iterable[Value]:
    found = []
    while value is not None:
        found.append(value)
        value = value.origin
    return found


def _reaches(value: Value, done: set[Value], since: Pass) -> bool:
    """Whether what a value waits for lies in the gradient pass `since` or before."""
    return any(op.pass_.kind == GRADIENT_PASS and op.position < since.end for op in _waiting([value], done))


def _waiting(values: list[Value], done: set[Value]) -> set[Op]:
    found: set[Op] = set()
    stack = list(values)
    seen: set[Value] = set()
    while stack:
        value = stack.pop()
        if value in done or value in seen:
            continue
        seen.add(value)
        if value.origin is not None:
            stack.append(value.origin)
        if value.op is not None and value.op not in found:
            found.add(value.op)
            stack.extend(value.op.inputs)
    return found


CHECKS: list[Check] = [growing]
