"""Shadows: files of the program that are called as modules which nnrepl has imported, or will: `html.py`, `random.py`.

Under plain Python the program's `import html` finds the file that lies beside it. Under nnrepl it would find the module
that nnrepl had imported before; and what nnrepl imports later would be the program's file. So, where a program has such
files, nnrepl imports all of itself before the program begins, and then leaves the names to the program.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module

from nnrepl.late import BEFORE, beside, late

_ALWAYS = {"nnrepl", "mlx", "__main__", "tokenize"}
"""What stays: Python's importing imports `tokenize` itself, wherever it reads source."""
LATE = (
    "asyncio", "hashlib", "markdown_it", "mlx.nn.layers.base", "nbformat", "numpy", "platform", "rich.pretty",
    "statistics", "termios",
)  # fmt: skip
"""What nnrepl asks `late` for."""


def leave_names(folder: str) -> frozenset[str]:
    """Leave the names of the files in a folder to the program that is to run there. Returns those that had been taken.

    What Python itself had imported before nnrepl began stays: the program finds it under plain Python, too.
    """
    names = beside(folder) - _tops(BEFORE) - _ALWAYS
    if not names & (sys.stdlib_module_names | _tops(sys.modules) | _tops(LATE)):
        return frozenset()
    _import_all()
    taken = frozenset(one for one in sys.modules if one.partition(".")[0] in names and not _lies_in(folder, one))
    for one in taken:
        del sys.modules[one]
    return taken


def _tops(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def _lies_in(folder: str, name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and file.startswith(folder + os.sep)


def _import_all() -> None:
    for name in LATE:
        with suppress(ImportError):  # not all of them need be installed
            late(name)
    for found in pkgutil.walk_packages([os.path.dirname(os.path.dirname(__file__))], "nnrepl."):
        if not found.name.endswith("__main__") and "._examples" not in found.name:
            import_module(found.name)
