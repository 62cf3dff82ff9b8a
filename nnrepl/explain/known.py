"""Entry: the table of `nnrepl.ops`, asked about an op of the tape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.ops import ENTRIES
from nnrepl.ops.entry import COMPOSITE, ELEMENTWISE, FIXED, MOVE, PRODUCTS, WHOLE, Entry, Slope, unbroadcast
from nnrepl.tape import Op, Value, fill

__all__ = [
    "COMPOSITE", "ELEMENTWISE", "FIXED", "MOVE", "PRODUCTS", "WHOLE", "Entry", "Slope", "arguments", "bind", "compute",
    "entry_for", "filled", "gradients",
]  # fmt: skip

Lookup = Callable[[Value], mx.array]


def entry_for(op: Op) -> Entry | None:
    """Return what the table knows about an op, or about the forward op that it differentiates; None if nothing."""
    known = listed(op)
    if known is None:
        return None
    try:
        bound = bind(known, op.of or op)
    except TypeError:
        return None
    return known if known.variant is None else known.variant(bound)


def listed(op: Op) -> Entry | None:
    """Return what the table has for an op, however it was called: its variants are told by its arguments."""
    operation = (op.of or op).operation
    return ENTRIES.get(operation.name) if operation.kind in ("op", "data", "edit") else None


def arguments(op: Op) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what an op was called with, in the order of its formula: `2 - x` was called as `x.__rsub__(2)`."""
    args = op.args
    if op.operation.infix is not None and op.operation.spelling.startswith("__r") and len(args) == 2:
        args = (args[1], args[0])
    return args, {key: part for key, part in op.kwargs.items() if key != "stream"}


def filled(op: Op, lookup: Lookup) -> tuple[list[Any], dict[str, Any]]:
    """Return the same with arrays in the place of Values."""
    args, kwargs = arguments(op)
    return [fill(part, lookup) for part in args], {key: fill(part, lookup) for key, part in kwargs.items()}


def bind(entry: Entry, op: Op) -> dict[str, Any]:
    """Return what each symbol of a formula is in a recorded call: a Value, a number, or several of them.

    Raises:
        TypeError: If the op was called in a way that the entry does not know.
    """
    return entry.bind(*arguments(op))


def compute(entry: Entry, op: Op, lookup: Lookup) -> list[mx.array]:
    """Return the formula on the arrays that `lookup` gives for the op's inputs; lazy."""
    assert entry.forward is not None
    args, kwargs = filled(op, lookup)
    result = entry.forward(*args, **kwargs)
    return [result] if isinstance(result, mx.array) else list(result)


def gradients(entry: Entry, op: Op, cotangents: list[mx.array], lookup: Lookup) -> dict[Value, list[mx.array]]:
    """Return the formula's gradients: for each input that a gradient may reach, the parts of its gradient; lazy.

    Args:
        cotangents: The gradient of each output.
    """
    bound = bind(entry, op)
    args, kwargs = filled(op, lookup)
    y = [lookup(value) for value in op.outputs]
    several = len(op.outputs) != 1
    found: dict[Value, list[mx.array]] = {}
    for symbol, slope in entry.slopes.items():
        given = bound.get(symbol)
        targets = [given] if isinstance(given, Value) else list(given) if isinstance(given, (list, tuple)) else []
        if not any(isinstance(target, Value) for target in targets):
            continue
        result = slope.run(cotangents if several else cotangents[0], y if several else y[0], *args, **kwargs)
        parts = [result] if isinstance(given, Value) else list(result)
        for target, part in zip(targets, parts, strict=True):
            if isinstance(target, Value):
                by_place = entry.kind == ELEMENTWISE or entry.row is not None
                shaped = unbroadcast(part, target.shape) if by_place else part
                found.setdefault(target, []).append(shaped.astype(target.dtype))
    return found
