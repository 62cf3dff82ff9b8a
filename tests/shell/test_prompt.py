"""The prompt, in a pseudo-terminal with real keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shell.screen import Screen

READY = "(nnrepl)"


def test_keys_complete_and_step() -> None:
    with Screen("examples/simple_nn.py") as screen:
        screen.until("1 of 8 · simple_nn.py:28")
        screen.press("F11")
        screen.until("2 of 8 · simple_nn.py:28")
        screen.press("Shift-F11")
        screen.until("1 of 8 · simple_nn.py:28")
        screen.press("F10", "F8", "F9")
        screen.until("6 of 8 · simple_nn.py:35")
        screen.press("F7", "F6", "Shift-F10")
        screen.until("3 of 8 · simple_nn.py:29")
        screen.press("F6")
        screen.until("1 of 8 · simple_nn.py:28")
        screen.press("p we", "Tab")
        screen.until("(nnrepl) p weights")
        screen.press("Tab")
        seen = screen.until("weights1  (2, 3) float32 · a parameter")
        assert "weights2  (3, 1) float32 · a parameter" in seen
        screen.press("Down", "Down", "Enter", ".sh", "Tab", "Enter")
        screen.until("(3, 1)\n(nnrepl)")
        screen.press("p z1", "F8")  # what one types outlives a key
        screen.until("2 of 8")
        screen.until("(nnrepl) p z1\n")
        screen.press("Ctrl-C", "Ctrl-D")
        assert screen.ended() == 0


def test_nothing_is_evaluated_while_one_types(tmp_path: Path) -> None:
    program = tmp_path / "watched.py"
    program.write_text(
        "import mlx.core as mx\n"
        "class Box:\n"
        "    @property\n"
        "    def secret(self):\n"
        "        raise SystemExit('a property was called')\n"
        "    def __getattr__(self, name):\n"
        "        raise SystemExit('an attribute was computed')\n"
        "box = Box()\n"
        "w = mx.ones((3,)) * 2\n"
        "def f(w):\n"
        "    big = w * 3\n"
        "    return big.sum()\n"
        "mx.value_and_grad(f)(w)\n"
    )
    with Screen("-c", "config complete typing", "-c", "config peek 0", str(program)) as screen:
        screen.until("1 of 2")
        screen.line("until sum")
        screen.until("2 of 2")
        screen.press("p bi")
        screen.until("(3,) float32 · multiply")
        screen.press("g + box.sec", "Tab")
        screen.until("box.secret")
        screen.press("Ctrl-C")
        screen.line("what big")
        seen = screen.until("state ")
        assert "not computed yet" in seen


def test_several_lines_and_history(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    with Screen("examples/simple_nn.py", env=env) as screen:
        screen.until(READY)
        screen.press("for i in range(2):", "Enter", "print('row', i)", "Enter", "Enter")
        screen.until("row 0\nrow 1\n")
        screen.press("x = mx.array([1,", "Enter", "2])", "Enter", "x", "Enter")
        screen.until("[1 2]")
        screen.line("config keys vi")
        screen.until("keys vi")
        screen.line("pp 41 + 1")
        screen.until("42")
        screen.press("Ctrl-D")
        assert screen.ended() == 0
    with Screen("examples/simple_nn.py", env=env) as screen:
        screen.until(READY)
        screen.press("pp ")
        screen.again("4", "Backspace", wanted="pp 41 + 1")  # suggested
        screen.press("Ctrl-C", leaves=True)
        screen.press("Ctrl-R", "range")
        screen.again("Ctrl-R", wanted="for i in range(2):")
        screen.press("Enter")
        screen.until("row")
        screen.press("Ctrl-C", "Ctrl-D")
        assert screen.ended() == 0


def test_a_history_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "nnrepl").write_text("a file where a folder should be")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "nnrepl").mkdir()
    (tmp_path / "config" / "nnrepl" / "config").write_text("theme pink\nkeys vi\nnonsense\n\n# a note\n")
    env = {"XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    with Screen(columns=200, env=env) as screen:
        seen = screen.until(READY)
        assert "what you type is not kept: cannot write" in seen
        assert "config:1: theme is dark or light, not pink" in seen
        assert "config:3: there is no setting nonsense; config lists them" in seen
        assert "Traceback" not in seen
        screen.line("config keys")
        screen.until("keys vi")


def test_a_person_is_never_thrown_out(tmp_path: Path) -> None:
    program = tmp_path / "long.py"
    program.write_text("import mlx.core as mx\nx = mx.ones((4,))\nprint('it goes')\nwhile True:\n    x = x * 1.0\n")
    with Screen("--stop-at-entry", str(program)) as screen:
        screen.until(READY)
        screen.press("garbage garbage", "Ctrl-C")
        screen.line("c")
        screen.until("it goes")
        screen.interrupt()
        screen.until("interrupted")
        screen.line("p 6 * 7")
        screen.until("42")
        screen.press("Ctrl-D")
        screen.ended()


@pytest.mark.parametrize("columns", [20, 300])
def test_every_width(columns: int) -> None:
    with Screen(columns=columns, rows=40) as screen:
        screen.until(READY)
        for line in ("s", "list", "p weights1", "what z1", "config", "ll"):
            screen.line(line)
            if "more: Space" in (seen := screen.ready()):
                screen.press("q", leaves=True)
            assert "Traceback" not in seen
            assert "failed" not in seen
        screen.resize(columns + 20, 30)
        screen.line("p 40 + 2")
        screen.until("42")


def test_dumb_and_colourless_terminals() -> None:
    with Screen("examples/simple_nn.py", env={"TERM": "dumb"}) as screen:
        screen.until(READY)
        screen.line("s")
        screen.until("#1  x @ weights1 = [[-0.3218 -2.3830 -0.1004]]")
        assert "\x1b" not in screen.raw
    with Screen("examples/simple_nn.py", env={"NO_COLOR": "1"}) as screen:
        screen.until("1 of 8 · simple_nn.py:28")
        screen.line("s")
        screen.until("#1  x @ weights1 = [[-0.3218 -2.3830 -0.1004]]")
        for code in ("[3", "[9", "[4"):
            for digit in "01234567":
                assert f"\x1b{code}{digit}m" not in screen.raw
        assert "38;5" not in screen.raw
        assert "38;2" not in screen.raw


PASTED = "class A:\n    x = 1\n\n    def f(self):\n        y = 2\n\n        return self.x + y\n\n"


def test_a_class_with_empty_lines_typed_and_pasted() -> None:
    with Screen("--empty") as screen:
        screen.until("(nnrepl 1)")
        screen.cell("class A:", "x = 1", "", "def f(self):", "y = 2", "", "return self.x + y", "", "")
        screen.until("(nnrepl 2)")
        screen.line("A().f() + 40")
        screen.until("43")
        screen.press(f"\x1b[200~{PASTED.replace('self.x', 'self.x + 1')}\x1b[201~", "Enter")  # as a terminal pastes
        screen.until("(nnrepl 4)")
        screen.line("A().f() + 50")
        screen.until("54")
        screen.press(PASTED.replace("self.x", "self.x + 2").replace("\n", "\r") + "A().f() + 60\r")  # or key by key
        screen.until("65")
        screen.cell(*PASTED.replace("self.x", "self.x + 3").split("\n"))  # or line by line
        screen.until("(nnrepl 7)")
        screen.line("A().f() + 70")
        screen.until("76")
        screen.press("\x1b[200~pp 80 + 1\npp 81 + 1\nif True:\n    print(83)\x1b[201~", "Enter")
        screen.until("81\n82\n83\n")


def test_the_last_answer_is_laid_out_for_the_width_of_now() -> None:
    with Screen("examples/simple_nn.py", columns=100) as screen:
        screen.until("1 of 8 · simple_nn.py:28")
        screen.line("explain a1")
        screen.until("Evaluated")
        screen.resize(44, 40)
        screen.press("Ctrl-L")
        seen = screen.until(lambda text: text.startswith("(nnrepl) redraw\n#3  maximum") and "Evaluated" in text)
        answer = seen.partition("Evaluated")[0].splitlines()
        assert max(map(len, answer)) <= 44
        assert not any(" " not in line and len(line) == 44 for line in answer)  # no line was broken by the terminal
        screen.line("s")
        seen = screen.until("2 of 8")  # a heading of this width
        assert "simple_nn.py:28" in seen
        screen.press("Ctrl-D")
        assert screen.ended() == 0
