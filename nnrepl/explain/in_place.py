"""In place: the statement of an op with the numbers in the place of the names, as far as it has been computed."""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.explain.known import arguments
from nnrepl.explain.words import MINUS, number
from nnrepl.record.segments import called, dotted, span_of, way_to
from nnrepl.session.errors import UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import Activation, Op, Site, Value, own_site

MOST = 8
"""Of a tensor with more elements its shape stands there."""
_ASKED = frozenset({"shape", "ndim", "size", "dtype", "itemsize", "nbytes"})
"""What is asked of a tensor, and not of its numbers."""
_SIGNS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.USub: "-",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
_OPERATORS = frozenset("+-*/@%<>&|^~")
_APART = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
"""What has names of its own."""
_SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr, ast.Assert)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a line.

    Attributes:
        text: As the program has it; in the place of a name its numbers, or its shape.
        value: The tensor that stands there; None for what is written, and for numbers that are no tensors.
        is_put: Whether it stands in the place of something else.
        is_fresh: Whether the op that was gone over last has made it.
        is_next: Whether it belongs to what the next op computes.
        is_number: Whether the numbers of a tensor are to be seen, and not only its shape.
    """

    text: str
    value: Value | None = None
    is_put: bool = False
    is_fresh: bool = False
    is_next: bool = False
    is_number: bool = False


def in_place(session: Reading, op: Op, skip: Sequence[str], last: Op | None = None) -> tuple[Piece, ...]:
    """Return the statement in which an op (of a VJP, its forward op) is made, with the values of that moment in it.

    Args:
        last: The op that was gone over last.

    Returns:
        The pieces of one line; empty where there is nothing to put in, or the source cannot be read.
    """
    forward = op.of or op
    site = own_site(forward, skip)
    if site is None:
        return ()
    way = way_to(site.scope.code, span_of(site.scope.code, site.lasti))
    root = _root(way)
    if root is None:
        return ()
    putting = _Putting(session, forward, site, way)
    try:
        written = putting.visit(copy.deepcopy(root))
        pieces = _apart(written, putting.focus, putting.put)
    except (SyntaxError, ValueError, RecursionError):  # what cannot be written anew is not shown
        return ()
    made = () if last is None else last.outputs
    pieces = [replace(piece, is_fresh=piece.value is not None and piece.value in made) for piece in pieces]
    return tuple(pieces) if any(piece.is_put for piece in pieces) else ()


def _root(way: list[ast.AST]) -> ast.AST | None:
    """Return what is shown: the statement, or of a block the expression in it; of what has names of its own, its
    inside."""
    start = 0
    for at, node in enumerate(way):
        if isinstance(node, _APART) and at + 1 < len(way):
            start = at + 1
    if start == 0 and way and not isinstance(way[0], _SIMPLE):
        start = 1
    return way[start] if start < len(way) else None


class _Putting(ast.NodeTransformer):
    """Puts values in the place of names, and of what has been computed.

    Attributes:
        focus: The expression that the op computes, in the tree that this has gone through.
        put: What stands for each name that was put in: the value, or a number.
    """

    def __init__(self, session: Reading, op: Op, site: Site, way: list[ast.AST]) -> None:
        self.focus: ast.AST | None = None
        self.put: dict[str, Any] = {}
        self._session = session
        self._op = op
        self._scope: Activation = site.scope
        self._span = _span(way[-1])
        self._made = _made(session, op, site, _span(way[0]))
        self._operands: dict[ast.AST, Value] = {}

    def visit(self, node: ast.AST) -> Any:
        """Put a value in the place of an expression, or go into it."""
        is_target = isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))
        if is_target or isinstance(node, (ast.JoinedStr, ast.Constant)):
            return node
        if not isinstance(node, ast.expr):
            return self.generic_visit(node)
        if not _holds(_span(node), self._span):
            found = self._meant(node)
            if found is not None:
                return self._placeholder(node, found)
            if isinstance(node, _APART) or (isinstance(node, ast.Attribute) and node.attr in _ASKED):
                return node
        if _span(node) == self._span:
            self.focus = node
            if self._op.scope is self._scope:
                self._operands = dict(_operands(node, self._op))
        if isinstance(node, ast.Call):  # what is called is no operand; whose method it is can be one
            if isinstance(node.func, ast.Attribute):
                node.func.value = self.visit(node.func.value)
            elif not isinstance(node.func, ast.Name):
                node.func = self.visit(node.func)
            node.args = [self.visit(arg) for arg in node.args]
            node.keywords = [self.visit(keyword) for keyword in node.keywords]
            return node
        return self.generic_visit(node)

    def _meant(self, node: ast.expr) -> Any:
        """Return the tensor, or the number, that an expression is at that moment; None if that is not known."""
        made = self._made.get(_span(node))
        if made is not None and _is_made_by(node, made):
            return made.outputs[0]
        path = dotted(node) if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) else None
        thing = None if path is None else self._held(path)
        return thing if isinstance(thing, Value) or type(thing) in (int, float, bool) else self._operands.get(node)

    def _held(self, path: str) -> Any:
        """Return what a variable of the frames, or a path from one, holds at that moment; None if that is not known."""
        lookup, position = self._session.lookup, self._op.position
        try:
            held = lookup.frames.in_frames(path.partition(".")[0], position, self._scope)
            if held is not None and "." in path:
                held = lookup.held(path, position, self._scope, labels=False)
        except UserError:  # not made yet, or several of that name: it stays as it is written
            return None
        return None if held is None or held.address else held.thing

    def _placeholder(self, node: ast.expr, thing: Any) -> ast.expr:
        name = f"__nnrepl_{len(self.put)}__"
        self.put[name] = thing
        return ast.copy_location(ast.Name(name, ast.Load()), node)


Span = tuple[int, int, int, int]


def _span(node: Any) -> Span:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _holds(outer: Span, inner: Span) -> bool:
    return (outer[0], outer[2]) <= (inner[0], inner[2]) and (inner[1], inner[3]) <= (outer[1], outer[3])


def _made(session: Reading, op: Op, site: Site, statement: Span) -> dict[Span, Op]:
    """Return the ops that this run of the statement has made before, by their expressions. In one run of a statement
    Python goes on in its instructions; where it goes back, another round of a loop has begun."""
    found: dict[Span, Op] = {}
    ops, code, lasti = session.tape.ops, site.scope.code, site.lasti
    for at in range(op.position - 1, -1, -1):
        before = ops[at]
        step, where = before.scope, before.lasti
        while step is not None and step is not site.scope:
            where, step = step.lasti, step.parent
        if step is None or before.of is not None:
            break
        span = span_of(code, where)
        if where > lasti or (where == lasti and before.scope is site.scope) or not _holds(statement, span):
            break
        if before.scope is site.scope:
            found[span] = before
        lasti = where
    return found


def _is_made_by(node: ast.expr, op: Op) -> bool:
    """Whether what an expression gives is the result of an op that was made there: a segment alone is no proof, for
    `sum(parts)` is made by an addition, and `list(map(mx.exp, xs))` by several."""
    if len(op.outputs) != 1 or op.error is not None:
        return False
    if isinstance(node, ast.Call):
        return called(node) in (op.name, op.operation.spelling.rpartition(".")[2])
    if isinstance(node, ast.Subscript):
        return op.name == "getitem"
    return bool(_sign(node)) and _sign(node) in (op.operation.infix, "@" if op.name == "matmul" else None)


def _sign(node: ast.AST) -> str:
    """Return the sign of an operator with two sides; "" for anything else."""
    if isinstance(node, ast.BinOp):
        return "@" if isinstance(node.op, ast.MatMult) else _SIGNS.get(type(node.op), "")
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _SIGNS.get(type(node.ops[0]), "")
    return ""


def _operands(node: ast.AST, op: Op) -> list[tuple[ast.AST, Value]]:
    """Return the operands of the expression that an op computes, with what it takes for them."""
    if not isinstance(node, ast.expr) or not _is_made_by(node, op):
        return []
    given, _ = arguments(op)
    sides: list[ast.expr] = []
    if isinstance(node, ast.BinOp):
        sides = [node.left, node.right]
    elif isinstance(node, ast.Call) and not any(isinstance(arg, ast.Starred) for arg in node.args):
        method = isinstance(node.func, ast.Attribute) and op.operation.spelling.startswith("array.")
        sides = [*([node.func.value] if method and isinstance(node.func, ast.Attribute) else []), *node.args]
    return [(side, arg) for side, arg in zip(sides, given) if isinstance(arg, Value)]


# -- what is shown of it -------------------------------------------------------------------------------------------


def _apart(written: ast.AST, focus: ast.AST | None, put: dict[str, Any]) -> list[Piece]:
    """Return what has been put together, as one line in pieces. Raises SyntaxError, ValueError."""
    text = ast.unparse(written)
    if "\n" in text:
        raise ValueError("more than one line")
    again: ast.AST = ast.parse(text).body[0]
    if not isinstance(written, ast.stmt) and isinstance(again, ast.Expr):
        again = again.value
    start = end = -1
    places: list[tuple[int, int, str]] = []
    for old, new in zip_longest(ast.walk(written), ast.walk(again)):
        if type(old) is not type(new):
            raise ValueError("written anew it is something else")
        if isinstance(new, ast.expr):
            first, last = (_characters(text, column) for column in (new.col_offset, new.end_col_offset or 0))
            if old is focus:
                start, end = first, last
            if isinstance(new, ast.Name) and new.id in put:
                places.append((first, last, new.id))
    pieces: list[Piece] = []
    at = 0
    for first, last, name in [*sorted(places), (len(text), len(text), "")]:
        for one in sorted({at, first, *(cut for cut in (start, end) if at < cut < first)}):
            if one > at:
                pieces.append(Piece(text[at:one], is_next=start <= at < end))
                at = one
        if name:
            thing = put[name]
            value = thing if isinstance(thing, Value) else None
            pieces.append(Piece("" if value is not None else number(thing), value, True, is_next=start <= first < end))
            at = last
    return pieces


def _characters(line: str, column: int) -> int:
    return len(line.encode()[:column].decode())


def with_numbers(session: Reading, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return the pieces with their tensors as text: of few elements their numbers, where they are there or small; else
    the shape."""
    few = [piece.value for piece in pieces if piece.value is not None and piece.value.size <= MOST]
    few = [value for value in few if not value.refusal and (value.evaluated or session.small([value]))]
    session.evaluate(few)
    shown: list[Piece] = []
    for one in pieces:
        known = one.value in few
        text = one.text if one.value is None else _text(one.value, known)
        is_operand = shown and shown[-1].text.rstrip()[-1:] in _OPERATORS
        text = f"({text})" if one.is_put and is_operand and text[:1] == MINUS else text
        shown.append(replace(one, text=text, is_number=known))
    return tuple(shown)


def _text(value: Value, known: bool) -> str:
    shape = str(tuple(value.shape))
    return _rows(value.array.tolist()) if known and value.size else shape


def _rows(part: Any) -> str:
    return f"[{' '.join(_rows(one) for one in part)}]" if isinstance(part, list) else number(part)


__all__ = ["Piece", "in_place", "with_numbers"]
