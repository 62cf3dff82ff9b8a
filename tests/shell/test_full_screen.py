"""The full screen, in a pseudo-terminal with real keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nnrepl
from nnrepl.explain.doing import doing
from nnrepl.shell.panes import Pane
from nnrepl.view.ops_pane import Formulas, OpsPane
from nnrepl.view.theme import DARK
from tests.bench.tapes import chain
from tests.shell.screen import Screen
from tests.support import OpenSession, nnrepl_cli


def test_the_whole_screen_steps() -> None:
    with Screen("--tui", "examples/simple_nn.py", columns=120, rows=34) as screen:
        seen = screen.until("1 of 8 · simple_nn.py:28")
        assert "simple_nn.py:28 in SimpleNN.__call__ ──" in seen
        assert re.search(r"▶  28 #1… +z1 = mx.matmul\(x, self.weights1\)", seen)
        assert re.search(r"▶ #1 +● +x @ weights1", seen)
        assert "x = [[1 2]]" in seen
        screen.press("F8", "F8")
        seen = screen.until("3 of 8")
        assert "z1 = [[-0.3218 -2.3830 -0.1004]]" in seen  # the result of the step
        assert "→ a1 = [[0 0 0]]" in seen
        screen.line("display z1")
        screen.until("│1: z1 = [[-0.3218 -2.3830 -0.1004]]")
        screen.line("goto grad(z1)")
        screen.until("▶ #14")
        screen.until("∂L/∂a1 = [[-5.5347  1.6945 -1.2449]]")
        screen.press("p wei", "Tab", "Tab")
        screen.until("weights2  (3, 1) float32 · a parameter")
        screen.press("Ctrl-C", "F3")
        screen.until("tensors as heatmap")
        screen.line("print('spoken at the prompt')")
        screen.until("\nspoken at the prompt")
        screen.press("Ctrl-R", "spoken")
        screen.until("(nnrepl) print('spoken at the prompt')\nI-search backward: spoken")
        screen.press("Ctrl-C", "Ctrl-C")
        screen.line("p nothing")
        screen.until("nothing here is called nothing")
        screen.line("c")
        seen = screen.until("The program has ended")
        assert "loss before: 9.0" in seen  # what the program printed
        screen.line("tui")
        screen.until(lambda text: "── ops" not in text and "(nnrepl 1)" in text)
        first_screen = re.split(r"\x1b\[\?1049h", screen.raw.split("\x1b[?1049l", 1)[1])[0]
        assert "loss before: 9.0" in first_screen  # as well
        screen.line("p 40 + 2")
        screen.until("42")
        screen.line("tui")
        screen.until("── ops")
        screen.press("Ctrl-D")
        assert screen.ended() == 0
        assert "Traceback" not in screen.raw


@pytest.mark.parametrize(("columns", "rows"), [(20, 8), (40, 20), (300, 60)])
def test_it_fits_any_terminal(columns: int, rows: int) -> None:
    with Screen("--tui", columns=columns, rows=rows) as screen:
        screen.until("(nnrepl)")
        screen.press("F8")
        screen.line("list")
        screen.ready()
        screen.resize(100, 30)
        screen.line("p 40 + 2")
        screen.until(lambda text: "42" in text and "── ops" in text)


def test_ctrl_c_while_a_command_computes(tmp_path: Path) -> None:
    with Screen("--tui") as screen:
        screen.until("1 of 8")
        screen.line(f"!while not open({str(tmp_path / 'goes')!r}, 'w').close(): pass")
        screen.until(lambda _: (tmp_path / "goes").exists())
        screen.interrupt()
        screen.until("interrupted")
        screen.press("F8")
        screen.until("2 of 8")


def test_a_program_that_fails_is_seen(tmp_path: Path) -> None:
    program = tmp_path / "wrong.py"
    program.write_text("import mlx.core as mx\na = mx.ones((2, 3))\nb = mx.ones((2, 3))\nprint('soon')\na @ b\n")
    with Screen("--tui", "--stop-at-entry", str(program), rows=40) as screen:
        screen.until("▶ #1 ● a ")
        screen.line("c")
        seen = screen.until("The program is over")
        assert "soon" in seen
        screen.press("F7")
        screen.until("▶ #2")


def after(screen: Screen, code: str) -> str:
    """What was written after a code that is among it."""
    return screen.raw[screen.raw.rindex(code) :]


def test_a_step_of_the_program_does_not_flicker(tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    seen = tmp_path / "seen"
    lines = ("import os, time", "import mlx.core as mx", "a = mx.ones(2)", "b = a + 1", "c = b * 2", "d = c - 1",
             f"while not os.path.exists({str(seen)!r}): time.sleep(0.01)", "mx.exp(d)")  # fmt: skip
    program.write_text("\n".join(lines))
    with Screen("--tui", "--stop-at-entry", str(program), rows=40) as screen:
        screen.until("▶ #1 ● a ")
        quick = []
        for place in ("▶ #2 ● b ", "▶ #3 ● c ", "▶ #4 ● d "):
            screen.press("F8")
            screen.until(place)
            before, _, away = screen.raw.rpartition("\x1b[?1049l")
            assert before.rindex("\x1b[?2026h") > before.rindex("\x1b[?2026l")
            quick.append("\x1b[?2026l" not in away[: away.index("\x1b[?1049h")])  # all of it is shown at once
        assert any(quick)  # a busy machine may take its time
        times = screen.raw.count("\x1b[?1049l")
        screen.line("c")  # but what takes its time is seen
        screen.until(lambda _: screen.raw.count("\x1b[?1049l") > times)
        screen.until(lambda _: "\x1b[?2026l" in after(screen, "\x1b[?1049l"))
        assert "\x1b[?1049h" not in after(screen, "\x1b[?1049l")
        seen.touch()
        screen.until("The program has ended")


def test_without_a_terminal_it_is_one_line() -> None:
    result = nnrepl_cli("--tui")
    assert result.returncode == 2
    assert result.stderr == "nnrepl: --tui needs a terminal, and neither --batch nor --plain\n"
    assert "the full screen needs a terminal; this is none" in nnrepl_cli(stdin="tui\nq\n").stdout


def test_only_the_lines_that_are_seen_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = chain(20_000)
    session = OpenSession(nnrepl.trace(lambda: forward()))
    session.goto("#10000")
    made: list[int] = []
    from nnrepl.view import ops_pane

    row = ops_pane.op_row
    monkeypatch.setattr(ops_pane, "op_row", lambda *args, **kwargs: made.append(1) or row(*args, **kwargs))
    pane = OpsPane(session.tape, session.cursor, Formulas(lambda op: doing(session, op, numbers=False)))
    window = Pane(lambda: pane, lambda: DARK, True)
    assert window.create_content(80, 25).line_count == 25
    assert len(made) == 25
    window.create_content(80, 25)  # a key: nothing has changed
    assert len(made) == 25
