"""Cells: running what was typed at the prompt, in the program's own `__main__`."""

from __future__ import annotations

import builtins
import importlib
import inspect
from types import CodeType
from typing import Any

from nnrepl.late import late
from nnrepl.timeline.typed_cells import Cell

_AT_HAND = {"mx": "mlx.core", "nn": "mlx.nn", "optim": "mlx.optimizers"}


class Loop:
    """The event loop of a program with `await` at its top level, made when it is first needed."""

    def __init__(self) -> None:
        self._loop: Any = None

    def execute(self, code: CodeType, namespace: dict[str, Any]) -> None:
        """Run code that may be a coroutine."""
        result = eval(code, namespace)
        if code.co_flags & inspect.CO_COROUTINE:
            # asyncio takes long to load, and few programs need it
            self._loop = self._loop or late("asyncio").new_event_loop()
            self._loop.run_until_complete(result)


def run_cell(cell: Cell, namespace: dict[str, Any], loop: Loop) -> None:
    """Run a cell. Raises whatever it raises."""
    provide(cell.names, namespace)
    for code in cell.code:
        loop.execute(code, namespace)


def provide(names: frozenset[str], namespace: dict[str, Any]) -> None:
    """Import `mx`, `nn`, `optim` where they are named and the program has nothing of that name."""
    for name in needed(names, namespace):
        namespace[name] = importlib.import_module(_AT_HAND[name])


def needed(names: frozenset[str], namespace: dict[str, Any]) -> list[str]:
    """Which of `mx`, `nn`, `optim` are named and missing."""
    return [name for name in _AT_HAND if name in names and name not in namespace and not hasattr(builtins, name)]


def import_line(name: str) -> str:
    """`import mlx.core as mx`."""
    return f"import {_AT_HAND[name]} as {name}"


def is_leaving(error: SystemExit) -> bool:
    """Whether it comes from `exit()` or `quit()` themselves, and not from a program's own `sys.exit()`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "_sitebuiltins"
