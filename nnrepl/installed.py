"""Installed: whether a file is the program's own, or belongs to Python or to an installed library.

What a program runs of its own is its lines, its variables, its world; what it runs of a library's is passed over. A
library need not lie in `site-packages`: `pip install --target`, a folder of `PYTHONPATH`, a bundle. There `pip` leaves
a list of what it has installed, beside it.
"""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache

_PACKAGES = re.compile(r"[/\\](?:site|dist)-packages[/\\]|^<frozen ")
_STANDARD = os.path.dirname(os.__file__) + os.sep


@lru_cache(4096)
def is_library(file: str) -> bool:
    """Whether a file belongs to an installed library or to Python itself, and not to the program."""
    return _PACKAGES.search(file) is not None or file.startswith(_STANDARD) or bool(_package(file))


@lru_cache(4096)
def is_mlx(file: str) -> bool:
    """Whether a file belongs to MLX's own Python: what calls the program's functions, and optimizers, on its behalf."""
    return _inside(file) == "mlx"


def is_standard(file: str) -> bool:
    """Whether a file belongs to Python's own library."""
    return file.startswith(_STANDARD) and _PACKAGES.search(file) is None


def library_folders(path: list[str]) -> list[str]:
    """Return the folders of a search path in which libraries lie; last those of the program's as well."""
    sure = [folder for folder in path if f"{folder}{os.sep}".startswith(_STANDARD) or _PACKAGES.search(folder + os.sep)]
    return sure + [folder for folder in path if folder not in sure and _installed_in(folder)]


def _inside(file: str) -> str:
    """Return the package of a library in which a file lies; "" for what lies in none."""
    found = _PACKAGES.search(file)
    return re.split(r"[/\\]", file[found.end() :])[0] if found is not None else _package(file)


def _package(file: str) -> str:
    """Return the package in which a file lies that has been installed elsewhere than in `site-packages`."""
    for root in sys.path:
        if root and file.startswith(root.rstrip("/\\") + os.sep):
            name = re.split(r"[/\\]", file[len(root.rstrip("/\\")) + 1 :])[0]
            if name in _installed_in(root):
                return name
    return ""


@lru_cache(256)
def _installed_in(root: str) -> frozenset[str]:
    """Return the packages and modules that an installer has put into a folder, by the lists that it has left there. The
    program's own files may lie beside them: a bundle is made so."""
    names: set[str] = set()
    try:
        lists = [one.path for one in os.scandir(root) if one.name.endswith(".dist-info")]
    except OSError:
        return frozenset()
    for folder in lists:
        try:
            with open(os.path.join(folder, "RECORD"), encoding="utf-8", errors="replace") as record:
                names |= {re.split(r"[/,]", line.lstrip('"'))[0] for line in record}
        except OSError:
            continue
    return frozenset(name for name in names if name and not name.endswith((".dist-info", "..")))
