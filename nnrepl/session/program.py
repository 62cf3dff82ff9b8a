"""Program: what the source of a program has, recorded or not: its files, functions, classes, variables and lines.

A place that no op is at yet is either one that the program can still come to, or a typing error. The source tells.
"""

from __future__ import annotations

import ast
import os
import sys
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import field
from types import CodeType
from typing import NamedTuple

from nnrepl.classes import dataclass
from nnrepl.installed import is_library
from nnrepl.record import segments as sources
from nnrepl.tape import Activation, Tape

_MOST_FILES = 200
Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_MAKES_OPS = (ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Subscript, ast.Attribute, ast.Await, ast.AugAssign)


@dataclass(slots=True)
class File:
    """What one source file has.

    Attributes:
        functions: The qualified names of its functions and methods.
        classes: Those of its classes.
        variables: What is assigned, bound or taken as an argument anywhere in it; `w` for `self.w`.
        bound: What its imports bind.
        imports: The modules that it names in imports, relative ones with their dots.
        lines: The lines from which ops can come, sorted.
        count: How many lines it has.
    """

    functions: dict[str, tuple[int, int]] = field(default_factory=dict)
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    imports: set[str] = field(default_factory=set)
    lines: list[int] = field(default_factory=list)
    count: int = 0


_files: dict[tuple[str, int], File] = {}


def file_of(path: str) -> File:
    """Return what a file has; empty if it cannot be read."""
    lines = sources.lines_of(path)
    key = (path, hash(tuple(lines)))
    if key not in _files:
        found = _files[key] = File(count=len(lines))
        try:
            _Reader(found).visit(ast.parse("".join(lines)))
        except (SyntaxError, ValueError, RecursionError):
            pass
        found.lines = sorted(set(found.lines))
    return _files[key]


class _Reader(ast.NodeVisitor):
    """Walks a file once."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._within: list[str] = []

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.For | ast.comprehension):  # the rows of an array are ops
            self._add(node.iter)
        elif isinstance(node, _MAKES_OPS):
            self._add(node)
        super().visit(node)

    def _add(self, node: ast.expr | ast.AugAssign) -> None:
        self._file.lines.extend(range(node.lineno, (node.end_lineno or node.lineno) + 1))

    def _scope(self, node: Defined, names: dict[str, tuple[int, int]]) -> None:
        local = [] if isinstance(node, ast.ClassDef) else ["<locals>"]
        names[".".join([*self._within, node.name])] = (node.lineno, node.end_lineno or node.lineno)
        self._within += [node.name, *local]
        defaults = [] if isinstance(node, ast.ClassDef) else [node.args]
        for part in (*node.decorator_list, *defaults, *node.body):  # bases and annotations make no ops
            self.visit(part)
        del self._within[-1 - len(local) :]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope(node, self._file.functions)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope(node, self._file.classes)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._file.variables.add(node.id)

    def visit_arg(self, node: ast.arg) -> None:
        self._file.variables.add(node.arg)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store):
            self._file.variables.add(node.attr)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        self._file.bound.add((node.asname or node.name).partition(".")[0])

    def visit_Import(self, node: ast.Import) -> None:
        self.generic_visit(node)
        self._file.imports.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.generic_visit(node)
        base = "." * node.level + (node.module or "")
        self._file.imports.add(base)
        self._file.imports.update(f"{base}.{alias.name}" if node.module else base + alias.name for alias in node.names)


class DefinitionSite(NamedTuple):
    """Where a function or a class stands in the source."""

    path: str
    first: int
    last: int
    is_class: bool


class Program:
    """The source of the program that is on a tape.

    Args:
        tape: The tape; it may grow.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._seen = 0
        self._scopes: set[Activation] = set()
        self._recorded: dict[str, None] = {}

    def recorded(self) -> list[str]:
        """Every file from which ops, or calls that made ops, have come; those of libraries too."""
        for op in self._tape.ops[self._seen :]:
            scope = op.scope
            while scope is not None and scope not in self._scopes:
                self._scopes.add(scope)
                self._recorded.setdefault(scope.code.co_filename)
                scope = scope.parent
        self._seen = len(self._tape.ops)
        return list(self._recorded)

    def file(self, path: str) -> File:
        """Return what one file has."""
        return file_of(path)

    def files(self) -> list[str]:
        """Return the program's own files: those on the tape, the other cells of their notebook, and those that they
        import and that lie beside them."""
        pending = [path for path in self.recorded() if _is_own(path)]
        found: dict[str, None] = {}
        while pending and len(found) < _MOST_FILES:
            path = pending.pop(0)
            if path not in found:
                found[path] = None
                pending.extend(sources.beside(path))
                pending.extend(_imported(path))
        return list(found)

    def named(self, wanted: str) -> list[str]:
        """Return the files that are meant by a name or the end of a path: those of the tape, else those of the program,
        else one on the disk."""
        for paths in (self.recorded(), self.files()):
            found = [path for path in paths if is_file(path, wanted)]
            if found:
                return found
        path = os.path.abspath(os.path.expanduser(wanted))
        return [path] if os.path.isfile(path) else []

    def functions(self) -> set[str]:
        """Return the qualified names of all functions of the program."""
        return {name for path in self.files() for name in file_of(path).functions}

    def classes(self) -> set[str]:
        """Return the qualified names of all classes of the program."""
        return {name for path in self.files() for name in file_of(path).classes}

    def variables(self) -> set[str]:
        """Return the names of all variables of the program."""
        return {name for path in self.files() for name in file_of(path).variables}

    def imported(self) -> set[str]:
        """Return the names that the program's imports bind."""
        return {name for path in self.files() for name in file_of(path).bound}

    def lines(self, path: str) -> list[int]:
        """Return the lines of a file from which ops can come or have come, sorted."""
        return sorted({*file_of(path).lines, *lines_with_ops(self._tape, path)})

    def definition(self, name: str, wanted: str = "") -> DefinitionSite | None:
        """Where a function or a class stands, by the end of its qualified name."""
        for path in dict.fromkeys([*self.files(), *self.recorded()]):
            if is_file(path, wanted):
                file = file_of(path)
                for is_class, names in ((True, file.classes), (False, file.functions)):
                    for known, span in names.items():
                        if is_called(known, name):
                            return DefinitionSite(path, *span, is_class)
        return None

    def defined(self, path: str) -> list[str]:
        """Return the functions and classes of a file."""
        return [*file_of(path).functions, *file_of(path).classes]

    def short(self, path: str) -> str:
        """Return a path by its name, with its folder where another file has the same name."""
        name = os.path.basename(path)
        others = {other for other in self.recorded() if os.path.basename(other) == name and other != path}
        return os.path.join(os.path.basename(os.path.dirname(path)), name) if others else name


def is_called(qualified: str, name: str) -> bool:
    """Whether a qualified name is meant by its end: `Net.__call__` by `__call__`."""
    return qualified == name or qualified.endswith("." + name)


def is_file(path: str, wanted: str) -> bool:
    """Whether a path is the file that the user names by its name, the end of its path, or from where they are."""
    if not wanted or path == wanted or os.path.basename(path) == wanted:
        return True
    plain = os.path.normpath(os.path.expanduser(wanted))
    if os.path.isabs(plain) or plain.startswith(os.pardir):
        return os.path.abspath(plain) == os.path.abspath(path)
    return path == plain or path.endswith("/" + plain)


def near(lines: list[int], line: int) -> list[int]:
    """Return the lines before and after one."""
    at = bisect_left(lines, line)
    return [*lines[max(at - 1, 0) : at], *lines[at : at + 1]]


def lines_with_ops(tape: Tape, path: str) -> set[int]:
    """Return the lines of a file from which ops, or calls that make ops, have come."""
    lines: set[int] = set()
    known: set[Activation | None] = {None}
    places: set[tuple[CodeType, int]] = set()
    for op in tape.ops:
        scope, lasti = op.scope, op.lasti
        while scope is not None:
            if (scope.code, lasti) not in places and scope.code.co_filename == path:
                first, last = sources.span_of(scope.code, lasti)[:2]
                lines.update(range(first, last + 1))
            places.add((scope.code, lasti))
            caller = None if scope in known else scope.parent
            known.add(scope)
            lasti, scope = scope.lasti, caller
    return lines


_NNREPL = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _is_own(path: str) -> bool:
    """Whether a file is the program's: neither a library's nor nnrepl's."""
    return not is_library(path) and not path.startswith(("<frozen", _NNREPL))


def _imported(path: str) -> Iterator[str]:
    """Yield the files beside a file (or where Python looks first) that it imports; nothing is imported for that."""
    folders = dict.fromkeys([os.path.dirname(path), *sys.path[:1]])
    for name in sorted(file_of(path).imports):
        plain = name.lstrip(".")
        up = len(name) - len(plain)
        bases = [os.path.join(os.path.dirname(path), *[os.pardir] * (up - 1))] if up else list(folders)
        for base in bases:
            stem = os.path.normpath(os.path.join(base, *plain.split("."))) if plain else base
            for candidate in (f"{stem}.py", os.path.join(stem, "__init__.py")):
                if os.path.isfile(candidate) and _is_own(candidate):
                    yield candidate
