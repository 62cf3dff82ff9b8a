"""Variables: what those of the call in which one stands hold there. Nothing is evaluated."""

from __future__ import annotations

import weakref
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.record.containers import SEQUENCES
from nnrepl.record.frame_variables import variables_of
from nnrepl.session.reading import Reading
from nnrepl.tape import UNBOUND, Holder, Large
from nnrepl.tape.kept_array import KeptArray
from nnrepl.tape.kept_function import KeptFunction


@dataclass(frozen=True, slots=True)
class Sized:
    """A thing of which only the kind is kept, and how many entries it has, if that is known."""

    kind: type
    size: int | None


@dataclass(frozen=True, slots=True)
class Absent:
    """Why nothing is known to be in a variable."""

    why: str


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of a call.

    Attributes:
        function: The name of what is called; "" where no function was running.
        held: What each holds: an object, a `Sized`, or an `Absent`.
    """

    function: str
    held: dict[str, Any]


def variables(session: Reading, arguments: bool) -> Variables:
    """Return the variables of the function in which one stands (or only its arguments), as they are there."""
    where = session.where()
    scope = where.scope
    if scope is None:
        return Variables("", {})
    code, bindings = scope.code, session.tape.bindings
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if arguments else variables_of(code)
    there = bindings.variables(scope, where.position)
    absent = Absent("not set yet" if bindings.known(scope) else "not known here")
    held: dict[str, Any] = {}
    for name in names:
        if not name.startswith("__"):
            thing = there.get(name, UNBOUND)
            held[name] = absent if thing is UNBOUND else _summed_up(session, thing, where.position)
    return Variables(code.co_qualname, held)


def _summed_up(session: Reading, thing: Any, position: int) -> Any:
    """Return a thing itself; of one that changes as the program goes on, what it was there."""
    if isinstance(thing, weakref.ref):
        found = thing.looks if isinstance(thing, KeptFunction) else thing()
        return Absent("an object that no longer exists") if found is None else found  # an array has no truth value
    if isinstance(thing, Large):
        return Sized(thing.kind, thing.size)
    if isinstance(thing, Holder):
        entries = session.tape.bindings.contents(thing, position)
        if isinstance(entries, Large):
            return Sized(thing.kind, entries.size)
        if isinstance(entries, KeptArray):
            return entries
        return Sized(thing.kind, len(entries) if thing.kind in (dict, *SEQUENCES) and entries is not None else None)
    return thing
