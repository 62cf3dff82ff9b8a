"""Answers: what a student typed, read kindly, and whether it is what was computed.

A number may be a fraction (`-7/2`), have a comma (`-3,5`), a real minus sign, or not be worked out yet (`0.5·3 - 1`).
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.ops.numbers import number

NUMBER, NUMBERS, SHAPE, NAMES, YES_NO, CHOICE = "number", "numbers", "shape", "names", "yes or no", "choice"

EXPECTED = {
    NUMBER: "a number, such as -2.5, 3/4 or 0.5*3 - 1",
    NUMBERS: "numbers, such as 1, -2.5, 0",
    SHAPE: "a shape, such as (2, 3)",
    NAMES: "names with commas between them, or none",
    YES_NO: "yes or no",
    CHOICE: "the number of a line",
}
CLOSE = 0.02
"""The share of a number by which an answer may be off: mental arithmetic is rounded."""

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}  # fmt: skip
_SIGNS = str.maketrans({"−": "-", "–": "-", "·": "*", "×": "*", "÷": "/", ":": "/", "∞": " inf ", "^": "~"})


class NoAnswer(Exception):
    """What was typed is no such answer."""


@dataclass(frozen=True, slots=True)
class Typed:
    """An answer as it was typed.

    Attributes:
        value: A float, a tuple of floats, a set of names, a bool, the number of an option.
        text: As it stood there.
    """

    value: Any
    text: str


def kind_of(answer: Any) -> str:
    """Return what kind of answer a computed one asks for. Raises Unreadable for what nobody could type."""
    if isinstance(answer, bool):
        return YES_NO
    if isinstance(answer, (int, float)):
        return NUMBER
    if isinstance(answer, tuple) and all(type(part) is int for part in answer):
        return SHAPE
    if isinstance(answer, (list, tuple)) and answer and all(isinstance(part, (int, float)) for part in answer):
        return NUMBERS
    if isinstance(answer, (list, tuple, set, frozenset)) and all(isinstance(part, str) for part in answer):
        return NAMES
    raise NoAnswer(f"{answer!r:.60} is no answer that one can type")


def read(text: str, kind: str, known: Sequence[str] = ()) -> Typed:
    """Read an answer of a kind.

    Args:
        known: The names that may be among the answers, or the options.

    Raises:
        Unreadable: If it is none; the message is for the student, or empty where it may well be a command.
    """
    stripped = text.strip().rstrip(".!").removeprefix("=").removeprefix("≈").strip()
    if kind == YES_NO:
        return Typed(_yes(stripped), text)
    if kind == CHOICE:
        return Typed(_option(stripped, known), text)
    if kind == NAMES:
        return Typed(_names(stripped, known), text)
    if kind in (SHAPE, NUMBERS):
        return Typed(_several(stripped, kind), text)
    return Typed(_number(stripped), text)


def _yes(text: str) -> bool:
    word = text.lower()
    if word in ("yes", "y", "true", "no", "n", "false"):
        return word in ("yes", "y", "true")
    raise NoAnswer("")


def _option(text: str, options: Sequence[str]) -> int:
    bare = text.strip("()").rstrip(".)").lower()
    if bare.isdigit():
        if not 1 <= int(bare) <= len(options):
            raise NoAnswer(f"there are 1 to {len(options)} to choose from")
        return int(bare)
    if len(bare) == 1 and "a" <= bare < chr(ord("a") + len(options)):
        return ord(bare) - ord("a") + 1
    matching = [at for at, option in enumerate(options, 1) if bare and _bare(option) == _bare(bare)]
    if len(matching) == 1:
        return matching[0]
    raise NoAnswer("")


def _bare(text: str) -> str:
    return re.sub(r"[`*\s]+", " ", text).strip().lower()


def _names(text: str, known: Sequence[str]) -> frozenset[str]:
    words = [word for word in re.split(r"[,;\s]+|\band\b", text) if word]
    if [word.lower() for word in words] in (["none"], ["nothing"], ["no"]):
        return frozenset()
    if [word.lower() for word in words] in (["all"], ["everything"]):
        return frozenset(known)
    strange = [word for word in words if word not in known]
    if not words or len(strange) == len(words):
        raise NoAnswer("")
    if strange:
        raise NoAnswer(f"{strange[0]} is none of {', '.join(known)}")
    return frozenset(words)


def _several(text: str, kind: str) -> tuple[float, ...]:
    inside = text.strip("()[] ")
    parts = [part for part in re.split(r"\s*[,;x×]\s*|\s+", inside) if part]
    if not parts:
        if kind == SHAPE and text.replace(" ", "") in ("()", "[]"):
            return ()
        raise NoAnswer("")
    return tuple(_number(part) for part in parts)


def _number(text: str) -> float:
    percent = text.endswith("%")
    plain = text.rstrip("% ").translate(_SIGNS).replace("~", "**")
    if re.fullmatch(r"\s*[-+]?\d+,\d+\s*", plain):
        plain = plain.replace(",", ".")
    words = plain.strip().lower()
    if words in ("nan", "inf", "+inf", "-inf", "- inf", "infinity"):
        return float(words.replace(" ", ""))
    try:
        worked = _worked(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NoAnswer("") from None
    except (ZeroDivisionError, OverflowError):
        raise NoAnswer("that has no result: a division by 0, or a number beyond all bounds") from None
    return worked / 100 if percent else worked


def _worked(node: ast.expr) -> float:
    """Return the result of arithmetic on numbers alone. Raises ValueError for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _worked(node.operand)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        worked = _OPERATORS[type(node.op)](_worked(node.left), _worked(node.right))
        if isinstance(worked, complex):
            raise ValueError(worked)
        return float(worked)
    raise ValueError(node)


# -- comparing -------------------------------------------------------------------------------------------------------


def same(typed: Typed, answer: Any, kind: str) -> bool:
    """Whether what was typed is the answer, rounded as it was typed."""
    if kind == NUMBER:
        return near(typed.value, answer, _step(typed.text))
    if kind in (NUMBERS, SHAPE):
        given, wanted = tuple(typed.value), tuple(answer)
        if len(given) != len(wanted):
            return False
        return given == wanted if kind == SHAPE else all(near(a, b) for a, b in zip(given, wanted))
    if kind == NAMES:
        return bool(typed.value == frozenset(answer))
    return bool(typed.value == answer)


def near(given: float, wanted: float, step: float = 0.0) -> bool:
    """Whether two numbers are the same to a reader: within 2 %, or rounded to the last digit that was typed. Whole
    numbers up to 20 are exact; 0 and what is not finite as well."""
    if math.isnan(wanted) or math.isnan(given):
        return math.isnan(wanted) and math.isnan(given)
    if math.isinf(wanted) or math.isinf(given) or type(wanted) is int:
        return given == wanted
    rounded = abs(given - wanted) <= step * 0.5000001 and abs(wanted) > 3 * step
    return given == wanted or rounded or abs(given - wanted) <= CLOSE * abs(wanted)


def _step(text: str) -> float:
    """Return what the last digit of a number that stands alone is worth: 0.1 for `-2.4`; 0 for anything else."""
    found = re.fullmatch(r"\s*[-−+≈=\s]*\d*(?:[.,](\d*))?\s*", text)
    return 10.0 ** -len(found[1] or "") if found is not None else 0.0


def shown(answer: Any, kind: str, options: Sequence[str] = ()) -> str:
    """Return an answer as it is told, and as it can be typed."""
    if kind == NUMBER:
        return number(answer)
    if kind == CHOICE:
        return f"{answer}. {options[answer - 1]}"
    if kind == YES_NO:
        return "yes" if answer else "no"
    if kind == NAMES:
        return ", ".join(sorted(answer)) or "none"
    if kind == SHAPE:
        return str(tuple(answer))
    return ", ".join(number(part) for part in answer)
