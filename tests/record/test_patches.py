"""What is replaced in MLX is put back, but for what the program has put in its place."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record.patches import Patches


@pytest.mark.parametrize("meanwhile", [None, "own"])
def test_names_that_are_replaced_together(meanwhile: str | None) -> None:
    names: dict[str, Any] = {"a": 1, "b": 2, "other": 3}
    patches = Patches()
    patches.set_together(names, {"a": 1, "b": 2}, {"a": "in for a", "b": "in for b"})
    assert names == {"a": "in for a", "b": "in for b", "other": 3}
    if meanwhile is not None:
        names["b"] = meanwhile
    patches.undo()
    assert names == {"a": 1, "b": meanwhile or 2, "other": 3}


def test_beside_a_function_of_the_program_s_all_others_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And MLX is what it was before, afterwards."""
    tanh = mx.tanh

    def own(x: mx.array) -> mx.array:
        return tanh(x) * 2

    monkeypatch.setattr(mx, "tanh", own)
    before = dict(vars(mx))
    trace = nnrepl.trace(lambda x: mx.sin(mx.tanh(x)), mx.ones((2,)))
    assert [op.name for op in trace.ops] == ["tanh", "multiply", "sin"]
    assert all(vars(mx)[name] is thing for name, thing in before.items())


def test_what_the_program_puts_in_a_place_meanwhile_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "tanh", mx.tanh)  # put back after the test
    sin, own = mx.sin, object()

    def program(x: mx.array) -> mx.array:
        mx.tanh = own  # type: ignore[assignment]
        return mx.sin(x)

    nnrepl.trace(program, mx.ones((2,)))
    assert mx.tanh is own
    assert mx.sin is sin
