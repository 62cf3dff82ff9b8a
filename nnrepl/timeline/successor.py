"""Successor: a tape that takes the place of another, on which the same lies and some steps are open.

What lies on both are the same values, and what is noted of ops and values is noted once for all tapes. So the old tape
would live on in each tensor that came in on it, and all that it alone held in the notes: here that is let go of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from nnrepl.tape import Leaf, Op, Pass, Tape, Value
from nnrepl.tape.bindings import known_to
from nnrepl.tape.passes import outermost


def succeed(old: Tape, new: Tape, others: Iterable[Tape], held: Iterable[Value], moved: Callable[[int], int]) -> None:
    """Let go of what lies on a tape alone whose place another one takes.

    Args:
        old: The tape.
        new: The one that takes its place.
        others: All tapes on which the user can look. If the old one is among them, nothing is let go of.
        held: What else is known by its value: what the program holds.
        moved: Where on the new tape a position of the old one lies.
    """
    tapes = [new, *(tape for tape in dict.fromkeys(others) if tape is not new)]
    if old in tapes or old.notes is not new.notes:
        return
    ops = {op for tape in chain(tapes, *map(_sheets_of, tapes)) for op in tape.ops}
    values = _all_of(tapes, held)
    for value in values:
        _come_over(value, old, new, moved)
    new.notes.keep(ops, values)
    bindings = [tape.bindings for tape in tapes]
    for value in values:
        value.bound = known_to(bindings, value)


def _all_of(tapes: list[Tape], held: Iterable[Value]) -> set[Value]:
    """Return all values that some tapes speak of, and those that these continue or belong to."""
    todo = [*held, *chain.from_iterable([_values_on(tape) for tape in chain(tapes, *map(_sheets_of, tapes))])]
    found: set[Value] = set()
    aliases, edits = tapes[0].notes.aliases, tapes[0].notes.edits
    while todo:
        value = todo.pop()
        if value in found:
            continue
        found.add(value)
        near = (value.origin, value.gradient_of, value.tangent_of, aliases.get(value),
                None if value.op is None else edits.get(value.op))  # fmt: skip
        todo += [other for other in near if other is not None]
    return found


def _sheets_of(tape: Tape) -> Iterator[Tape]:
    """Yield what has the further runs of functions in the calls of a tape: what is asked of those calls is made so."""
    for pass_ in {op.pass_ for op in tape.ops if op.inner}:
        yield from outermost(pass_).sheets


def _values_on(tape: Tape) -> Iterator[Value]:
    for op in tape.ops:
        yield from op.inputs
        yield from op.outputs
    for pass_ in {*tape.passes, *(op.pass_ for op in tape.ops)}:
        yield from _values_of(pass_)
    for mark in tape.marks:
        yield from mark.values
    yield from (hole.value for hole in tape.holes)
    yield from (thing for _, _, _, thing in tape.bindings.log if isinstance(thing, Value))
    yield from (thing for _, _, thing, _ in tape.bindings.holds if isinstance(thing, Value))


def _values_of(pass_: Pass) -> Iterator[Value]:
    yield from chain(pass_.wrt, pass_.handed, pass_.given, pass_.returned or ())
    yield from chain.from_iterable(pass_.roots)
    for value, grads in pass_.grads.items():
        yield value
        yield from grads
    if pass_.loss is not None:
        yield pass_.loss


def _come_over(value: Value, old: Tape, new: Tape, moved: Callable[[int], int]) -> None:
    """Have a value lie on the tape that takes the place of the one on which it lay."""
    if isinstance(value, Leaf) and value.tape is old:
        value.come_over(new)
    op = value.op
    if op is None or op.pass_.tape is not old:
        return
    at = moved(op.position)
    heir: Op | None = new.ops[at] if at < len(new) else None
    if heir is not None and heir.operation is op.operation:
        value.op = heir
