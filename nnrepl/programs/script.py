"""Script: run a file, a module or a notebook as `__main__`, as plain Python would."""

from __future__ import annotations

import ast
import builtins
import io
import os
import runpy
import sys
import types
from collections.abc import Iterator
from importlib.machinery import BuiltinImporter, SourceFileLoader
from importlib.util import decode_source
from pathlib import Path
from types import CodeType
from typing import Any

from nnrepl.installed import is_library
from nnrepl.programs.cells import Loop
from nnrepl.programs.display import provide, shown
from nnrepl.programs.kept import Kept
from nnrepl.programs.notebook import Notebook, is_in_cells, read_notebook
from nnrepl.programs.reload import read
from nnrepl.record.segments import register_text
from nnrepl.session.errors import UserError
from nnrepl.tape import Tape

USAGE_ERROR, PROGRAM_ERROR = 2, 1
STANDARD_INPUT = "<stdin>"
"""What Python calls a program that it reads from there."""


class CannotLoad(Exception):
    """The program cannot be run; the message is one line for the user.

    Attributes:
        status: The exit status: 2 where the command line is wrong, 1 where the program is.
    """

    def __init__(self, message: str, status: int = USAGE_ERROR) -> None:
        super().__init__(message)
        self.status = status


class Script:
    """A program that runs as `__main__`.

    Attributes:
        title: How to call it.
        path: The file, as the program will see it in `__file__`; "" where it has none.
        loop: Runs what has `await` at its top level.
        notes: What the user should know about how it was loaded.
    """

    def __init__(
        self, title: str, path: str, argv: list[str], first_path: str, code: list[CodeType], texts: list[str]
    ) -> None:
        self.title = title
        self.path = path
        self._argv = argv
        self._first_path = first_path
        self._code = list(zip(code, texts))
        self.kept = Kept()
        for part, text in self._code:
            self.kept.keep(part.co_filename, text, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if is_in_cells(path) else 0)
        self._spec: Any = None
        self._begun = False
        self.loop = Loop()
        self.notes: list[str] = []

    def run(self) -> None:
        """Run it to its end, in `__main__`. Raises whatever the program raises, SystemExit included."""
        self.loop = Loop()
        namespace = sys.modules["__main__"].__dict__
        for code in self._codes():
            self.loop.execute(code, namespace)

    def _codes(self) -> Iterator[CodeType]:
        """Yield what runs, part after part: as it was read, or as it has been reloaded since."""
        kept = self.kept
        for code, text in self._code:
            name = code.co_filename
            yield code if kept.texts[name] == text and not kept.early.get(name) else kept.code(name)

    @property
    def arguments(self) -> list[str]:
        """What it finds in `sys.argv` after its own name."""
        return self._argv[1:]

    @property
    def folder(self) -> str:
        """Where Python looks first for what it imports."""
        return self._first_path

    @property
    def module(self) -> str:
        """What an import calls it."""
        return Path(self.path).stem if self._spec is None else str(self._spec.name)

    def texts(self) -> list[tuple[str, str]]:
        """Return the source that runs, part after part, each with what it is called."""
        names = [code.co_filename for code, _ in self._code]
        if len(names) == 1:
            return [(os.path.basename(self.path) or self.title, self.kept.texts[names[0]])]
        return [(f"cell {number}", self.kept.texts[name]) for number, name in enumerate(names, 1)]

    def surroundings(self, folder: Path) -> list[str]:
        """Lines (after `import sys`) that let a copy of the source in another folder find what the original finds:
        its arguments, the modules beside it, its package."""
        lines: list[str] = []
        if self._argv[1:]:
            lines.append(f"sys.argv[1:] = {self._argv[1:]!r}")
        if self._first_path and os.path.realpath(self._first_path) != os.path.realpath(folder):
            lines.append(f"sys.path.insert(0, {self._first_path!r})")
        if self._spec is not None and self._spec.parent:
            lines.append(f"__package__ = {self._spec.parent!r}")
        return lines

    def on_disk(self, filename: str) -> str:
        """Return the text of one of the program's files as it is on disk now. Raises UserError."""
        if filename == STANDARD_INPUT:
            return self._code[0][1]
        if not is_in_cells(self.path) or "#" not in filename:
            return read(filename)
        try:
            cells = {cell.filename: cell.text for cell in read_notebook(self.path, known=True).cells}
        except (ValueError, OSError) as error:
            said = str(error) if isinstance(error, ValueError) else f"cannot read {self.path}: {error.strerror}"
            raise UserError(f"{said}; nothing has changed") from None
        if len(cells) != len(self._code):
            raise UserError(
                f"{self.title} has {len(cells)} cells now and had {len(self._code)}; load {self.title} begins anew"
            )
        return cells[filename]

    def enter(self) -> types.ModuleType:
        """Make a fresh `__main__`, `sys.argv` and `sys.path[0]` as the program expects them. They stay so: threads
        and exit handlers run after the last line. Returns `__main__`."""
        module = types.ModuleType("__main__")
        module.__dict__.update(__builtins__=builtins, __spec__=self._spec)
        module.__annotations__ = {}
        if self.path:
            in_file = self.path != STANDARD_INPUT
            loader: Any = SourceFileLoader("__main__", self.path) if in_file else BuiltinImporter
            module.__dict__.update(__file__=self.path, __loader__=loader, __cached__=None)
        if self._spec is not None:
            module.__dict__.update(
                __package__=self._spec.parent, __loader__=self._spec.loader, __cached__=self._spec.cached
            )
        is_notebook = is_in_cells(self.path)
        provide(is_notebook)
        if is_notebook:
            module.__dict__["display"] = shown
        sys.modules["__main__"], sys.argv = module, list(self._argv)
        if not self._begun:
            sys.path[:1] = [self._first_path]
        self._begun = True
        return module


def load_script(path: str, args: list[str]) -> Script:
    """Load a Python file, a directory with a `__main__.py`, or a notebook.

    Raises:
        CannotLoad: If it is missing, not readable, or not valid Python.
    """
    file = Path(path)
    first = file.resolve().parent
    try:
        if path and file.is_dir():
            if not (file / "__main__.py").exists():
                raise CannotLoad(f"{path} is a directory; name a program in it, such as {file / 'train.py'}")
            first, file = Path(os.path.abspath(path)), file / "__main__.py"
        if is_in_cells(str(file)):
            return _notebook(path, args)
        source = file.read_bytes() if path else b""
    except FileNotFoundError:
        raise CannotLoad(f"there is no file {path}") from None
    except OSError as error:
        raise CannotLoad(f"cannot read {path}: {error.strerror}") from None
    if not path:
        raise CannotLoad("the name of the program is empty")
    member = _member(source, file)
    if member is not None:
        return _within_its_package(*member, args)
    absolute = os.path.join(os.getcwd(), file if file.name == "__main__.py" else path)
    code = _compile(source, absolute, path)
    return Script(path, absolute, [path, *args], str(first), [code], [decode_source(source)])


def _member(source: bytes, file: Path) -> tuple[str, Path] | None:
    """Return the module that a file is, and the folder of its package, where it imports from beside itself (`from .
    import`): by itself no Python could run it."""
    try:
        relative = any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    folder = file.resolve().parent
    names = [file.stem]
    while relative and (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return (".".join(names), folder) if len(names) > 1 else None


def _within_its_package(name: str, folder: Path, args: list[str]) -> Script:
    script = load_module(name, args, str(folder))
    script.notes.append(f"it imports from beside itself, so it runs as the module {name}")
    return script


def empty_script() -> Script:
    """Return a program without a line: all of it is typed at the prompt."""
    return Script("empty", "", [""], "", [], [])


def read_script(args: list[str]) -> Script:
    """Read a program from standard input, to its end, as `python -` does. From then on standard input is the terminal,
    where there is one.

    Raises:
        CannotLoad: If it is not valid Python.
    """
    source = b"" if sys.stdin is None else sys.stdin.buffer.read()
    code = _compile(source, STANDARD_INPUT, "standard input")
    text = decode_source(source)
    register_text(STANDARD_INPUT, text)
    _read_terminal()
    return Script("standard input", STANDARD_INPUT, ["-", *args], "", [code], [text])


def _read_terminal() -> None:
    """Let standard input be the terminal on which the program prints, or nothing."""
    try:
        shown = sys.stdout is not None and sys.stdout.isatty()
        terminal = os.open("/dev/tty" if shown else os.devnull, os.O_RDONLY)
    except OSError:
        terminal = os.open(os.devnull, os.O_RDONLY)
    os.dup2(terminal, 0)
    os.close(terminal)
    sys.stdin = os.fdopen(0, closefd=False)


def load_module(name: str, args: list[str], folder: str = "") -> Script:
    """Load a module as `python -m` does.

    Args:
        folder: Where its package lies, "" for the folder in which the user is.

    Raises:
        CannotLoad: If there is no such module, or it cannot be run.
    """
    folder = folder or os.getcwd()
    sys.path.insert(0, folder)
    try:
        get_details: Any = runpy._get_module_details  # type: ignore[attr-defined]  # what pdb uses as well
        _, spec, code = get_details(name)
    except (ImportError, SyntaxError) as error:
        raise CannotLoad(f"cannot run module {name}: {error}") from None
    finally:
        del sys.path[0]
    origin = spec.origin or name
    text = decode_source(Path(origin).read_bytes()) if os.path.exists(origin) else ""
    script = Script(name, origin, [origin, *args], folder, [code], [text])
    script._spec = spec
    return script


def _notebook(path: str, args: list[str]) -> Script:
    try:
        notebook: Notebook = read_notebook(path)
    except ValueError as error:
        raise CannotLoad(str(error)) from None
    code = [
        _compile(cell.text.encode(), cell.filename, f"{path}, cell {cell.number}", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for cell in notebook.cells
    ]
    absolute = os.path.join(os.getcwd(), path)
    texts = [cell.text for cell in notebook.cells]
    script = Script(path, absolute, [path, *args], str(Path(path).resolve().parent), code, texts)
    script.notes = notebook.notes
    return script


def _compile(source: bytes, filename: str, shown: str, flags: int = 0) -> CodeType:
    try:
        code: CodeType = compile(source, filename, "exec", flags, dont_inherit=True)
        return code
    except SyntaxError as error:
        where = f"{shown}, line {error.lineno}" if error.lineno else shown
        raise CannotLoad(f"{where}: {error.msg}", PROGRAM_ERROR) from None
    except ValueError as error:
        raise CannotLoad(f"{shown} is not a Python program: {error}", PROGRAM_ERROR) from None


def reset_stdin() -> None:
    """Let a program that runs again read its standard input from the start, where that is a file."""
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.seekable():
        sys.stdin.seek(0)


def forget_modules(known: frozenset[str], tape: Tape) -> None:
    """Let a program that runs again import its own modules again, and those whose import made ops.

    Args:
        known: The modules that had been imported before the program began.
    """
    importing = {
        scope.code.co_filename
        for op in tape.ops
        for scope in (op.scope.path() if op.scope is not None else ())
        if scope.code.co_name == "<module>"
    }
    for name in sys.modules.keys() - known:
        if name.partition(".")[0] == "nnrepl":
            continue  # in a checkout it looks like a module of the program's
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and file.endswith(".py") and (file in importing or not is_library(file)):
            del sys.modules[name]
