"""Asking the tape: what an expression of a lesson gives where the lesson stands, or where its names are made next.

Two words are known beside those of the prompt: `history(loss)`, an expression over the steps, and `step_number`.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain.words import inline
from nnrepl.ops.numbers import number
from nnrepl.session.curves import over_steps
from nnrepl.session.errors import NotYet, UserError
from nnrepl.session.expressions import aside
from nnrepl.session.parsed import parse
from nnrepl.session.session import TapeSession
from nnrepl.tape import Value

_NUMBER = re.compile(r"\{\{(.+?)\}\}", re.DOTALL)
_HISTORY = re.compile(r"\bhistory\(([^()]+)\)")
_STEP = re.compile(r"\bstep_number\b")
MANY = 64
"""From how many elements on a tensor is no number that one types."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an expression gave.

    Attributes:
        result: A number, a tuple, a list of names: plain Python.
        value: The tensor of the tape of which it is an element, or which it is; None for what was computed.
        index: The element.
    """

    result: Any
    value: Value | None = None
    index: tuple[int, ...] = ()


def ask(session: TapeSession, text: str) -> Asked:
    """Return what an expression gives.

    Raises:
        UserError: If it gives nothing.
    """
    element = _element(text)
    if element is not None:
        name, index = element
        whole = evaluate(session, name)
        value = session.expressions.value_of(whole) if isinstance(whole, mx.array) else None
        if value is not None and len(index) == len(value.shape):
            index = tuple(at % extent if extent else 0 for at, extent in zip(index, value.shape))
            return Asked(_plain(evaluate(session, text), session), value, index)
    result = evaluate(session, text)
    value = session.expressions.value_of(result) if isinstance(result, mx.array) else None
    index = (0,) * len(value.shape) if value is not None and value.size == 1 else ()
    return Asked(_plain(result, session), value, index)


def _element(text: str) -> tuple[str, tuple[int, ...]] | None:
    """`z1`, (0, 1) for `z1[0, 1]`; None for anything else."""
    parsed = parse(text)
    node = parsed.expression
    if not isinstance(node, ast.Subscript):
        return None
    try:
        index = ast.literal_eval(node.slice)
    except ValueError:
        return None
    numbers = index if isinstance(index, tuple) else (index,)
    return (parsed.cut(node.value), numbers) if all(type(number) is int for number in numbers) else None


def holds(session: TapeSession, condition: str, *, ahead: bool = True) -> bool:
    """Whether a condition is true; NotYet and the like are no. Raises UserError where it is no condition."""
    result = evaluate(session, condition) if ahead else _here(session, condition, session.cursor)
    if isinstance(result, mx.array):
        if result.size != 1:
            raise UserError(f"{condition} is no single truth value")
        with aside():
            return bool(result.item())
    return bool(result)


def filled(session: TapeSession, text: str) -> str:
    """Return a text with the numbers of the tape in place of `{{EXPR}}`. Raises UserError."""
    return _NUMBER.sub(lambda found: _told(session, found[1].strip()), text)


def _told(session: TapeSession, expression: str) -> str:
    result = evaluate(session, expression)
    if isinstance(result, mx.array) and result.size != 1:
        with aside():
            mx.eval(result)
            return inline(result)
    plain = _plain(result, session)
    return number(plain) if isinstance(plain, (bool, int, float)) else str(plain)


def evaluate(session: TapeSession, text: str) -> Any:
    """Return an expression here; where a name in it is not made yet, after the op that makes it."""
    position, end = session.cursor, len(session.tape)
    while True:
        try:
            return _here(session, text, position)
        except NotYet as error:
            position = max(position, -1 if error.maker is None else error.maker.position) + 1
            if position > end:
                raise


def _here(session: TapeSession, text: str, position: int) -> Any:
    written = _HISTORY.sub(lambda found: _over_steps(session, found[1]), text)
    written = _STEP.sub(str(_step_number(session)), written)
    where = session.where() if position == session.cursor else session.where_at(position)
    try:
        return session.expressions.evaluate(parse(written), where)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{text} does not parse: {error.msg}") from None
    except Exception as error:
        raise UserError(f"{text}: {type(error).__name__}: {error}".splitlines()[0][:300]) from None


def _step_number(session: TapeSession) -> int:
    """Return the step in which the lesson stands; the last one, after it."""
    ops = session.tape.ops
    return ops[min(session.cursor, len(ops) - 1)].step.number if ops else 0


def _over_steps(session: TapeSession, text: str) -> str:
    """Return an expression over the training steps, as a list that Python reads."""
    numbers = [repr(number) for _, number in over_steps(session, parse(text))]
    return "[" + ", ".join(f"float({it!r})" if it.strip("-") in ("nan", "inf") else it for it in numbers) + "]"


def _plain(result: Any, session: TapeSession) -> Any:
    """Return a result as plain Python."""
    if isinstance(result, mx.array):
        if result.size > MANY:
            raise UserError(f"a tensor of {result.size} elements is no answer; ask for one of them")
        with aside():
            listed: Any = result.flatten().tolist()
            return listed[0] if result.size == 1 else listed
    if isinstance(result, (list, tuple, set, frozenset)):
        return type(result)(_plain(part, session) for part in result)
    return result
