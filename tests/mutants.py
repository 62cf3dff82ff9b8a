"""The changes that `tests.mutate` can make to a file: where each stands, what it becomes, and how to see it reached."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parent.parent

_OTHER: dict[type[ast.AST], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
    ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.And: "or",
    ast.Or: "and",
}  # fmt: skip
_EITHER_WAY = {"max", "min", "mx.maximum", "mx.minimum", "forwards", "backwards"}
"""What gives the same for two arguments whichever comes first."""
_CLOSED = (ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.Subscript, ast.List, ast.Dict, ast.Set, ast.ListComp)
"""What needs no parentheses as an operand."""


@dataclass(frozen=True)
class Mutant:
    """One change: the text from `start` to `end` (offsets in the file) becomes `text`."""

    file: str
    line: int
    start: int
    end: int
    was: str
    text: str
    asked: tuple[int, int]
    """From where to where the expression stands that is evaluated if, and only if, the program comes by."""

    @property
    def title(self) -> str:
        """How `unnoticed.txt` calls it: by what stands there, for lines move."""
        return f"{self.file}: {' '.join(self.was.split())} -> {' '.join(self.text.split())}"


class _File:
    """A file's text, and its nodes' places in it."""

    def __init__(self, path: Path) -> None:
        self.name = str(path.relative_to(ROOT))
        text = path.read_text(encoding="utf-8")
        self.data = text.encode()
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))
        self.tree = ast.parse(text)

    def at(self, node: ast.AST, end: bool = False) -> int:
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)  # type: ignore[attr-defined]
        return self._starts[line - 1] + column

    def whole(self, node: ast.AST) -> str:
        return self.data[self.at(node) : self.at(node, True)].decode()

    def operand(self, node: ast.AST) -> str:
        return self.whole(node) if isinstance(node, _CLOSED) else f"({self.whole(node)})"

    def made(self, node: ast.AST, new: str, asked: ast.AST | None = None) -> Mutant:
        place = (self.at(asked or node), self.at(asked or node, True))
        return Mutant(self.name, node.lineno, self.at(node), self.at(node, True), self.whole(node), new, place)  # type: ignore[attr-defined]


def mutants(path: Path) -> Iterator[Mutant]:
    """Every change that can be made to a file; some are no Python (`is_python`)."""
    file = _File(path)
    for node in ast.walk(file.tree):
        if isinstance(node, (ast.If, ast.IfExp)):
            yield file.made(node.test, f"(not ({file.whole(node.test)}))")
        yield from _changes(file, node)


def _changes(file: _File, node: ast.AST) -> Iterator[Mutant]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OTHER:
        left, right = file.operand(node.left), file.operand(node.comparators[0])
        yield file.made(node, f"({left} {_OTHER[type(node.ops[0])]} {right})")
    elif isinstance(node, ast.BinOp) and type(node.op) in _OTHER and not _is_text(node):
        yield file.made(node, f"({file.operand(node.left)} {_OTHER[type(node.op)]} {file.operand(node.right)})")
    elif isinstance(node, ast.BoolOp):
        yield file.made(node, f"({f' {_OTHER[type(node.op)]} '.join(file.operand(one) for one in node.values)})")
        word = "and" if isinstance(node.op, ast.And) else "or"
        for left_out in node.values:
            kept = [file.operand(one) for one in node.values if one is not left_out]
            yield file.made(node, f"({f' {word} '.join(kept)})")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield file.made(node, f"({file.whole(node.operand)})")
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and type(node.value.value) is bool:
        yield file.made(node.value, str(not node.value.value))  # None would only be another way of saying False
    elif isinstance(node, ast.Return) and node.value is not None and file.whole(node) != "return None":
        yield file.made(node, "return None", node.value)
    elif isinstance(node, ast.Constant) and type(node.value) is int and node.value < 10:
        yield file.made(node, str(node.value + 1))
    elif isinstance(node, ast.AugAssign) or _is_kept_elsewhere(node) or _is_done(node):
        yield file.made(node, "pass", node.value)
    elif isinstance(node, ast.Call) and _takes_two(file, node):
        yield _swapped(file, node)


def _is_done(node: ast.AST) -> TypeGuard[ast.Expr]:
    """Whether something is called for what it does."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _is_kept_elsewhere(node: ast.AST) -> TypeGuard[ast.Assign]:
    """Whether something is assigned to what outlives the function: an attribute or an item."""
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript))


def _takes_two(file: _File, call: ast.Call) -> bool:
    """Whether a call begins with two arguments that cannot be exchanged, and not with the same twice."""
    two = [file.whole(one) for one in call.args[:2] if not isinstance(one, ast.Starred)]
    return len(set(two)) == 2 and file.whole(call.func) not in _EITHER_WAY


def _swapped(file: _File, node: ast.Call) -> Mutant:
    first, second = node.args[:2]
    between = file.data[file.at(first, True) : file.at(second)].decode()
    before = file.data[file.at(node) : file.at(first)].decode()
    after = file.data[file.at(second, True) : file.at(node, True)].decode()
    return file.made(node, before + file.whole(second) + between + file.whole(first) + after)


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(one, ast.JoinedStr) or type(getattr(one, "value", None)) is str for one in sides)


def is_python(mutant: Mutant) -> bool:
    """Whether a file with a change, and one with a look beside it, are Python: a pattern (`case 1:`) takes no call."""
    data = (ROOT / mutant.file).read_bytes()
    try:
        ast.parse(data[: mutant.start] + mutant.text.encode() + data[mutant.end :])
        ast.parse(with_looks(data, {0: mutant}))
    except SyntaxError:
        return False
    return True


def with_looks(data: bytes, made: dict[int, Mutant]) -> bytes:
    """A file that does what it did, and says by number which of the places of some changes it came by."""
    marks = [(0, 0, 0, b"")]
    for number, mutant in made.items():
        start, end = mutant.asked
        marks += [(start, 1, -end, b"(_came_by_(%d) or (" % number), (end, 0, -start, b"))")]
    marks.sort(key=lambda mark: mark[:3])
    text, after = b"", 0
    for place, _, _, mark in marks:
        text, after = text + data[after:place] + mark, place
    return text + data[after:]
