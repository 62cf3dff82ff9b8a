"""Assignments: the lines at the prompt that change a value (`z1 = ...`, `w[0, 1] += 1`, `grad(a1) = ...`)."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from nnrepl.session.syntax import cut, masked

_OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is assigned to what.

    Attributes:
        target: The whole left side.
        base, index: What is in front of the last `[...]` of it, and that; both empty where there is none.
        operator: `*` for `*=`, empty for `=`.
        value: The right side.
    """

    target: str
    base: str
    index: str
    operator: str
    value: str


def assignment(text: str) -> Assignment | None:
    """Read one assignment to one target; None for any other line."""
    flat = _as_python(text)
    try:
        body = ast.parse(flat).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if len(body) != 1:
        return None
    statement = body[0]
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, operator = statement.targets[0], ""
    elif isinstance(statement, ast.AugAssign):
        target, operator = statement.target, _OPERATORS[type(statement.op)]
    else:
        return None
    data = flat.encode()
    base = index = ""
    if isinstance(target, ast.Subscript):
        base = cut(text, data, target.value)
        index = cut(text, data, target)[len(base) :].strip()[1:-1]
    elif not isinstance(target, (ast.Name, ast.Attribute)):
        return None
    return Assignment(cut(text, data, target), base, index, operator, cut(text, data, statement.value))


_GRADIENT = re.compile(r"grad\(")


def _as_python(text: str) -> str:
    """The text as Python of the same length: names of the tape and a leading `grad(...)` become plain names."""
    flat = masked(text)
    if not _GRADIENT.match(text):
        return flat
    depth = 0
    for at, sign in enumerate(flat):
        depth += (sign == "(") - (sign == ")")
        if sign == ")" and depth == 0:
            end = at + 1
            return re.sub(r"\W", "_", flat[:end]) + flat[end:] if re.match(r"[^=(]*=(?!=)", flat[end:]) else flat
    return flat
