"""Whereabouts: the files, the code objects and the modules of a program, as rows of a saved tape."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

from nnrepl.installed import is_library
from nnrepl.programs.savefile import harmless
from nnrepl.programs.standins import class_name
from nnrepl.record import segments as sources
from nnrepl.record.frame_variables import variables_of
from nnrepl.record.stack import is_module, is_optimizer
from nnrepl.tape import Activation, Source

WHOLE = 10_000
"""A file with more lines is not kept as a whole."""

AROUND = 15
"""How many lines of its source are kept around an op: more than `list` shows."""


class Owners:
    """The modules and optimizers whose methods were running, by class and by their path in the outermost one."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[int, tuple[Any, int]] = {}
        self._paths: dict[int, dict[int, str]] = {}
        self._roots: dict[int, dict[int, str]] = {}

    def number(self, scope: Activation) -> int:
        number = self.enter(scope.owner)
        outermost = next(step.owner for step in scope.path() if is_module(step.owner))
        root = self.enter(outermost)
        if root not in self._paths:
            self._paths[root] = {id(part): path for path, part in outermost.named_modules()}
        path = self._paths[root].get(id(scope.owner))
        if path is not None:
            self._roots.setdefault(root, {})[number] = harmless(path)
        return number

    def enter(self, owner: Any) -> int:
        """Return the number of a module, without its path."""
        known = self._numbers.get(id(owner))
        if known is None:
            known = self._numbers[id(owner)] = (owner, len(self.names))
            self.names.append(class_name(type(owner)))
        return known[1]

    def rows(self, argument: Callable[[Any], Any]) -> list[dict[str, Any]]:
        """Return what is known of each: whether it is an optimizer, its plain attributes, how it shows itself."""
        return [self._row(owner, argument) for owner, _ in self._numbers.values()]

    @staticmethod
    def _row(owner: Any, argument: Callable[[Any], Any]) -> dict[str, Any]:
        plain = [[harmless(name), argument(held)] for name, held in vars(owner).items()
                 if name.isidentifier() and not hasattr(type(owner), name) and _is_plain(held)]  # fmt: skip
        return {"optimizer": is_optimizer(owner), "plain": plain, "shown": harmless(_shown(owner), True)}

    def roots(self) -> list[list[Any]]:
        """For each outermost module its parts: `[root, [[part, path], ...]]`."""
        return [[root, [list(pair) for pair in parts.items()]] for root, parts in self._roots.items()]


def _is_plain(thing: Any) -> bool:
    if isinstance(thing, (list, tuple)):
        return all(_is_plain(part) for part in thing)
    return thing is None or type(thing) in (bool, int, float, str)


def _shown(owner: Any) -> str:
    """How a module of MLX's own kind shows itself; "" for others."""
    if not is_module(owner) or type(owner).__repr__.__module__ not in _OWN_REPR:
        return ""
    try:
        return repr(owner)[:_LONGEST_SHOWN]
    except Exception:  # a part of it that the program has written
        return ""


_LONGEST_SHOWN = 20_000
_OWN_REPR = ("mlx.nn.layers.base", "nnrepl.programs.standins")


class CodeFiles:
    """The code objects, the places in them, and the lines of source around these."""

    def __init__(self) -> None:
        # Code objects of two files are equal where their text is.
        self._codes: dict[tuple[str, CodeType], dict[sources.Span, int]] = {}
        self._numbers: dict[tuple[str, CodeType], int] = {}
        self._files: dict[str, tuple[int, Source, set[int]]] = {}
        self._made_ops: set[str] = set()

    def code(self, code: CodeType) -> int:
        """Return the number of a code object."""
        key = sources.file_of(code), code
        if key not in self._codes:
            self._numbers[key] = len(self._codes)
            self._codes[key] = {}
            if key[0] not in self._files:
                self._files[sources.file_of(code)] = (len(self._files), sources.locate(code, 0), set())
        return self._numbers[key]

    def place(self, code: CodeType, lasti: int, around: int) -> int:
        """Return the number of a place in a code object, of which the lines around are kept as well."""
        self.code(code)
        key = sources.file_of(code)
        span = sources.span_of(code, lasti)
        spans = self._codes[key, code]
        self._files[key][2].update(range(max(span[0] - around, 1), span[1] + around + 1))
        if around > 1:
            self._made_ops.add(key)
        return spans.setdefault(span, len(spans))

    def codes(self) -> list[dict[str, Any]]:
        """Return what the file says of the code objects."""
        return [
            {
                "file": self._files[filename][0],
                "name": harmless(code.co_name),
                "function": harmless(code.co_qualname),
                "line": code.co_firstlineno,
                "arguments": [code.co_argcount, code.co_kwonlyargcount],
                "variables": [harmless(name) for name in code.co_varnames],
                "free": [harmless(name) for name in code.co_freevars],
                "names": [harmless(name) for name in code.co_names],
                "looked_at": [harmless(name) for name in variables_of(code)],
                "optimized": bool(code.co_flags & inspect.CO_OPTIMIZED),
                "places": [list(span) for span in spans],
            }
            for (filename, code), spans in self._codes.items()
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return what the file says of the source files."""
        return [self._row(name, known, wanted) for name, (_, known, wanted) in self._files.items()]

    def _row(self, name: str, known: Source, wanted: set[int]) -> dict[str, Any]:
        lines = sources.lines_of(name)
        whole = len(lines) <= WHOLE and (name in self._made_ops or not is_library(known.file))
        numbers = range(1, len(lines) + 1) if whole else sorted(wanted)
        kept = [[number, harmless(lines[number - 1].rstrip("\r\n"), True)] for number in numbers
                if number <= len(lines)]  # fmt: skip
        standard = is_library(known.file) and "-packages" not in known.file  # a library by its folder alone
        return {"path": harmless(known.file), "cell": known.cell, "standard": standard, "count": len(lines),
                "lines": kept}  # fmt: skip
