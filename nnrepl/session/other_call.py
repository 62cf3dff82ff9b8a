"""Other call: where a name belongs that is nobody's variable where the cursor stands."""

from __future__ import annotations

from nnrepl.installed import is_library
from nnrepl.tape import UNBOUND, Activation, Op, Tape
from nnrepl.tape.bindings import is_module


def said_of_call(tape: Tape, name: str) -> str:
    """Return which function of the program's has had a variable of a name last, and what leads there; "" where none
    has."""
    noted = tape.bindings.noted(name, lambda code: True)
    for since, scope, thing in reversed(noted):
        if thing is UNBOUND or is_module(scope.code) or is_library(scope.code.co_filename):
            continue
        if name in scope.code.co_freevars:  # it is that of the function around it
            continue
        op = _last_in(tape, scope, since)
        if op is not None:
            return f"; it is a variable of {scope.code.co_name}: goto {op.label} leads there"
    return ""


def _last_in(tape: Tape, scope: Activation, since: int) -> Op | None:
    """Return the last op made in a call, or in what it calls, or in a long run the first from a position on."""
    first = tape.ops[since : since + 1]
    for op in (*reversed(tape.ops[max(since, len(tape) - _FAR) :]), *first):
        if op.scope is not None and any(step is scope for step in op.scope.path()):
            return op
    return None


_FAR = 10_000
"""So many ops are looked at from the end on."""
