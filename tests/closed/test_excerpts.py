"""The ops beside the lines of the source are read once, and read on: what is shown is what reading them anew shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.session import excerpts
from tests.closed.programs import HEAD, PROGRAMS
from tests.closed.test_closed import QUIET, _main, play
from tests.support import OpenSession

__all__ = ["_main"]

LINES = (
    "list", "until step 3", "list", "step 3", "list", "z = z * 2", "list", "until backward", "list", "goto step 5",
    "list", "goto step 4 tanh", "list", "timeline 1", "list",
)  # fmt: skip


class Forgetting(dict[Any, Any]):
    """Is empty whenever it is asked."""

    def get(self, key: Any, default: Any = None) -> Any:
        return default


def test_read_on_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS["adam"])
    shown = play(tmp_path / "train.py", *LINES)
    monkeypatch.setattr(excerpts, "_known", Forgetting())
    assert shown == play(tmp_path / "train.py", *LINES)
    assert "#3" in shown


def test_a_stretch_in_which_ops_were_exchanged_is_read_anew() -> None:
    """As where a step is opened of which only its end was there."""

    def loss(x: mx.array) -> mx.array:
        y = mx.tanh(x)
        z = mx.exp(y)
        return z.sum()

    session = OpenSession(nnrepl.trace(loss, mx.ones((2,))))
    first = loss.__code__.co_firstlineno
    assert excerpts.ops_by_line(session, __file__) == {first + 1: [1], first + 2: [2], first + 3: [3]}
    ops = session.tape.ops
    ops[1], ops[2] = ops[2], ops[1]
    ops[1].position, ops[2].position = 1, 2
    assert excerpts.ops_by_line(session, __file__) == {first + 1: [1], first + 2: [3], first + 3: [2]}
