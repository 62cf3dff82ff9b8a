"""Definitions: the functions and classes of a source text, compared with those of another version of it.

Two versions are compared as syntax trees without positions and without docstrings, so that a comment changes nothing.
What an inner function does is not part of what the outer one does: each is compared by itself, a lambda included.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import field
from types import CodeType
from typing import Any

from nnrepl.classes import dataclass

Key = tuple[str, int]
"""Which definition: its dotted path without `<locals>`, and the how manyth of that path in the file it is."""

_Def = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_Loops = (ast.For, ast.AsyncFor, ast.While)
_HIDDEN = re.compile(r"<locals>\.|<(?:listcomp|setcomp|dictcomp|genexpr)>\.")


@dataclass(eq=False)
class Definition:
    """A function, a lambda, a class, or the module itself.

    Attributes:
        key: Which one it is.
        node: Its syntax tree.
        own: What it does, as text: without docstring, inner definitions and positions.
        defaults: The default values of its parameters, as text.
        frame: Decorators; of a class its bases and keywords as well, as text.
        outer: In what it is defined.
        looped: Whether it stands in a loop of that.
        loose: The statements of a class or module that define nothing and import nothing, each with its text.
        imports: The imports of a module.
        inner: What is defined in it.
    """

    key: Key
    node: ast.AST
    own: str = ""
    defaults: str = ""
    frame: str = ""
    outer: Definition | None = None
    looped: bool = False
    loose: list[tuple[str, ast.stmt]] = field(default_factory=list)
    imports: list[tuple[str, ast.stmt]] = field(default_factory=list)
    inner: list[Definition] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`Net.__call__`, as a user says it."""
        return self.key[0]

    @property
    def variable(self) -> str:
        """The name under which it is found in its class or module: `_Net__mix` for `Net.__mix`."""
        name = self.name.rpartition(".")[2]
        outer = self.outer
        private = name.startswith("__") and not name.endswith("__")
        return f"_{outer.variable.lstrip('_')}{name}" if outer is not None and outer.is_class and private else name

    @property
    def is_class(self) -> bool:
        """Whether it is a class."""
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_lambda(self) -> bool:
        """Whether it is a lambda."""
        return isinstance(self.node, ast.Lambda)

    @property
    def in_function(self) -> bool:
        """Whether it is made anew by each call of something."""
        outer = self.outer
        return outer is not None and ((isinstance(outer.node, _Def) and not outer.is_class) or outer.in_function)

    @property
    def lines(self) -> tuple[int, int]:
        """Its first line, decorators included, and its last."""
        node: Any = self.node
        first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", ()))])
        return first, node.end_lineno


def definitions(text: str) -> dict[Key, Definition]:
    """Every definition of a text, by key; the module itself is `("", 0)`. Raises SyntaxError."""
    module = Definition(("", 0), ast.parse(text))
    pending, found = [module], []
    while pending:
        outer = pending.pop(0)
        for node, looped in _fill(outer):
            path = f"{outer.name}.{_name(node)}".lstrip(".")
            made = Definition((path, 0), node, outer=outer, looped=looped)
            outer.inner.append(made)
            pending.append(made)
            found.append((path, made.lines[0], made))
    return {module.key: module, **_numbered(found)}


def codes_of(text: str, filename: str, flags: int = 0) -> dict[Key, CodeType]:
    """Return the code object of every function of a text, by key. Raises SyntaxError."""
    module = compile(text, filename, "exec", flags, dont_inherit=True)
    level, found = [module], []
    while level:  # breadth first, as `definitions` counts
        level = [inner for code in level for inner in _inner(code)]
        for code in level:
            path = _HIDDEN.sub("", code.co_qualname)
            if not path.endswith(("comp>", "genexpr>")):
                found.append((path, code.co_firstlineno, code))
    return {("", 0): module, **_numbered(found)}


def _numbered(found: list[tuple[str, int, Any]]) -> dict[Key, Any]:
    """Things under their path and the how manyth of that path they are, by their first lines."""
    counts: dict[str, int] = defaultdict(int)
    numbered: dict[Key, Any] = {}
    for path, _, thing in sorted(found, key=lambda entry: entry[1]):
        key = path, counts[path]
        counts[path] += 1
        numbered[key] = thing
        if isinstance(thing, Definition):
            thing.key = key
    return numbered


def walk(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and all inside of it."""
    pending = [code]
    while pending:
        code = pending.pop()
        yield code
        pending.extend(_inner(code))


def _inner(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def pairs_of(old: dict[Key, Definition], new: dict[Key, Definition]) -> list[tuple[Definition, Definition]]:
    """Return the definitions that both versions have. Where a path is defined more often in one of them, those that do
    the same belong together."""
    by_path: dict[str, tuple[list[Definition], list[Definition]]] = defaultdict(lambda: ([], []))
    for version, side in ((old, 0), (new, 1)):
        for definition in version.values():
            by_path[definition.name][side].append(definition)
    found: list[tuple[Definition, Definition]] = []
    for before, after in by_path.values():
        if len(before) == len(after):
            found += zip(before, after)
            continue
        left = list(after)
        for definition in before:
            twin = next((other for other in left if other.own == definition.own), None)
            if twin is not None:
                left.remove(twin)
                found.append((definition, twin))
    return found


def _name(node: ast.AST) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else str(node.name)  # type: ignore[attr-defined]


def _fill(definition: Definition) -> list[tuple[ast.AST, bool]]:
    """Note what a definition does. Returns the definitions inside of it, and whether each stands in a loop."""
    node: Any = definition.node
    writer = _Writer()
    if isinstance(node, ast.Lambda):
        definition.own = writer.parameters(node.args) + writer.text(node.body)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        definition.own = writer.parameters(node.args) + writer.text(_without_docstring(node.body))
    else:
        _fill_body(definition, writer)
    _fill_header(definition)
    return writer.found


def _fill_body(definition: Definition, writer: _Writer) -> None:
    """Visit the statements of a class or module."""
    body: Any = definition.node
    for statement in _without_docstring(body.body):
        said = writer.text(statement)
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            definition.imports.append((said, statement))
        elif not isinstance(statement, _Def):
            definition.loose.append((said, statement))
    definition.own = "\n".join(said for said, _ in definition.loose)


def _fill_header(definition: Definition) -> None:
    node: Any = definition.node
    writer = _Writer()
    arguments = getattr(node, "args", None)
    if isinstance(arguments, ast.arguments):
        definition.defaults = writer.text([*arguments.defaults, None, *arguments.kw_defaults])
    definition.frame = writer.text(getattr(node, "decorator_list", []))
    if isinstance(node, ast.ClassDef):
        definition.frame += writer.text([*node.bases, *node.keywords])


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


class _Writer:
    """Writes syntax trees as text without positions, and collects the definitions in them."""

    def __init__(self) -> None:
        self.found: list[tuple[ast.AST, bool]] = []
        self._loops = 0

    def text(self, part: Any) -> str:
        """Return a piece of a tree; an inner definition is only named, with what the outer one does to make it."""
        if isinstance(part, _Def):
            return self._inner(part)
        if isinstance(part, ast.AST):
            looped = isinstance(part, _Loops)
            self._loops += looped
            fields = ",".join(self.text(getattr(part, name, None)) for name in part._fields if name != "type_comment")
            self._loops -= looped
            return f"{type(part).__name__}({fields})"
        if isinstance(part, list):
            return f"[{','.join(map(self.text, part))}]"
        return f"{type(part).__name__}:{part!r}"

    def parameters(self, arguments: ast.arguments) -> str:
        """Return the names of parameters; annotations do nothing."""
        kinds = [
            [part.arg for part in (*arguments.posonlyargs, None, *arguments.args) if part is not None],
            [part.arg for part in arguments.kwonlyargs],
            [len(arguments.posonlyargs), getattr(arguments.vararg, "arg", ""), getattr(arguments.kwarg, "arg", "")],
        ]
        return repr(kinds)

    def _inner(self, node: Any) -> str:
        self.found.append((node, bool(self._loops)))
        if isinstance(node, ast.ClassDef):
            header = self.text([*node.decorator_list, *node.bases, *node.keywords])
        else:
            header = self.text([*getattr(node, "decorator_list", []), *node.args.defaults, *node.args.kw_defaults])
        return f"<{_name(node)} {header}>"
