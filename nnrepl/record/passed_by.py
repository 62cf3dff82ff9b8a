"""Passed by: where a run follows a tape, the sweep computes nothing, but the program's functions run as they did.

A checkpoint in a nested gradient runs its function once more when the gradient around it is taken: what that changes of
the program's (a counter, a list) changes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.recorder import OPAQUE, Recorder
from nnrepl.record.strays import invoke

if TYPE_CHECKING:
    from nnrepl.tape import Op

_copy = mx.array.__copy__


def run_blocks(recorder: Recorder, call: Op) -> None:
    """Run once more the functions in a call of the tape that its backward pass ran then."""
    blocks, inside = recorder.blocks_passed.pop(call), recorder.tape.notes.calls.get(call)

    def handed(array: mx.array) -> mx.array:
        # As MLX does (`make_tracer` in mlx/transforms.cpp): what is changed in place there is none of the program's.
        fresh, value = _copy(array), recorder.live.get(id(array))
        if value is not None:
            recorder.link(fresh, value)
        return fresh

    mode = recorder.mode
    recorder.mode = OPAQUE
    try:
        for number in () if inside is None else inside.swept:
            if number in blocks:
                function, args, kwargs = blocks[number]
                given, named = trees.rebuild((args, kwargs), handed)
                invoke(function, given, named)
    finally:
        recorder.mode = mode
