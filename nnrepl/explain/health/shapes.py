"""Shapes: silent broadcasting."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import Case, Check, Finding
from nnrepl.tape import Op, Value

_OPS = ("subtract", "add", "multiply", "divide", "maximum", "minimum", "logaddexp", "power")
_ON_PURPOSE = (
    "expand_dims",
    "getitem",
    "reshape",
    "transpose",
    "broadcast_to",
    "swapaxes",
    "arange",
    "unflatten",
    "split",
)


def broadcasting(case: Case) -> Iterator[Finding]:
    """(N, 1) against (N,): every row meets every other one, which nobody asked for."""
    for op in case.forward:
        values = [arg for arg in op.args if isinstance(arg, Value)]
        if op.name not in _OPS or len(values) != 2 or not op.outputs:
            continue
        column, row = sorted(values, key=lambda value: -len(value.shape))
        if not _is_mistake(column, row):
            continue
        yield Finding("silent broadcasting", f"{op.label} {words.call(op)} ({words.place(op.source)}): "
                      f"{words.name(column)} {tuple(column.shape)} and {words.name(row)} {tuple(row.shape)} give "
                      f"{tuple(op.outputs[0].shape)}, every row with every other one ({op.outputs[0].size} numbers "
                      f"instead of {row.size}); {words.name(row)}[..., None] or .squeeze(-1) is probably meant",
                      f"explain {op.label}", op)  # fmt: skip


def _is_mistake(column: Value, row: Value) -> bool:
    """(N, 1) and (N,), (T, T, 1) and (T, T): the same numbers of rows, and one axis of length 1 more."""
    if len(column.shape) != len(row.shape) + 1 or column.shape[-1] != 1 or column.shape[:-1] != row.shape:
        return False
    if not row.shape or row.shape[-1] < 2 or not mx.issubdtype(column.dtype, mx.inexact):
        return False
    return not (_deliberate(column.op) or _deliberate(row.op))


def _deliberate(op: Op | None) -> bool:
    """Whether somebody gave the operand its shape on purpose."""
    return op is not None and (op.name in _ON_PURPOSE or "keepdims" in op.kwargs)


CHECKS: list[Check] = [broadcasting]
