"""Evaluation: what looking at a value costs, and doing it so that it can be interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import chain

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.bounds import OutOfBounds, outside
from nnrepl.record.needs import needs
from nnrepl.tape import Op, Remnant, Tracer, Value
from nnrepl.tape.collector import paused

_eval = mx.eval
_SLICE_SECONDS = 0.1
_LARGE = 2**16  # of such tensors one op may take long: the first slice is a single one


@dataclass(frozen=True, slots=True)
class Work:
    """What had to be evaluated for an answer.

    Attributes:
        ops: How many ops were not evaluated before.
        elements: How many numbers they produced.
        seconds: How long it took.
        again: How many of the ops had been evaluated before and were dropped.
    """

    ops: int
    elements: int
    seconds: float
    again: int = 0


def pending(values: Iterable[Value], limit: int | None = None, lazy: bool = False) -> list[Op] | None:
    """Return the ops that must be evaluated before `values` can be seen, in order of execution.

    Args:
        limit: Give up (and return None) when more than so many elements would have to be computed.
        lazy: That none of `values` is evaluated is known.
    """
    needed: set[Op] = set()
    elements = 0
    stack = list(dict.fromkeys(values))
    met = set(stack)  # each is asked once: MLX says that an array is lazy by raising, which takes its time
    known = set(stack) if lazy else set()
    while stack:
        value = stack.pop()
        op = value.op
        if op is None or op in needed or (value not in known and value.evaluated):
            continue
        needed.add(op)
        if limit is not None:
            elements += sum([output.size for output in op.outputs])
            if elements > limit:
                return None
        if not met.issuperset(op.inputs):
            fresh = [taken for taken in dict.fromkeys(needs(op)) if taken not in met]
            stack += fresh
            met.update(fresh)
    return sorted(needed, key=_position)


def _position(op: Op) -> int:
    return op.position


class LeftTracer(Exception):
    """What is wanted is a tracer that a compiled function has left, or what only a closed step has, or is computed from
    one."""


@paused()
def evaluate(values: Iterable[Value], progress: Callable[[float], None] | None = None, lazy: bool = False) -> Work:
    """Give values their numbers, and what they depend on.

    A long evaluation is cut into slices along the tape: between two of them `progress` is told the share
    that is done, and Ctrl-C takes effect (KeyboardInterrupt; what has been evaluated stays).

    Args:
        lazy: As in `pending`.

    Raises:
        OutOfBounds: If one of the ops reads or writes outside of a tensor, which MLX does not check.
        LeftTracer: If one of them takes what MLX cannot evaluate, or only a closed step has.
    """
    wanted = list(values)
    ops = pending(wanted, lazy=lazy) or []
    for value in chain(wanted, *(op.inputs for op in ops)):
        if isinstance(value, (Tracer, Remnant)) and value.refusal:
            raise LeftTracer(value.refusal)
    found = outside(ops)
    if found is not None:
        raise OutOfBounds(found.text)
    start = time.perf_counter()
    done, step = 0, 1 if any(op.outputs and op.outputs[0].size > _LARGE for op in ops[:8]) else 8
    while done < len(ops):
        begin = time.perf_counter()
        chunk = ops[done : done + step]
        _eval([output.array for op in chunk for output in op.outputs if output.held is not None or output.dropped])
        done += len(chunk)
        spent = time.perf_counter() - begin
        step = max(1, step * 2 if spent < _SLICE_SECONDS else step // 2)
        if progress is not None and done < len(ops):
            progress(done / len(ops))
    _eval([value.array for value in wanted])
    elements = sum(output.size for op in ops for output in op.outputs)
    again = _let_go(wanted)
    return Work(len(ops), elements, time.perf_counter() - start, again)


def _let_go(wanted: list[Value]) -> int:
    """Drop again what came back only on the way to what was wanted. Returns how many ops ran again."""
    if not wanted:
        return 0
    restored = wanted[0].tape.notes.restored
    ops = {value.op for value in restored if value.op is not None}
    for value in set(restored).difference(wanted):
        value.forget()
    restored.clear()
    return len(ops)
