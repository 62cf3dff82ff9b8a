"""Calling: how one call names a tensor that its best name does not mean there."""

from __future__ import annotations

import ast

from nnrepl.record import source as sources
from nnrepl.tape import Activation, Holder, Op, Tape, Value


def named_in(tape: Tape, scope: Activation, value: Value, op: Op, name: str) -> str:
    """The variable of a call that holds a value where an op takes it: the one that the op's own line speaks of, if it
    is one. Else its place in the container that `name` is there. "" if there is neither."""
    bindings, at = tape.bindings, op.position
    held = [other for other in bindings.names_in(scope, value) if bindings.held(scope, other, at) is value]
    if len(held) > 1 and op.scope is scope:
        node = sources.node_at(scope.code, sources.span_of(scope.code, op.lasti))
        spoken = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} if node is not None else set()
        held = [other for other in held if other in spoken] or held
    return held[0] if held else _within(tape, bindings.held(scope, name, at), value, at, name)


def _within(tape: Tape, holder: object, value: Value, at: int, name: str) -> str:
    """`xs.1`, where a list, a tuple or a dict holds the value."""
    entries = tape.bindings.contents(holder, at) if isinstance(holder, Holder) else None
    items = entries.items() if isinstance(entries, dict) else enumerate(entries) if isinstance(entries, list) else ()
    return next((f"{name}.{key}" for key, thing in items if thing is value), "")
