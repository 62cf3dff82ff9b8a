"""Progress: said where there is a terminal, not at once, and not again and again."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nnrepl.shell import progress_line
from nnrepl.shell.progress_line import Progress


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress_line, "time", made)
    return made


def progress(terminal: bool = True) -> tuple[Progress, io.StringIO]:
    written = io.StringIO()
    return Progress(Console(file=written, force_terminal=terminal, width=80, _environ={})), written


def test_what_is_done_at_once_is_not_told(clock: Clock) -> None:
    shown, written = progress()
    shown.begin()
    clock.now += 0.4
    shown.come(0.5, "evaluating")
    shown.running(3, 1000)
    shown.end()
    assert written.getvalue() == ""


def test_what_takes_long_is_told_now_and_then(clock: Clock) -> None:
    shown, written = progress()
    shown.begin()
    clock.now += 1
    shown.come(0.25, "running again")
    assert "running again: 25%, about 3 s more, Ctrl-C interrupts" in written.getvalue()
    before = written.getvalue()
    clock.now += 0.2
    shown.come(0.3, "running again")
    shown.running(3, 1000)
    assert written.getvalue() == before
    clock.now += 0.2
    shown.running(3, 1000)
    assert "running · pass 3 · 1,000 ops" in written.getvalue()
    shown.end()
    assert written.getvalue().endswith("\r\x1b[K")
    clock.now += 1
    shown.come(0.5, "evaluating")
    assert written.getvalue().endswith("evaluating: 50%, Ctrl-C interrupts")


def test_nothing_is_told_where_nobody_looks(clock: Clock) -> None:
    shown, written = progress(terminal=False)
    shown.begin()
    clock.now += 9
    shown.come(0.5, "evaluating")
    shown.running(3, 1000)
    assert written.getvalue() == ""
