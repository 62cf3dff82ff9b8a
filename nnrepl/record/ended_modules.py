"""Ended modules: the code of a module has run to its end, and functions and cells still know its variables.

No frame is there any more that could be looked at with each op. So they are read where such a function is called, where
a cell begins, and at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import is_
from typing import Any, Protocol

from nnrepl.record.watched_frame import WatchedFrame
from nnrepl.tape import UNBOUND, Holder


class Looked(Protocol):
    """A container that is being watched."""

    holder: Holder


class EndedModules:
    """The code of the program's modules, and the cells, that have run to their end, by their namespace."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._ended: dict[int, tuple[dict[str, Any], list[WatchedFrame]]] = {}

    def begins(self, variables: dict[str, Any]) -> None:
        """Note that code runs whose variables these are: that of a module, or of a cell."""
        self._running.add(id(variables))

    def ends(self, module: WatchedFrame, variables: dict[str, Any]) -> None:
        """Note that it has run to its end."""
        self._running.discard(id(variables))
        if module.names and not module.library and hasattr(module, "scope"):
            ended = self._ended.setdefault(id(variables), (variables, []))[1]
            ended[:] = [one for one in ended if not set(one.names) <= set(module.names)] + [module]

    def know(self, variables: dict[str, Any]) -> bool:
        """Whether code has ended that has set some of these variables."""
        return id(variables) in self._ended

    def changed(
        self, variables: dict[str, Any], watched: Mapping[int, Looked], running: bool = False
    ) -> Iterator[tuple[WatchedFrame, list[Any]]]:
        """Yield the modules and cells whose variables a function knows, and what they hold now, where that is something
        else than when they were read last; nothing where their code runs, which is looked at itself, unless that is
        what asks (`running`)."""
        found = self._ended.get(id(variables))
        if found is None or (id(variables) in self._running and not running):
            return
        for module in found[1]:
            values = [variables.get(name, UNBOUND) for name in module.names]
            for at, kept in enumerate(module.kept):
                known = watched.get(id(values[at])) if type(kept) is Holder else None
                if type(kept) is Holder and (known is None or known.holder is not kept):
                    module.values[at] = UNBOUND  # it was let go of as the module ended
            if not all(map(is_, values, module.values)):
                yield module, values

    def all_changed(self, watched: Mapping[int, Looked]) -> Iterator[tuple[WatchedFrame, list[Any]]]:
        """Yield what `changed` does, of all that have ended."""
        for variables, _ in list(self._ended.values()):
            yield from self.changed(variables, watched, running=True)
