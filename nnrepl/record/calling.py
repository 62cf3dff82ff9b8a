"""Calling: what a tensor is called where an op takes it: by the variables that the op's line sees at that moment."""

from __future__ import annotations

import ast
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnrepl.record import source as sources
from nnrepl.record.variables import variables_of
from nnrepl.tape import UNBOUND, Activation, Holder, Op, Value

if TYPE_CHECKING:
    from nnrepl.record.names import ProgramNames


def name_there(
    names: ProgramNames, frames: Sequence[Activation], value: Value, op: Op, name: str, lies_in_model: bool
) -> str:
    """What a value is called where an op takes it; "" where it has no name there.

    Args:
        frames: The program's own calls in which the op is made, the innermost first.
        name: What it is called by itself: a variable, or its place in a list or a dict.
        lies_in_model: Whether it is known by its place in a model, which is its name everywhere.
    """
    meant = _meant(names, frames, name.partition(".")[0], op.position)
    if name.isidentifier() and (meant is value or (meant is UNBOUND and lies_in_model)):
        return name
    for scope in frames:
        found = _variable(names, scope, value, op)
        if found:
            return found
    if meant is UNBOUND:
        return name if name.isidentifier() else ""
    within = _within(names, meant, value, op.position, name.partition(".")[0])
    return within if name.isidentifier() or within else ""


def _meant(names: ProgramNames, frames: Sequence[Activation], name: str, position: int) -> Any:
    """What a variable of this name means at a position, in the innermost call that has it: a value, or whatever it
    holds; None if it is not set there yet, UNBOUND if no call has it, or nobody knows what it holds."""
    bindings = names.tape.bindings
    for scope in frames:
        held = bindings.held(scope, name, position)
        if isinstance(held, weakref.ref):  # an array that no op had taken when it was noted
            thing = held()
            leaf = None if thing is None else names.leaf_of(thing)
            return UNBOUND if leaf is None else leaf.canonical
        if isinstance(held, Value):
            return held.canonical
        if held is not UNBOUND:
            return held
        if bindings.known(scope) and name in variables_of(scope.code):
            return None
    return UNBOUND


def _variable(names: ProgramNames, scope: Activation, value: Value, op: Op) -> str:
    """The variable of a call that holds a value where an op takes it: the one that the op's own line speaks of, if it
    is one; "" if none does."""
    bindings, at = names.tape.bindings, op.position
    held = [other for other in bindings.names_in(scope, value) if bindings.held(scope, other, at) is value]
    if len(held) > 1 and op.scope is scope:
        node = sources.node_at(scope.code, sources.span_of(scope.code, op.lasti))
        spoken = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} if node is not None else set()
        held = [other for other in held if other in spoken] or held
    return held[0] if held else ""


def _within(names: ProgramNames, holder: object, value: Value, at: int, name: str) -> str:
    """`xs.1`, where a list, a tuple or a dict holds the value."""
    entries = names.tape.bindings.contents(holder, at) if isinstance(holder, Holder) else None
    items = entries.items() if isinstance(entries, dict) else enumerate(entries) if isinstance(entries, list) else ()
    return next((f"{name}.{key}" for key, thing in items if thing is value), "")
