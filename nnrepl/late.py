"""Late: modules of Python's and of other libraries that are imported late, whatever the program's own files are called.

A program may have a `statistics.py` beside it, and may have imported it. An `import statistics` of ours would then run
or get that file. So whatever is not imported at the top of a module of nnrepl comes from here (`tests/programs/
test_shadows.py` sees to it), and `nnrepl.programs.shadows` does the same for modules of nnrepl itself.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from nnrepl.installed import is_library, library_folders

BEFORE = frozenset(sys.modules)
"""What had been imported before nnrepl began."""
_kept: dict[str, ModuleType] = {}


def late(name: str) -> Any:
    """Return a module of Python's or of an installed library, importing it where that has not been done.

    Raises:
        ImportError: If there is no such module.
    """
    if name not in _kept:
        found = sys.modules.get(name)
        _kept[name] = found if found is not None and _is_library(found) else _aside(name)
    return _kept[name]


def _is_library(module: ModuleType) -> bool:
    """Whether a module is Python's own (built in, frozen, or in its library folder), or installed."""
    file = getattr(module, "__file__", None)
    return file is None or is_library(file)


def beside(folder: str) -> set[str]:
    """Return the top-level names that an import finds in a folder: its modules and packages."""
    try:
        found = list(os.scandir(folder or "."))
    except OSError:
        return set()
    return {
        one.name.partition(".")[0]
        for one in found
        if one.name.endswith((".py", ".so")) or os.path.exists(os.path.join(one.path, "__init__.py"))
    }


def _aside(name: str) -> ModuleType:
    """Import a module with nothing but libraries in sight, and leave the program's view as it was."""
    before, path = dict(sys.modules), sys.path[:]
    for one, module in before.items():
        if one.partition(".")[0] not in ("nnrepl", "__main__") and not _is_library(module):
            del sys.modules[one]
    sys.path[:] = library_folders(path)
    try:
        return import_module(name)
    finally:
        sys.path[:] = path
        theirs = beside(path[0]) if path else set()
        for one in sys.modules.keys() - before:
            if one.partition(".")[0] in theirs:
                del sys.modules[one]  # the program's own import is to find its own file
        sys.modules.update(before)
