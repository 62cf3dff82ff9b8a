"""Reasons: why something is not so, from the numbers: the two sides of the comparison that does not hold.

A choice of a lesson is right under a condition, and an answer of yes or no is one. Where it does not hold, one of its
comparisons does not, and the numbers of that say why. So a reason works on any program, and nobody writes it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain.elements import unravel
from nnrepl.learn.asking import evaluate
from nnrepl.learn.mistakes import FEW, Mistake
from nnrepl.ops import ENTRIES
from nnrepl.ops.numbers import number
from nnrepl.session.errors import NotYet, UserError
from nnrepl.session.expressions import aside
from nnrepl.session.parsed import Parsed, parse
from nnrepl.session.session import TapeSession

SHORT = 44
"""An expression up to this long is quoted."""
TINY = 1e-2
"""A difference that is to be smaller than this means that both sides are the same."""

_KINDS = {"isnan": "NaN", "isinf": "infinite", "isfinite": "an ordinary number"}
_WRAPPERS = ("all", "any", "item", "bool", "float", "int")
_SIGNS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("would be", ""), ast.NotEq: ("would not be", ""), ast.Lt: ("", "less than"),
    ast.LtE: ("", "at most"), ast.Gt: ("", "more than"), ast.GtE: ("", "at least"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sides:
    """A comparison that was worked out.

    Attributes:
        left, right: Both sides, as they are written.
        sign: What is asked of them.
        a, b: Their numbers, at the place that tells.
        at: That place, `[0, 1]`; "" where there is one number only.
        foreseen: Whether the left side is not known yet where the lesson stands: it is what is asked.
    """

    left: str
    right: str
    sign: type[ast.cmpop]
    a: float
    b: float
    at: str
    foreseen: bool


def why_not(session: TapeSession, condition: str) -> str:
    """Why a condition does not hold. It is a sentence even where the numbers cannot tell."""
    parsed = parse(condition)
    found = _first(session, parsed, False)
    if found is None:
        return _otherwise(parsed)
    would, than = _SIGNS[found.sign]
    left = _quoted(found.left, found.at) or "it"
    if would:
        rule, after = _rule(found.right), "it is" if found.sign is ast.NotEq else "it is not"
        return f"Then {left} {would} {_value(found)}{f' ({rule})' if rule else ''}; {after}."
    if found.foreseen:
        return f"Then {left} would be {than} {_value(found)}; it is not."
    return f"For that, {left} would have to be {than} {_value(found)}; it is {number(found.a)}."


def _otherwise(parsed: Parsed) -> str:
    node = None if parsed.expression is None else _inner(parsed.expression)
    kind = _KINDS.get(_called(node)) if isinstance(node, ast.Call) else None
    if kind and isinstance(node, ast.Call) and node.args:
        return f"Then {_quoted(parsed.cut(node.args[0]), '') or 'it'} would be {kind}; it is not."
    asked = parsed.text if len(parsed.text) <= 2 * SHORT else ""
    return f"For that, `{asked}` would have to hold; it does not." if asked else "The numbers say otherwise."


def why_no_member(session: TapeSession, text: str, name: str) -> str:
    """Why a name does not belong to `{n for n, g in {"w": grad(w)}.items() if mx.any(g != 0)}`; "" for another
    expression."""
    parsed = parse(text)
    node = parsed.expression
    if not isinstance(node, (ast.SetComp, ast.ListComp)) or len(node.generators) != 1:
        return ""
    loop = node.generators[0]
    named, members = loop.target, loop.iter
    members = (
        members.func.value if isinstance(members, ast.Call) and isinstance(members.func, ast.Attribute) else members
    )
    if not isinstance(members, ast.Dict) or not isinstance(named, ast.Tuple) or len(loop.ifs) != 1:
        return ""
    for key, member in zip(members.keys, members.values):
        if isinstance(key, ast.Constant) and key.value == name and isinstance(named.elts[-1], ast.Name):
            condition = parsed.cut(loop.ifs[0])
            return why_not(session, re.sub(rf"\b{named.elts[-1].id}\b", parsed.cut(member), condition))
    return ""


def evidence(session: TapeSession, condition: str, holds: bool) -> str:
    """Return the numbers by which a condition holds, or does not; "" where they cannot tell."""
    found = _first(session, parse(condition), holds)
    if found is None:
        return ""
    quoted = _quoted(found.left, found.at)
    said = f"{quoted} is {number(found.a)}" if quoted else f"It comes to {number(found.a)}"
    if found.sign in (ast.Eq, ast.NotEq):
        same = holds == (found.sign is ast.Eq)
        return f"{said}, {'the same as' if same else 'not'} {_told(found)}."
    return f"{said}, {'' if holds else 'not '}{_SIGNS[found.sign][1]} {_told(found)}."


def _told(found: Sides) -> str:
    """Return the right side with its number."""
    quoted = "" if _is_number(found.right) else _quoted(found.right, found.at)
    return f"{quoted}, {number(found.b)}" if quoted else number(found.b)


def counted(session: TapeSession, text: str, right: int) -> list[Mistake]:
    """Return what one answers who counts the others, takes the wrong place, or is off by one."""
    found = [*_of_a_count(session, text, right), Mistake(right + 1, "That is one too many.")]
    return [*found, Mistake(right - 1, "That is one too few.")]


def _of_a_count(session: TapeSession, text: str, right: int) -> Iterator[Mistake]:
    parsed = parse(text)
    node = parsed.expression
    while isinstance(node, ast.Call) and _called(node) in ("int", "item"):
        node = node.args[0] if node.args else _holder(node)
    if not isinstance(node, ast.Call) or _called(node) not in ("sum", "argmax", "argmin"):
        return
    inner = node.args[0] if node.args else _holder(node)
    if inner is None:
        return
    asked = parsed.cut(inner)
    try:
        array = _array(session, asked)
    except UserError:
        return
    if array is None:
        return
    if _called(node) == "sum" and array.dtype == mx.bool_:
        yield Mistake(array.size - right, f"That is how many there are where `{asked}` does not hold.")
        yield Mistake(array.size, f"That is all of them; where does `{asked}` hold?")
    elif _called(node) != "sum" and array.ndim == 1:
        yield from _of_a_place(array, asked, "larger" if _called(node) == "argmax" else "smaller", right)


def _of_a_place(array: mx.array, asked: str, sign: str, right: int) -> Iterator[Mistake]:
    with aside():
        numbers: Any = array.tolist()
    if right + 1 >= len(numbers):
        yield Mistake(right + 1, "One counts from 0.")
    for place, it in enumerate(numbers[:FEW]):
        if place != right:
            counts = "; and one counts from 0" if place == right + 1 else ""
            yield Mistake(place, f"`{asked}[{place}]` is {number(it)}; there is a {sign} one{counts}.")


def _holder(node: ast.Call) -> ast.expr | None:
    """`x` of `x.item()`."""
    return node.func.value if isinstance(node.func, ast.Attribute) else None


# -- the comparison that tells ---------------------------------------------------------------------------------------


def _first(session: TapeSession, parsed: Parsed, holds: bool) -> Sides | None:
    """Return the first comparison in a condition that holds, or does not."""
    node = parsed.expression
    return None if node is None else _sought(session, parsed, node, holds)


def _sought(session: TapeSession, parsed: Parsed, node: ast.expr, holds: bool) -> Sides | None:
    node = _inner(node)
    if isinstance(node, ast.BoolOp):
        found = (_sought(session, parsed, part, holds) for part in node.values)
        return next((sides for sides in found if sides is not None), None)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return None
    for left, sign, right in _comparisons(parsed, node):
        sides = _worked(session, left, sign, right, holds)
        if sides is not None:
            return sides
    return None


def _inner(node: ast.expr) -> ast.expr:
    """Return `a == b` of `bool(mx.all(a == b).item())`."""
    while isinstance(node, ast.Call):
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if name not in _WRAPPERS:
            break
        if node.args:
            node = node.args[0]
        elif isinstance(called, ast.Attribute):
            node = called.value
        else:
            break
    return node


def _comparisons(parsed: Parsed, node: ast.expr) -> list[tuple[str, type[ast.cmpop], str]]:
    """Return what is compared with what: `a < b` of `0 < a < b`, and a and b of `abs(a - b).max() < 0.001`."""
    if isinstance(node, ast.Call) and _called(node) == "allclose" and len(node.args) >= 2:
        return [(parsed.cut(node.args[0]), ast.Eq, parsed.cut(node.args[1]))]
    if not isinstance(node, ast.Compare) or not all(type(sign) in _SIGNS for sign in node.ops):
        return []
    sides = [node.left, *node.comparators]
    found: list[tuple[str, type[ast.cmpop], str]] = []
    for left, sign, right in zip(sides, node.ops, sides[1:]):
        both = _difference(parsed, left) if isinstance(sign, ast.Lt) and _is_tiny(right) else None
        if both is not None:
            found.append((both[0], ast.Eq, both[1]))
        else:
            found.append((parsed.cut(left), type(sign), parsed.cut(right)))
    return found


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _difference(parsed: Parsed, node: ast.expr) -> tuple[str, str] | None:
    """Both sides of `mx.abs(a - b)`, of `abs(a - b).max()`; a and -b of `abs(a + b)`."""
    while isinstance(node, ast.Call) and _called(node) in ("max", "item") and isinstance(node.func, ast.Attribute):
        node = node.args[0] if node.args else node.func.value
    inner = node.args[0] if isinstance(node, ast.Call) and _called(node) == "abs" and len(node.args) == 1 else None
    if not isinstance(inner, ast.BinOp) or not isinstance(inner.op, (ast.Sub, ast.Add)):
        return None
    left, right = parsed.cut(inner.left), parsed.cut(inner.right)
    return left, right if isinstance(inner.op, ast.Sub) else f"-({right})"


def _is_tiny(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < node.value < TINY


def _worked(session: TapeSession, left: str, sign: type[ast.cmpop], right: str, holds: bool) -> Sides | None:
    """Return the numbers of a comparison, at the first place where it holds, or does not."""
    try:
        a, b = _array(session, left), _array(session, right)
        if a is None or b is None:
            return None
        with aside():
            a, b = mx.broadcast_arrays(a, b)
            places: Any = (_compared(a, sign, b) == holds).flatten().tolist()
            at = next((place for place, tells in enumerate(places) if tells), None)
            if at is None:
                return None
            numbers: list[Any] = [a.flatten()[at].item(), b.flatten()[at].item()]
    except (UserError, ValueError):
        return None
    where = str(list(unravel(at, tuple(a.shape)))) if a.size > 1 else ""
    return Sides(left, right, sign, float(numbers[0]), float(numbers[1]), where, _is_foreseen(session, left))


def _compared(a: mx.array, sign: type[ast.cmpop], b: mx.array) -> mx.array:
    if sign in (ast.Eq, ast.NotEq):
        same = mx.isclose(a.astype(mx.float32), b.astype(mx.float32), rtol=1e-3, atol=1e-6)
        return same if sign is ast.Eq else mx.logical_not(same)
    run: dict[type[ast.cmpop], Any] = {
        ast.Lt: mx.less,
        ast.LtE: mx.less_equal,
        ast.Gt: mx.greater,
        ast.GtE: mx.greater_equal,
    }
    compared: mx.array = run[sign](a, b)
    return compared


def _array(session: TapeSession, text: str) -> mx.array | None:
    """Return a side of a comparison as numbers; None for what has none."""
    result = evaluate(session, text)
    if isinstance(result, mx.array):
        return result if result.size else None
    is_number = isinstance(result, (bool, int, float))
    is_list = isinstance(result, (list, tuple)) and result and all(isinstance(it, (int, float)) for it in result)
    with aside():
        return mx.array(result) if is_number or is_list else None


def _is_foreseen(session: TapeSession, text: str) -> bool:
    """Whether something that a text names is not made yet, or not computed: the lesson asks for it."""
    here = session.where()
    for mention in parse(text).mentions:
        try:
            result = session.expressions.evaluate(parse(mention.path), here)
        except NotYet:
            return True
        except UserError:
            continue
        except Exception:  # a name of Python's own, which is no part of the tape
            continue
        value = session.expressions.value_of(result) if isinstance(result, mx.array) else None
        if value is not None and not value.evaluated:
            return True
    return False


# -- words -----------------------------------------------------------------------------------------------------------


def _quoted(text: str, at: str) -> str:
    """`z1[0, 1]`, marked as code; "" for what is too long to be read."""
    single = isinstance(parse(text).expression, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
    plain = text if single or not at else f"({text})"
    return f"`{plain}{at}`" if len(text) <= SHORT else ""


def _is_number(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _value(found: Sides) -> str:
    """Return the right side as a number, and how it is written where that says more."""
    told = number(found.b)
    if _is_number(found.right) or len(found.right) > SHORT or not parse(found.right).mentions:
        return told
    return f"{told}, which is `{found.right}{found.at if found.right.isidentifier() else ''}`"


def _rule(text: str) -> str:
    """Which rule would give a side of a comparison: `abs drops the sign`."""
    node = parse(text).expression
    called = _called(node) if isinstance(node, ast.Call) else ""
    entry = ENTRIES.get(called)
    if entry is None:
        return ""
    first = entry.words.partition(". ")[0].partition(": ")[0]
    return f"{called}: {first[0].lower()}{first[1:].rstrip('.')}" if "{" not in first else called


__all__ = ["evidence", "why_not"]
