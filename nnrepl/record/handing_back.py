"""Handing back: where the program goes on natively, the tape lets go of what MLX would write into in plain Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nnrepl.tape import UPDATE_PASS

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder
    from nnrepl.tape import Value

_OF_THE_TAPE = 2
"""An array that only its value holds has so many references: that one, and the look at it."""


def hand_back(recorder: Recorder) -> None:
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
                _let_go(recorder, value)
        for leaf in pass_.wrt:
            if leaf.held is not None and leaf.origin is not None and leaf.origin.held is None:
                _let_go(recorder, leaf)


def _let_go(recorder: Recorder, value: Value) -> None:
    """Let go of a value's array for now; of what the history budget takes it is told, of this it need not be."""
    recorder.drop(value)
    recorder.tape.notes.dropped.discard(value)
