"""Libraries: what MLX's own modules and classes hold, in the place of which a program may put something of its own
(`nn.Linear.__call__ = scaled`, `mx.tanh = counted`). It does so again when it runs again from its start, so what had
been there is put back before that.
"""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType
from typing import Any

from nnrepl.tape import UNBOUND

_ADDED = (FunctionType, staticmethod, classmethod, property)


class Libraries:
    """What the modules of MLX, and of packages around it, hold before a program has changed anything there."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[Any, dict[str, Any]]] = {}

    def begin(self) -> None:
        """Note that a program begins to run from its start: all is put back that others have changed."""
        for holder, before in self._before.values():
            _put_back(holder, before)
        for name, module in list(sys.modules.items()):
            if concerns(name) and id(module) not in self._before and isinstance(module, ModuleType):
                self.keep(module)

    def keep(self, module: ModuleType) -> None:
        """Remember what a module and its classes hold, the first time."""
        own = [part for part in vars(module).values() if isinstance(part, type) and part.__module__ == module.__name__]
        for holder in (module, *own):
            if id(holder) not in self._before:
                self._before[id(holder)] = holder, dict(vars(holder))


def concerns(name: str) -> bool:
    """Whether a module is MLX's, or of a package around it."""
    return name.startswith("mlx")


def _put_back(holder: Any, before: dict[str, Any]) -> None:
    now = dict(vars(holder))
    for name, thing in now.items():
        was = before.get(name, UNBOUND)
        if was is not UNBOUND:
            # A module within a package becomes an attribute of that when it is imported: no doing of the program's.
            if thing is not was and not isinstance(thing, ModuleType):
                setattr(holder, name, was)
        # What came new goes: functions whatever they are called (`__call__`), all else unless Python has set it.
        elif isinstance(thing, _ADDED) or not (name.startswith("__") or isinstance(thing, ModuleType)):
            delattr(holder, name)
    for name in before.keys() - now.keys():
        setattr(holder, name, before[name])


LIBRARIES = Libraries()
"""Those of this process."""
