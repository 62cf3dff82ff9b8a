"""Ended modules: the code of an imported module has run to its end, and its functions still know its variables.

No frame is there any more that could be looked at with each op. So they are read where such a function is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from typing import Any, Protocol

from nnrepl.tape import UNBOUND, Activation, Holder


class Read(Protocol):
    """What was read of the variables of a module: their names, what they held, and what was noted of that."""

    library: bool
    names: tuple[str, ...]
    values: list[Any]
    kept: list[Any]
    scope: Activation


class Looked(Protocol):
    """A container that is being watched."""

    holder: Holder


class EndedModules:
    """The modules of the program's whose code has run to its end, by their namespace."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._ended: dict[int, tuple[Read, dict[str, Any]]] = {}

    def begins(self, variables: dict[str, Any]) -> None:
        """Note that code runs whose variables these are: that of a module, or of a cell."""
        self._running.add(id(variables))

    def ends(self, module: Read, variables: dict[str, Any]) -> None:
        """Note that it has run to its end."""
        self._running.discard(id(variables))
        if not module.library and hasattr(module, "scope"):
            self._ended[id(variables)] = module, variables

    def changed(self, variables: dict[str, Any], watched: Mapping[int, Looked]) -> tuple[Any, list[Any]] | None:
        """Return the module whose variables a function knows, and what they hold now, if that is something else than
        when they were read last; None where its code runs, or has not been looked at."""
        found = self._ended.get(id(variables))
        if found is None or id(variables) in self._running:
            return None
        module, values = found[0], [variables.get(name, UNBOUND) for name in found[0].names]
        for at, kept in enumerate(module.kept):
            known = watched.get(id(values[at])) if type(kept) is Holder else None
            if type(kept) is Holder and (known is None or known.holder is not kept):
                module.values[at] = UNBOUND  # it was let go of as the module ended, and is noted as another one now
        return None if all(map(is_, values, module.values)) else (module, values)
