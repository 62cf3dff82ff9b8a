"""Put aside: what a call has done, before its first op, with a tensor that it can reach."""

from __future__ import annotations

from types import GeneratorType, NoneType
from typing import Any
from weakref import ref

from nnrepl.tape import Activation, Tape, Value
from nnrepl.tape.kept_function import KeptFunction


def put_aside(tape: Tape, call: Activation, value: Value, position: int, named: bool) -> bool:
    """Whether a call holds a tensor in something of its own when its first op comes: in a container, a function or a
    generator that it has made. A change there leaves those alone; a line before the call would have changed what went
    into them, and which were made before it nobody knows, so only by running it there it does.

    Args:
        named: Whether the call is handed it by the name by which it is changed; then the call's variables follow.
    """
    op = tape.ops[position]
    calls = [] if op.scope is None else [one for one in op.scope.path() if one.within(call)]
    made = {const for one in calls for const in one.code.co_consts if hasattr(const, "co_code")}
    noted = [entry[3] for one in calls for entry in tape.bindings.call(one).entries if entry[0] == position]
    return _is_in_container(tape, value, position) or any(
        (thing is value and not named) or _may_hold(thing, made) for thing in noted
    )


def _is_in_container(tape: Tape, value: Value, position: int) -> bool:
    """Whether a container has changed since the last op, and holds a tensor."""
    bindings = tape.bindings
    for since, _, entries, count in bindings.holds[bindings.first_hold_from(position) :]:
        if since > position:
            break
        if any(thing is value for thing in (entries.values() if isinstance(entries, dict) else entries[:count])):
            return True
    return False


def _may_hold(thing: Any, made: set[Any]) -> bool:
    """Whether what a variable holds may have a tensor in it: a generator, or what is gone and may have been one; a
    function of the calls' own (`made`: the code of such)."""
    if isinstance(thing, KeptFunction):
        return thing.code in made
    return isinstance(thing, ref) and isinstance(thing(), (GeneratorType, NoneType))
