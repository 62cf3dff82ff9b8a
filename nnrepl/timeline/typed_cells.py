"""Cells: what was typed at the prompt as the program's next lines."""

from __future__ import annotations
import __future__

import ast
import functools
from types import CodeType

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.segments import register_text

_FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


@dataclass(frozen=True, eq=False, slots=True)
class Cell:
    """One statement, or several, typed at the prompt.

    Attributes:
        number: What it is called by, counted over the whole session: no two cells share one.
        text: As it was typed.
        code: Its parts, in order; the last one shows its result as Python's own prompt does.
        names: Every name in it.
    """

    number: int
    text: str
    code: tuple[CodeType, ...]
    names: frozenset[str]

    @property
    def filename(self) -> str:
        """The file name that tracebacks and listings show."""
        return filename(self.number)

    @property
    def looks(self) -> bool:
        """Whether it has only looked: expressions that call nothing but what is known to change nothing."""
        tree = ast.parse("pass") if "await" in self.text else ast.parse(self.text)
        if not all(isinstance(node, ast.Expr) for node in tree.body):
            return False
        return not any(isinstance(node, ast.NamedExpr) or _does(node) for node in ast.walk(tree))

    @property
    def future(self) -> int:
        """The `from __future__` features that hold from here on."""
        return functools.reduce(int.__or__, (code.co_flags & _FUTURE for code in self.code), 0)


_LOOKS = frozenset(
    "abs all any bool dict dir float id int isinstance len list max min print range repr round sorted str sum tuple "
    "type vars zip parameters trainable_parameters children modules named_modules keys values items".split()
)
_METHODS = frozenset(name for name in dir(mx.array) if not name.startswith("_"))


def _does(node: ast.AST) -> bool:
    """Whether a node may change something."""
    if not isinstance(node, ast.Call):
        return isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom))
    called = node.func
    if isinstance(called, ast.Attribute):
        return called.attr not in _LOOKS | _METHODS
    return not (isinstance(called, ast.Name) and called.id in _LOOKS)


def filename(number: int) -> str:
    """`<prompt 3>`."""
    return f"<prompt {number}>"


def make_cell(number: int, text: str, future: int = 0) -> Cell:
    """Compile what was typed, and make its source known under `<prompt 3>`.

    Several statements show the result of the last one if that is an expression; a single one shows its results as
    Python's own prompt does, within a loop as well.

    Raises:
        SyntaxError, ValueError: If it is no Python.
    """
    name = filename(number)
    flags = future | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(text, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    single = len(tree.body) == 1 or isinstance(tree.body[-1], ast.Expr)
    before, last = (tree.body[:-1], tree.body[-1:]) if single else (tree.body, [])
    parts: list[CodeType] = []
    for body, mode in ((before, "exec"), (last, "single")):
        if body:
            whole = ast.Module(body, []) if mode == "exec" else ast.Interactive(body)
            parts.append(compile(whole, name, mode, flags, dont_inherit=True))
    register_text(name, text)
    names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return Cell(number, text, tuple(parts), names)
