"""Script: run a file, a module or a notebook as `__main__`, as plain Python would."""

from __future__ import annotations

import io
import os
import runpy
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

from nnrepl.programs.notebook import Notebook, read_notebook


class CannotLoad(Exception):
    """The program cannot be run; the message is one line for the person."""


class Script:
    """A program that runs as `__main__`.

    Attributes:
        title: How to call it.
        path: The file, as the program will see it in `__file__`.
    """

    def __init__(self, title: str, path: str, args: list[str], first_path: str, code: list[CodeType]) -> None:
        self.title = title
        self.path = path
        self._argv = [path, *args]
        self._first_path = first_path
        self._code = code
        self._spec: Any = None
        self.notes: list[str] = []

    def run(self) -> None:
        """Run it to its end. Raises whatever the program raises, SystemExit included."""
        with self._as_main() as module:
            for code in self._code:
                exec(code, module.__dict__)

    @contextmanager
    def _as_main(self) -> Iterator[types.ModuleType]:
        """`__main__`, `sys.argv` and `sys.path[0]` as the program expects them."""
        module = types.ModuleType("__main__")
        module.__dict__.update(
            __file__=self.path, __builtins__=__builtins__, __spec__=self._spec, __loader__=None, __package__=None
        )
        if self._spec is not None:
            module.__package__ = self._spec.parent
        before = sys.modules.get("__main__"), sys.argv, sys.path[:1]
        sys.modules["__main__"], sys.argv = module, self._argv
        sys.path[:1] = [self._first_path]
        try:
            yield module
        finally:
            main, sys.argv, sys.path[:1] = before
            if main is not None:
                sys.modules["__main__"] = main


def load_script(path: str, args: list[str]) -> Script:
    """Load a Python file or a notebook.

    Raises:
        CannotLoad: If it is missing, a directory, not readable, or not valid Python.
    """
    file = Path(path)
    if file.is_dir():
        raise CannotLoad(f"{path} is a directory; name a program in it, such as {file / 'train.py'}")
    try:
        if file.suffix == ".ipynb":
            return _notebook(path, args)
        source = file.read_bytes()
    except FileNotFoundError:
        raise CannotLoad(f"there is no file {path}") from None
    except OSError as error:
        raise CannotLoad(f"cannot read {path}: {error.strerror}") from None
    first = str(file.resolve().parent)
    return Script(path, os.path.abspath(path), args, first, [_compile(source, os.path.abspath(path), path)])


def load_module(name: str, args: list[str]) -> Script:
    """Load a module as `python -m` does.

    Raises:
        CannotLoad: If there is no such module, or it cannot be run.
    """
    sys.path.insert(0, os.getcwd())
    try:
        get_details: Any = runpy._get_module_details  # type: ignore[attr-defined]  # what pdb uses as well
        _, spec, code = get_details(name)
    except (ImportError, SyntaxError) as error:
        raise CannotLoad(f"cannot run module {name}: {error}") from None
    finally:
        del sys.path[0]
    script = Script(name, spec.origin or name, args, os.getcwd(), [code])
    script._spec = spec
    return script


def _notebook(path: str, args: list[str]) -> Script:
    try:
        notebook: Notebook = read_notebook(path)
    except ValueError as error:
        raise CannotLoad(str(error)) from None
    code = [_compile(cell.text.encode(), cell.filename, f"{path}, cell {cell.number}") for cell in notebook.cells]
    script = Script(path, os.path.abspath(path), args, str(Path(path).resolve().parent), code)
    script.notes = notebook.notes
    return script


def _compile(source: bytes, filename: str, shown: str) -> CodeType:
    try:
        return compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{shown}, line {error.lineno}" if error.lineno else shown
        raise CannotLoad(f"{where}: {error.msg}") from None
    except ValueError as error:
        raise CannotLoad(f"{shown} is not a Python program: {error}") from None


def reset_stdin() -> None:
    """Let a program that runs again read its standard input from the start, where that is a file."""
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.seekable():
        sys.stdin.seek(0)
