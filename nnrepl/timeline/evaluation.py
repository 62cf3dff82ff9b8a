"""Evaluation: what looking at a value costs, and doing it so that it can be interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mlx.core as mx

from nnrepl.record.anatomy import graph, stand_in
from nnrepl.tape import BackwardOp, Op, Value

_eval = mx.eval
_SLICE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Work:
    """What had to be evaluated for an answer.

    Attributes:
        ops: How many ops were not evaluated before.
        elements: How many numbers they produced.
        seconds: How long it took.
    """

    ops: int
    elements: int
    seconds: float


def pending(values: Iterable[Value], limit: int | None = None) -> list[Op] | None:
    """The ops that must be evaluated before `values` can be seen, in order of execution.

    Args:
        limit: Give up (and return None) when more than so many elements would have to be computed.
    """
    needed: set[Op] = set()
    elements = 0
    stack = [value for value in values if not value.evaluated]
    while stack:
        op = stack.pop().op
        if op is None or op in needed:
            continue
        needed.add(op)
        elements += sum(output.size for output in op.outputs)
        if limit is not None and elements > limit:
            return None
        stack.extend(value for value in needs(op) if not value.evaluated)
    return sorted(needed, key=_position)


def _position(op: Op) -> int:
    return op.position


def needs(op: Op) -> tuple[Value, ...]:
    """The inputs that an op's result is computed from. The VJP of a sum, for one, takes the sum's inputs but
    needs none of their numbers; MLX's own graph tells, once for each kind of op."""
    if not isinstance(op, BackwardOp):
        return op.inputs
    return tuple(op.inputs[slot] for slot in _needed(op))


_NEEDED: dict[object, tuple[int, ...]] = {}


def _needed(op: Op) -> tuple[int, ...]:
    kinds = tuple((value.shape, value.dtype) for value in op.inputs)
    rule = op.args[0]
    forward = op.of
    key: object = (op.operation, kinds, forward and forward.operation, _plain(rule), _plain_args(forward))
    try:
        known = _NEEDED.get(key)
    except TypeError:
        return _look(op)
    if known is None:
        known = _NEEDED[key] = _look(op)
    return known


def _plain(rule: object) -> object:
    return tuple(getattr(rule, name, None) for name in ("wanted", "outputs", "continued"))


def _plain_args(op: Op | None) -> object:
    if op is None or op.operation.kind == "opaque":
        return op
    return tuple(repr(arg) if not isinstance(arg, Value) else None for arg in op.args), repr(sorted(op.kwargs))


def _look(op: Op) -> tuple[int, ...]:
    """Compute the op on stand-ins and see which of them MLX's graph reaches."""
    if op.of is not None and op.of.operation.kind == "opaque":
        return tuple(range(len(op.inputs)))
    stands = {value: stand_in(value.shape, value.dtype) for value in op.inputs}
    outputs = {f"o{slot}": array for slot, array in enumerate(op.compute(stands.__getitem__))}
    names = {f"i{slot}": stands[value] for slot, value in enumerate(op.inputs)}
    reached = {step for step in graph(outputs, names) if isinstance(step, str)}
    return tuple(slot for slot in range(len(op.inputs)) if f"i{slot}" in reached)


def evaluate(values: Iterable[Value], progress: Callable[[float], None] | None = None) -> Work:
    """Give values their numbers, and what they depend on.

    A long evaluation is cut into slices along the tape: between two of them `progress` is told the share
    that is done, and Ctrl-C takes effect (KeyboardInterrupt; what has been evaluated stays).
    """
    wanted = list(values)
    ops = pending(wanted) or []
    start = time.perf_counter()
    done, step = 0, 8
    while done < len(ops):
        begin = time.perf_counter()
        chunk = ops[done : done + step]
        _eval([output.array for op in chunk for output in op.outputs if output.held is not None])
        done += len(chunk)
        spent = time.perf_counter() - begin
        step = max(1, step * 2 if spent < _SLICE_SECONDS else step // 2)
        if progress is not None and done < len(ops):
            progress(done / len(ops))
    _eval([value.array for value in wanted])
    elements = sum(output.size for op in ops for output in op.outputs)
    return Work(len(ops), elements, time.perf_counter() - start)
