"""Slips: the wrong results that people get from an expression: a sign, a factor, a term forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nnrepl.learn.answers import near
from nnrepl.learn.asking import ask
from nnrepl.learn.mistakes import Mistake
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import parse
from nnrepl.session.session import TapeSession


def slips(session: TapeSession, text: str, right: float) -> list[Mistake]:
    """Return what an expression gives with one slip in it; none is the right answer, and no two are the same number."""
    kept: list[Mistake] = []
    for other, said in _others(text):
        try:
            value = ask(session, other).result
        except UserError:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or near(float(value), right):
            continue
        if not any(near(float(value), float(it.value)) for it in kept):
            kept.append(Mistake(float(value), said))
    return kept


def _others(text: str) -> Iterator[tuple[str, str]]:
    """Yield the expression with one slip, and what to say to it."""
    parsed = parse(text)
    for node in ast.walk(parsed.only()):
        if not isinstance(node, ast.BinOp):
            continue
        whole, left, right = (parsed.cut(part) for part in (node, node.left, node.right))
        if text.count(whole) != 1:
            continue
        for slip, said in _slips(node.op, left, right):
            yield text.replace(whole, f"({slip})"), said


def _slips(sign: ast.operator, left: str, right: str) -> Iterator[tuple[str, str]]:
    a, b = f"({left})", f"({right})"
    if isinstance(sign, ast.Sub):
        yield f"{a} + {b}", f"`{right}` is subtracted, not added."
        yield a, f"You forgot to subtract `{right}`."
        yield f"{b} - {a}", f"The other way round: `{left} - {right}`."
    elif isinstance(sign, ast.Add):
        yield f"{a} - {b}", f"`{right}` is added, not subtracted."
        yield a, f"You forgot to add `{right}`."
        yield b, f"You forgot to add `{left}`."
    elif isinstance(sign, ast.Mult):
        yield a, f"You forgot the factor `{right}`."
        yield b, f"You forgot the factor `{left}`."
    elif isinstance(sign, ast.Div):
        yield a, f"You forgot to divide by `{right}`."
        yield f"{b} / {a}", f"The other way round: `{left} / {right}`."
        yield f"{a} * {b}", f"It is divided by `{right}`, not multiplied."
