"""What a variable held last, and what it will hold next, in calls that the cursor is not in."""

from __future__ import annotations

import mlx.core as mx

import nnrepl
from nnrepl.tape import Value


def test_the_last_tensor_that_is_made_and_the_first_that_is_not() -> None:
    def fn(x: mx.array) -> mx.array:
        h = x * 2
        h = h + 1
        h = h * 3
        return h.sum()

    tape = nnrepl.trace(fn, mx.array([1.0, 2.0])).tape

    def told(position: int) -> tuple[list[str], str | None]:
        last, ahead = tape.bindings.newest("h", position, lambda code: True)
        assert all(isinstance(value, Value) for _, _, value in last)
        made = [value.op.name for _, _, value in last if value.op is not None]
        return made, None if ahead is None or ahead[2].op is None else f"#{ahead[2].op.index}"

    assert told(0) == ([], "#1")
    assert told(1) == (["multiply"], "#2")
    assert told(2) == (["add"], "#3")
    assert told(3) == (["multiply"], None)
    assert told(len(tape)) == (["multiply"], None)
