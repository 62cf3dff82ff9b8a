"""Terms: what is added to a loss, comes from Python as a number, and is another in each step: it moves no weight."""

from __future__ import annotations

from collections.abc import Iterator

from nnrepl.explain import words
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Pass, Value
from nnrepl.tape.claims import Claim


def from_python(case: Checkup) -> Iterator[Finding]:
    """Find terms of the loss that are data, or a float of Python's, and were another number in the pass before."""
    if case.before is None or case.broken:
        return
    before = [op for op in case.before.forward if op.error is None]
    now = dict(_terms(case, case.pass_))
    was = {before.index(op): number for op, number in _terms(case, case.before) if op in before}
    for op, number in now.items():
        at = case.forward.index(op) if op in case.forward else -1
        old = was.get(at)
        if old is None or old == number or words.place(before[at].source) != words.place(op.source):
            continue
        yield from findings(_moves_nothing(case, op, number, old), "term from Python", f"explain {op.label}", op)


def _terms(case: Checkup, pass_: Pass) -> Iterator[tuple[Op, float]]:
    """Yield the ops that take in a term of the loss from Python, with its number: data of one element, or a sum with a
    float."""
    stack, seen = [root for root, _ in pass_.roots], set[Value]()
    while stack:
        value = stack.pop()
        op = value.op
        if op is None or op.pass_ is not pass_ or value in seen or value.size != 1:
            continue
        seen.add(value)
        if op.operation.kind == "data":
            if is_inexact(value) and case.look.can_see(value):
                yield op, float(case.look.numbers([case.look.array(value).flatten()[0]])[0])
        elif has(op.name, Trait.ADDS, Trait.DIFFERENCE):
            stack.extend(op.inputs)
            floats = [arg for arg in op.args if isinstance(arg, float)]
            if len(floats) == 1:
                yield op, floats[0]
        elif len(op.inputs) == 1 and has(op.name, Trait.SCALES, Trait.NEGATES, Trait.ARRANGES, Trait.CONVERTS,
                                         Trait.AVERAGES, Trait.TOTALS):  # fmt: skip
            stack.append(op.inputs[0])


def _moves_nothing(case: Checkup, op: Op, number: float, old: float) -> Claim[str]:
    """Claim that a term is a number from Python that has changed, on which no gradient depends."""
    is_data = op.operation.kind == "data"

    def holds() -> bool:
        passed = any(one.of is op for one in case.pass_.ops)
        return number != old and (not passed if is_data else number in op.args)

    said = f"{op.label} {op.name}" if is_data else f"{words.number(number)} in {op.label} {words.call(op)}"
    assert case.before is not None
    earlier = case.before.address
    return Claim("finding: term from Python", holds, lambda: (
        f"{said} ({words.place(op.source)}) is a term of the loss that Python gives as a number, "
        f"{words.number(number)} here and {words.number(old)} in {earlier}: no gradient passes through it, so it moves "
        "no weight. Was it computed through NumPy, or .item()?"))  # fmt: skip


CHECKS: list[Check] = [from_python]
