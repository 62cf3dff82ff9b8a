"""Handing back: the tape lets go of what MLX would write into in plain Python.

MLX gives a result the strides of the operand that it writes over (`set_binary_op_output_data`,
mlx/backend/common/binary.h). Those of two operands of one shape can differ in an axis of length one, as a transposed
gradient's and its weight's of shape (1, n) do; and by the strides a product takes another path through the BLAS, with
other last bits (`check_transpose`, mlx/backend/cpu/matmul.cpp).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import mlx.core as mx

from nnrepl.tape import UPDATE_PASS, is_evaluated
from nnrepl.tape.value import sketch_of

if TYPE_CHECKING:
    from nnrepl.record.ledger import Ledger
    from nnrepl.tape import Op, Value

_view, _or, _eval = mx.view, mx.bitwise_or, mx.eval
# Made here, where nothing is recorded: a construction is an op.
_NOTHING = {size: mx.array(0, kind) for size, kind in ((1, mx.uint8), (2, mx.uint16), (4, mx.uint32), (8, mx.uint64))}
_LINEAR = frozenset(("add", "subtract"))
ARITHMETIC = frozenset((*_LINEAR, "multiply", "divide"))
_OF_THE_TAPE = 2
"""An array that only its value holds has so many references: that one, and the look at it."""


def hand_back(recorder: Ledger) -> None:
    """Let go of what the next update takes: the weights and the optimizer's state. In plain Python nothing else holds
    their buffers, so MLX writes an update into them; where it may not, the new weights are laid out as the other
    operand is, and with that every product may get another last bit. The tape can make them again."""
    tape = recorder.tape
    number = tape.steps.number_at(len(tape))
    shared = {recorder.live.get(key) for key, guard in recorder.guards.copy().items() if guard() is not None}
    for pass_ in [pass_ for step in tape.steps[max(number - 2, 0) : number] for pass_ in step.passes]:
        taken = [leaf.origin for leaf in pass_.wrt if leaf.origin is not None]
        if pass_.kind == UPDATE_PASS:
            by_optimizer = [op for op in pass_.ops if op.scope is not None and op.scope.updating]
            taken += [value for op in by_optimizer for value in op.outputs]
        for value in taken:
            op = value.op
            # A single number has no layout.
            if op is None or op.operation.kind != "op" or value.held is None or value.size < 2:
                continue
            if value in shared or sys.getrefcount(value.held) > _OF_THE_TAPE:
                kept = copied(value.held)
                let_go(recorder, value)
                value.held = kept
        for leaf in pass_.wrt:
            if leaf.held is not None and leaf.origin is not None and leaf.origin.held is None:
                let_go(recorder, leaf)


def copied(array: mx.array) -> mx.array | None:
    """Return a copy of a matrix with one row or column, which is small: made again it might lie otherwise in memory."""
    if array.ndim < 2 or 1 not in array.shape[-2:] or not is_evaluated(array):
        return None
    copy = duplicate(array)
    compute([copy])
    return copy


def lend(recorder: Ledger, op: Op, result: mx.array) -> None:
    """Let go of the operands of a sum or difference in a gradient call, and of any arithmetic outside of one (an
    average of weights), that are results of arithmetic, and are lazy still: the tape makes them again from their ops
    where somebody looks. The program's own objects, if they live on, keep MLX from writing over them, as they would."""
    shape = result.shape
    if len(shape) < 2 or 1 not in shape[-2:] or result.size == 1 or recorder.inside is not None:
        return
    if not recorder.differentiating and op.pass_.kind == UPDATE_PASS:
        recorder.tape.notes.updates.append(op)
        return
    # In a gradient call the graph of the backward pass holds the operands of all others.
    if op.name not in (_LINEAR if recorder.differentiating else ARITHMETIC):
        return
    lent = []
    for operand in op.inputs:
        held = operand.held
        if held is not None and operand.op is not None and not is_evaluated(held):
            if operand.op.pass_.kind == UPDATE_PASS:
                continue  # it is still to be decided what that writes over
            if not is_arithmetic(operand) or held.shape != shape:
                return  # it costs more to make it again; and what is written over is decided among all operands
            lent.append(operand)
    for operand in lent:
        let_go(recorder, operand)


def is_arithmetic(value: Value) -> bool:
    """Whether a value is made by an op that costs next to nothing to do again."""
    op = value.op
    return op is not None and op.operation.kind == "op" and op.name in ARITHMETIC


def let_go(recorder: Ledger, value: Value) -> None:
    """Hold no array for a value; the program's own object, if it lives on, stays linked."""
    held = value.held
    if held is not None:  # `h + h`
        if recorder.live.get(id(held)) is value:
            recorder.link(held, value)
        recorder.tape.notes.sketches[value] = sketch_of(held)
    value.held = None


def compute(arrays: list[mx.array]) -> None:
    """Evaluate arrays of nnrepl's own, also where it is the program that runs."""
    _eval(arrays)


def duplicate(array: mx.array) -> mx.array:
    """Return the same bits in the same layout, in a buffer of their own; lazy."""
    # As whole numbers, whose bits an `or` with 0 leaves as they are; of floats + 0 makes 0.0 of -0.0.
    zero = _NOTHING[array.itemsize]
    return _view(_or(_view(array, zero.dtype), zero), array.dtype)
