"""Calling: what a tensor is called where an op takes it: by the variables that the op's line sees at that moment."""

from __future__ import annotations

import ast
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from nnrepl.record import segments as sources
from nnrepl.record.frame_variables import variables_of
from nnrepl.record.homes import Home
from nnrepl.record.stack import is_module_type
from nnrepl.tape import UNBOUND, Activation, Holder, Op, Tape, Value


class Known(Protocol):
    """What is known of the program's tensors (`nnrepl.record.names.ProgramNames`)."""

    tape: Tape

    def leaf_of(self, array: Any) -> Value | None: ...


def name_there(names: Known, frames: Sequence[Activation], value: Value, op: Op, name: str, home: Home | None) -> str:
    """Return what a value is called where an op takes it; "" where it has no name there.

    Args:
        frames: The program's own calls in which the op is made, the innermost first.
        name: What it is called by itself: a variable, or its place in a list or a dict.
        home: That place, or its place in a model, which is its name everywhere; None if it is in none.
    """
    tape, at, root = names.tape, op.position, name.partition(".")[0]
    meant, owner = _meant(names, frames, root, at)
    if name.isidentifier():
        in_model = home is not None and is_module_type(home.holder.kind)
        typed = meant is None and op in tape.notes.inserted  # by the user, before the program's line has gone on
        if typed or (in_model and (meant is value or meant is UNBOUND)):
            return name
        if meant is value and name in _spoken(op):
            return name
    for scope in frames:
        if scope is owner and meant is value and name.isidentifier():
            return name
        found = _variable(names, frames, scope, value, op)
        if scope is owner and not found:
            found = _within(names, meant, value, at, root)
        if found:
            return found
    if name.isidentifier():
        return name if meant is UNBOUND else ""
    lies = home is not None and tape.bindings.entry(home.holder, home.key, at) is value
    return name if lies and (meant is UNBOUND or isinstance(meant, Holder)) else ""


def _meant(names: Known, frames: Sequence[Activation], name: str, position: int) -> tuple[Any, Activation | None]:
    """Return what a variable of this name means at a position, in the innermost call that has it, and that call: a
    value, or whatever it holds; None if it is not set there yet, UNBOUND if no call has it, or nobody knows what it
    holds."""
    bindings = names.tape.bindings
    for scope in frames:
        held = bindings.held(scope, name, position)
        if isinstance(held, weakref.ref):  # an array that no op had taken when it was noted
            thing = held()
            leaf = None if thing is None else names.leaf_of(thing)
            return (UNBOUND if leaf is None else leaf.canonical), scope
        if isinstance(held, Value):
            return held.canonical, scope
        if held is not UNBOUND:
            return held, scope
        if bindings.known(scope) and name in variables_of(scope.code):
            return None, scope
    return UNBOUND, None


def _variable(names: Known, frames: Sequence[Activation], scope: Activation, value: Value, op: Op) -> str:
    """Return the variable of a call that holds a value where an op takes it: the one that the op's own line speaks of,
    if it is one; "" if none does."""
    bindings, at = names.tape.bindings, op.position
    held = [other for other in bindings.names_in(scope, value) if bindings.held(scope, other, at) is value]
    held = [other for other in held if _meant(names, frames, other, at)[1] is scope]
    if len(held) > 1 and op.scope is scope:
        spoken = _spoken(op)
        held = [other for other in held if other in spoken] or held
    return held[0] if held else ""


def _spoken(op: Op) -> set[str]:
    """Return the variables that the piece of source that makes an op speaks of."""
    if op.scope is None:
        return set()
    node = sources.node_at(op.scope.code, sources.span_of(op.scope.code, op.lasti))
    return set() if node is None else {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _within(names: Known, holder: object, value: Value, at: int, name: str) -> str:
    """`xs.1`, where a list, a tuple or a dict holds the value."""
    entries = names.tape.bindings.contents(holder, at) if isinstance(holder, Holder) else None
    items = entries.items() if isinstance(entries, dict) else enumerate(entries) if isinstance(entries, list) else ()
    return next((f"{name}.{key}" for key, thing in items if thing is value), "")
