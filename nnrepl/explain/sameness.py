"""Sameness: since which op all rows of a tensor are the same, though what went in differed from row to row."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.look import Look
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Said, say


def same_since(look: Look, value: Value) -> list[Said]:
    """Where the rows of a tensor became the same, in a sentence; [] where they are not, or where they came in so."""
    if not _same_rows(look, value):
        return []
    rows = value.shape[0]
    while (op := value.op) is not None:
        taken = [one for one in dict.fromkeys(op.inputs) if _has_rows(one, rows)]
        if not taken:
            return []
        if not all(_same_rows(look, one) for one in taken):
            return say(_became_same(look, op, value, taken))
        value = taken[0]
    return []


def _became_same(look: Look, op: Op, value: Value, taken: list[Value]) -> Claim[str]:
    """Claim that the rows of an op's result are the same, and those of something that goes in are not."""
    where = words.spot(op)
    at = f"{op.label}, {where}" if where else op.label
    return Claim(
        "0: same rows",
        lambda: _same_rows(look, value) and not all(_same_rows(look, one) for one in taken),
        lambda: (
            f"All {value.shape[0]} rows are the same since {words.name(value)} = {words.call(op)} ({at}): what goes in "
            "differs."
        ),
    )


def _has_rows(value: Value, rows: int) -> bool:
    return len(value.shape) > 1 and value.shape[0] == rows and value.size > 0 and not value.refusal


def _same_rows(look: Look, value: Value) -> bool:
    """Whether a tensor has several rows, and each is the first again; a NaN is no number and the same as none."""
    if not _has_rows(value, value.shape[0] if value.shape else 0) or value.shape[0] < 2 or not is_inexact(value):
        return False
    array = look.array(value)
    return bool(look.numbers([mx.all(array == array[:1])])[0])
