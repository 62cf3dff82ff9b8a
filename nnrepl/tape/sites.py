"""Sites: where an op stands in the program's own source, whichever library made it there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from types import CodeType
from typing import NamedTuple

from nnrepl.installed import is_standard
from nnrepl.tape.op import Op
from nnrepl.tape.origins import Activation

SKIPPED = ("mlx.*",)
"""The modules whose lines are not the program's own, if nobody says otherwise."""

_known: dict[tuple[CodeType, str, tuple[str, ...]], bool] = {}


class Site(NamedTuple):
    """A call of a function, and where in it.

    Attributes:
        scope: The call.
        lasti: The bytecode offset of the op, or of the call that led to it.
    """

    scope: Activation
    lasti: int


def own_site(op: Op, skip: Sequence[str] = SKIPPED) -> Site | None:
    """Return the innermost site of an op in a module that is not skipped, else the innermost one; None without a scope.

    Args:
        skip: Patterns for names of modules (`mlx.*`). Python's standard library is always skipped.
    """
    if op.scope is None:
        return None
    scope: Activation | None = op.scope
    lasti = op.lasti
    patterns = tuple(skip)
    while scope is not None:
        if not is_skipped(scope, patterns):
            return Site(scope, lasti)
        lasti = scope.lasti
        scope = scope.parent
    return Site(op.scope, op.lasti)


def is_skipped(scope: Activation, patterns: tuple[str, ...]) -> bool:
    """Whether a call is one of a function of a library's that the user does not want to see."""
    file, name = scope.code.co_filename, str(scope.variables.get("__name__") or "")
    key = (scope.code, name, patterns)
    found = _known.get(key)
    if found is None:
        name = name or _module_of(file)
        named = any(fnmatchcase(name, pattern) for pattern in patterns)
        found = _known[key] = named or is_standard(file)
    return found


def _module_of(file: str) -> str:
    """Return the name of a module by its file, for what was saved without it."""
    stem = file.removesuffix(".py").removesuffix("/__init__")
    for folder in ("site-packages/", *(f"{path}/" for path in sys.path if path)):
        _, found, rest = stem.rpartition(folder)
        if found:
            return rest.replace("/", ".")
    return stem.rpartition("/")[2]
