"""Cells: what was typed at the prompt as the program's next lines."""

from __future__ import annotations
import __future__

import ast
import functools
from dataclasses import dataclass
from types import CodeType

from nnrepl.record.source import register_text

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
    def future(self) -> int:
        """The `from __future__` features that hold from here on."""
        return functools.reduce(int.__or__, (code.co_flags & _FUTURE for code in self.code), 0)


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
            future |= functools.reduce(int.__or__, (part.co_flags & _FUTURE for part in parts), 0)
            parts.append(compile(whole, name, mode, flags | future, dont_inherit=True))
    register_text(name, text)
    names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return Cell(number, text, tuple(parts), names)
