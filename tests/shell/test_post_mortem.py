"""`nnrepl.post_mortem()`: the shell where the last recording ended, at the op that failed if one did."""

from __future__ import annotations

import io
import re
import sys

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.shell import entering


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str) -> str:
    """What the shell shows while some lines are typed."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    nnrepl.post_mortem()
    return capsys.readouterr().out


def test_it_opens_at_the_op_that_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    a = mx.array([[1.0, 2.0, 3.0]])

    def fails() -> mx.array:
        b = a * 2
        return b @ a

    with pytest.raises(ValueError, match="matmul"), nnrepl.recording():
        fails()
    shown = typed(monkeypatch, capsys, "p b\nback\nwhy\nq\n")
    before, after = shown.split("(nnrepl) p b")
    assert "post mortem" in before
    assert "#2  matmul  ✗  ValueError" in before
    assert "b = [[2 4 6]]" in after
    assert "#1  b = a · 2" in after
    assert "A transpose is probably missing: b @ a.T" in after


def test_where_nothing_failed_it_opens_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with nnrepl.recording() as first:
        _ = mx.array([1.0, 2.0]) * 3
    with nnrepl.recording():
        d = mx.array([1.0, 2.0]) * 5
    assert d.tolist() == [5.0, 10.0]
    assert len(first.tape) == 2
    shown = typed(monkeypatch, capsys, "p d\nrewind\nq\n")
    assert "This is the end of the tape." in shown
    # With its address where the outermost frame is not pytest's but that of a process that runs tests for it.
    assert re.search(r"\bd(@2)? = \[ 5 10\]", shown), "the last recording, not the first"
    assert "#1  array()" in shown


def test_without_a_recording_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entering, "_last", [])
    with pytest.raises(
        nnrepl.UserError, match=r"nothing was recorded: run what fails inside of `with nnrepl\.recording"
    ):
        nnrepl.post_mortem()
