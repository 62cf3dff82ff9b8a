"""Kept: the source of the program as it runs, whatever has become of its files since.

A program that runs again does again what it did: so its modules are imported from the text that they had, and not from
what an editor has made of it meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from nnrepl.installed import is_library
from nnrepl.replay.libraries import LIBRARIES, concerns
from nnrepl.replay.world import RandomStates


class Kept:
    """The texts of the program's files, by the names that its code objects have for them.

    Attributes:
        texts: What runs, or would be run by an import now.
        first: What the program began with.
        flags: With what a text is compiled that needs more than none.
        early: In which code objects other functions stand from the start, by file.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.first: dict[str, str] = {}
        self.flags: dict[str, int] = {}
        self.early: dict[str, dict[CodeType, CodeType]] = {}

    def keep(self, filename: str, text: str, flags: int = 0) -> None:
        """Note that the program runs (or has imported) a text."""
        self.texts[filename] = self.first[filename] = text
        self.flags[filename] = flags

    def code(self, filename: str) -> CodeType:
        """Return the code of a file that is kept."""
        code = compile(self.texts[filename], filename, "exec", self.flags.get(filename, 0), dont_inherit=True)
        early = self.early.get(filename)
        return exchanged(code, early) if early else code

    @contextlib.contextmanager
    def importing(self, imported: Callable[[ModuleType], None]) -> Iterator[None]:
        """Meanwhile the program's own modules are imported from what is kept, and what they read is kept.

        Args:
            imported: Is told of each module of a library.
        """
        finder = _Finder(self, imported)
        places = [number for number, other in enumerate(sys.meta_path) if other is PathFinder]
        sys.meta_path.insert(places[0] if places else len(sys.meta_path), finder)
        try:
            yield
        finally:
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)


def exchanged(code: CodeType, others: dict[CodeType, CodeType]) -> CodeType:
    """Return a code object in which other functions are made than in the source."""
    constants = tuple(
        others.get(part) or exchanged(part, others) if isinstance(part, CodeType) else part for part in code.co_consts
    )
    return code.replace(co_consts=constants) if constants != code.co_consts else code


def _run(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Run a module of a library; it is the program that changes what it holds from here on."""
    execute(module)
    if module.__name__ == _NUMPY:
        RandomStates.numpy_begins(module)
    else:
        LIBRARIES.keep(module)


_NUMPY = "numpy.random"


class _Awaited(ModuleSpec):
    """What a module of a library is imported by: when it has been, it is remembered. Python says so here; a function
    of ours that ran the module would lie in the tracebacks of imports that fail."""

    @property
    def _initializing(self) -> bool:
        return True

    @_initializing.setter
    def _initializing(self, begins: bool) -> None:
        if not begins:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            self._initializing = False
            imported, module = vars(self).pop("imported"), sys.modules.get(self.name)
            if isinstance(module, ModuleType):  # else its import has failed
                imported(module)


class _Finder:
    """Finds modules as Python does; those of the program are loaded from what is kept."""

    def __init__(self, kept: Kept, imported: Callable[[ModuleType], None]) -> None:
        self._kept, self._imported = kept, imported

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As `PathFinder` does; None, so that others go on, for what is not the program's."""
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = None if spec is None else spec.loader
        if spec is None or type(loader) is not SourceFileLoader:
            return None
        if is_library(loader.path):
            if not concerns(name) and name != _NUMPY:
                spec.__class__, spec.imported = _Awaited, self._imported  # type: ignore[attr-defined]
                return spec
            loader.exec_module = functools.partial(_run, loader.exec_module)  # type: ignore[method-assign]
            return spec
        if loader.path in self._kept.texts:
            loader.get_code = functools.partial(self._code, str(loader.path))  # type: ignore[method-assign]
        else:
            self._keep(loader)
        return spec

    def _keep(self, loader: SourceFileLoader) -> None:
        """Read what is about to be imported. What is wrong with it the import itself says: a frame of ours under
        that would show in the traceback."""
        with contextlib.suppress(OSError, UnicodeDecodeError, SyntaxError):
            self._kept.keep(str(loader.path), importlib.util.decode_source(loader.get_data(loader.path)))

    def _code(self, path: str, name: str) -> CodeType:
        """Return the code of a module that the program has imported before: its class stays what the program would
        see."""
        return self._kept.code(path)
