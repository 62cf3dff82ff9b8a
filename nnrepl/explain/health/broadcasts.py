"""Shapes: silent broadcasting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding, findings
from nnrepl.explain.health.signs import difference
from nnrepl.ops import Trait, has
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Possibility


def broadcasting(case: Checkup) -> Iterator[Finding]:
    """(N, 1) against (N,): every row meets every other one, which nobody asked for; a mean over an axis that is not
    the first against what it is the mean of: the axes do not meet."""
    for op in case.forward:
        values = [arg for arg in op.args if isinstance(arg, Value)]
        if not has(op.name, Trait.BROADCASTS) or len(values) != 2 or not op.outputs:
            continue
        column, row = sorted(values, key=lambda value: -len(value.shape))
        if _is_mistake(column, row):
            yield from findings(_stretched(op, column, row), "silent broadcasting", f"explain {op.label}", op)
            continue
        reduced = _reduced_across(column, row)
        if reduced is not None:
            yield from findings(_met(op, column, row, reduced), "silent broadcasting", f"explain {op.label}", op)


def crossed(case: Checkup) -> Iterator[Finding]:
    """Find where each prediction is held against each target, `guess[:, None] - target`, and a mean is taken of all: a
    table of distances is made on purpose where something is done with its rows."""
    for op in case.forward:
        apart = difference(case, op)
        if apart is None or not _is_meant_whole(op):
            continue
        made, *pair = apart
        column, row = sorted(pair, key=lambda value: -len(value.shape))
        if len(row.shape) == 1 and column.shape == (row.size, 1) and not _is_mistake(column, row):
            yield from findings(_crossed(*apart), "each with each", f"explain {made.label}", made, NOTE)


def _is_meant_whole(op: Op) -> bool:
    """Whether all that is done with a result is to take one mean, or sum, of all its numbers."""
    users = [user for user in op.outputs[0].consumers if user.phase == "forward"] if len(op.outputs) == 1 else []
    return len(users) == 1 and has(users[0].name, Trait.AVERAGES, Trait.TOTALS) and users[0].outputs[0].size == 1


def _crossed(made: Op, ours: Value, target: Value) -> Claim[str]:
    """Claim that what is learned and what it is held against gave a table of each with each."""
    most, table = max(ours.size, target.size), made.outputs[0]
    return Possibility("finding: each with each", lambda: table.size == ours.size * target.size > most, lambda: (
        f"{made.label} {words.call(made)} ({words.spot(made)}) takes each of {words.name(ours)} {tuple(ours.shape)} "
        f"with each of {words.name(target)} {tuple(target.shape)}, {table.size} differences instead of {most}, and one "
        "mean or sum is taken of them all: is that meant?"))  # fmt: skip


def _where(op: Op) -> str:
    return f"{op.label} {words.call(op)} ({words.place(op.source)})"


def _stretched(op: Op, column: Value, row: Value) -> Claim[str]:
    """Claim that a column and a row gave a table, and propose what may be meant."""
    result = op.outputs[0]
    wider = result.size > max(column.size, row.size) and result.shape not in (column.shape, row.shape)
    return Possibility("finding: silent broadcasting", lambda: wider, lambda: (
        f"{_where(op)}: {words.name(column)} {tuple(column.shape)} and {words.name(row)} {tuple(row.shape)} give "
        f"{tuple(result.shape)}, every row with every other one ({result.size} numbers instead of {row.size}); "
        f"{words.name(row)}[..., None] or .squeeze(-1) is probably meant"))  # fmt: skip


def _met(op: Op, whole: Value, part: Value, reduced: Reduced) -> Claim[str]:
    """Claim that what was reduced meets other axes than those that are left of what it was reduced from."""
    left = [axis for axis in range(len(whole.shape)) if axis not in reduced.axes]
    meets = list(range(len(whole.shape) - len(part.shape), len(whole.shape)))
    axes = ", ".join(str(axis) for axis in reduced.axes)
    return Possibility("finding: axes that happen to fit", lambda: left != meets, lambda: (
        f"{_where(op)}: {words.name(part)} {tuple(part.shape)} comes from {reduced.op.label} {words.call(reduced.op)} "
        f"over axis {axes} of {words.name(whole)} {tuple(whole.shape)}, and meets its last axes, which only happen to "
        "be as long; keepdims=True is probably meant"))  # fmt: skip


def _is_mistake(column: Value, row: Value) -> bool:
    """(N, 1) and (N,), (T, T, 1) and (T, T): the same numbers of rows, and one axis of length 1 more."""
    if len(column.shape) != len(row.shape) + 1 or column.shape[-1] != 1 or column.shape[:-1] != row.shape:
        return False
    if not row.shape or row.shape[-1] < 2 or not mx.issubdtype(column.dtype, mx.inexact):
        return False
    return not (
        _is_spread(column.op)
        or (row.op is not None and has(row.op.name, Trait.SOURCE) and not has(row.op.name, Trait.RANDOM))
    )


def _is_spread(op: Op | None) -> bool:
    """Whether somebody gave an operand its last axis of length 1 on purpose: `x[:, None]`, keepdims=True."""
    if op is None:
        return False
    return has(op.name, Trait.ARRANGES, Trait.REPEATS) or op.kwargs.get("keepdims") is True or _has_none(op.args[1:])


def _has_none(args: Any) -> bool:
    return any(arg is None or (isinstance(arg, (tuple, list)) and _has_none(arg)) for arg in args)


@dataclass(frozen=True, slots=True)
class Reduced:
    """A sum, mean, maximum over some axes, which are gone."""

    op: Op
    axes: tuple[int, ...]


def _reduced_across(whole: Value, part: Value) -> Reduced | None:
    """Return the op that reduced `whole` to `part` over axes that are not its first ones, without keeping them; None
    else."""
    if not part.shape or len(part.shape) >= len(whole.shape) or max(part.shape) < 2:
        return None
    op = part.op
    while op is not None and not has(op.name, Trait.REDUCES) and _is_alone(op):
        op = op.inputs[0].op  # √(… + ε) of it
    if op is None or not has(op.name, Trait.REDUCES) or not op.inputs or op.kwargs.get("keepdims"):
        return None
    axes = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
    rank = len(whole.shape)
    if axes is None or op.inputs[0].canonical is not whole.canonical or len(op.args) > 2 or not rank:
        return None
    gone = sorted(axis % rank for axis in ([axes] if isinstance(axes, int) else axes))
    if gone == list(range(len(gone))) or len(part.shape) != rank - len(gone):
        return None
    return Reduced(op, tuple(gone))


def _is_alone(op: Op) -> bool:
    return len(op.inputs) == 1 and bool(op.outputs) and op.inputs[0].shape == op.outputs[0].shape


CHECKS: list[Check] = [broadcasting, crossed]
