"""Moves: where on a tape a motion leads. Each costs no more than it looks at, and evaluates nothing.

A position points at the op that comes next; `len(tape)` is behind the last op. A function returns None where
the place has not been recorded (yet).
"""

from __future__ import annotations

from nnrepl.tape import Activation, Op, Tape


def _scope(tape: Tape, position: int) -> Activation | None:
    if not tape.ops:
        return None
    return tape.ops[min(position, len(tape.ops) - 1)].scope


def _deeper(op: Op, scope: Activation | None) -> bool:
    """Whether an op was made in a call that `scope` made."""
    return scope is not None and op.scope is not None and op.scope is not scope and op.scope.within(scope)


def _inside(op: Op, scope: Activation | None) -> bool:
    """Whether an op was made in `scope` or in a call from it."""
    return scope is not None and op.scope is not None and op.scope.within(scope)


def over(tape: Tape, position: int, start: int | None = None) -> int | None:
    """The next op that is not inside of a call made by the function that stands at `position`.

    Args:
        start: Where to begin looking, if everything before it has been looked at already.
    """
    scope = _scope(tape, position)
    for at in range(position + 1 if start is None else max(start, position + 1), len(tape)):
        if not _deeper(tape.ops[at], scope):
            return at
    return None


def out(tape: Tape, position: int, start: int | None = None) -> int | None:
    """The next op outside of the function that stands at `position`."""
    scope = _scope(tape, position)
    for at in range(position + 1 if start is None else max(start, position + 1), len(tape)):
        if not _inside(tape.ops[at], scope):
            return at
    return None


def back_over(tape: Tape, position: int) -> int | None:
    """The last op before `position` that is not inside of a call made by the function there."""
    scope = _scope(tape, position)
    for at in range(position - 1, -1, -1):
        if not _deeper(tape.ops[at], scope):
            return at
    return None


def back_out(tape: Tape, position: int) -> int | None:
    """The first op of the function that stands at `position`; from there, the last op before it."""
    scope = _scope(tape, position)
    at = position
    while at > 0 and _inside(tape.ops[at - 1], scope):
        at -= 1
    if at < position:
        return at
    return at - 1 if at > 0 else None


def further_down(tape: Tape, position: int, start: int | None = None) -> int | None:
    """The next op on a greater line of the same function, or outside of it (pdb's `until`)."""
    scope = _scope(tape, position)
    if position >= len(tape):
        return None
    line = tape.ops[position].source.line
    for at in range(position + 1 if start is None else max(start, position + 1), len(tape)):
        op = tape.ops[at]
        if not _inside(op, scope) or (op.scope is scope and op.source.line > line):
            return at
    return None
