"""Conditions: how one is written after a place, and of which values it speaks."""

from __future__ import annotations

import re

from nnrepl.record.names import ProgramNames
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import Parsed, parse


def split_condition(text: str) -> tuple[str, str]:
    """`matmul, z1 > 3` and `matmul if z1 > 3` in two; either may be missing."""
    found = re.search(r"(?:^|\s)if\s+", text)
    comma = _comma(text)
    if comma is not None and (found is None or comma < found.start()):
        spelled, condition = text[:comma].strip(), text[comma + 1 :].strip()
        if not spelled:
            raise UserError("a place is missing: break matmul, z1.max() > 10")
        if not condition:
            raise UserError(f"a condition is missing after the comma: break {spelled}, z1.max() > 10")
        return spelled, condition
    return (text, "") if found is None else (text[: found.start()].strip(), text[found.end() :].strip())


def _comma(text: str) -> int | None:
    """Where the first comma outside of brackets is."""
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth <= 0:
            return at
    return None


def condition(text: str) -> Parsed:
    """Read a condition. Raises UserError if it does not parse."""
    parsed = parse(text)
    try:
        parsed.only()
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"the condition {text} does not parse: {getattr(error, 'msg', error)}") from None
    return parsed


def named_in(parsed: Parsed, names: ProgramNames) -> tuple[list[str], list[str]]:
    """Return the names of the tape in an expression, and those of whose gradients it speaks."""
    known = names.versions
    plain: list[str] = []
    for path in parsed.plain_names:
        words = path.split(".")
        candidates = [".".join(words[:count]) for count in range(len(words), 0, -1)]
        plain += [name for name in candidates if known(name)][:1] or (["loss"] if path == "loss" else [])
    return plain, parsed.gradients
