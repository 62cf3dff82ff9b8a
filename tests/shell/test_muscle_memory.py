"""Muscle memory: what people type who come from pdb or gdb.

Each line does the obvious thing, or is answered by one line that says what to type instead. The lines are typed on
the built-in example, standing at #5 (`z2 = mx.matmul(a1, self.weights2) + self.bias2`) with one breakpoint set.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console

import nnrepl
import nnrepl.commands.interpreter
from nnrepl.programs.script import load_script
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.session.errors import Quit, UserError
from nnrepl.tape import Tape
from nnrepl.view.theme import DARK
from tests.support import EXAMPLES, OpenSession


@pytest.fixture(scope="module")
def tape() -> tuple[Tape, ProgramNames]:
    """The built-in example, recorded to its end."""
    names = ProgramNames()
    recorded = names.tape
    with pytest.MonkeyPatch.context() as patch, recording(Recorder(recorded, strict=True, base=sys._getframe())):
        patch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # (another test's has its names too)
        load_script(str(EXAMPLES / "simple_nn.py"), []).run()
    return recorded, names


@pytest.fixture
def session(tape: tuple[Tape, ProgramNames]) -> OpenSession:
    made = OpenSession(nnrepl.Recorded(*tape))
    for line in ("goto start", "break forward a1", "continue", "until #5"):
        made.run(line)
    return made


def screen(session: OpenSession, *lines: str) -> str:
    """What the last line shows; an answer that is an error stands after `!`."""
    console = Console(width=100, no_color=True, theme=DARK)
    for line in lines:
        with console.capture() as capture:
            try:
                shown = session.run(line)
                if shown is not None:
                    console.print(shown)
            except UserError as error:
                console.print(f"! {error}".replace("\n", "(two lines!)"), markup=False, soft_wrap=True)
            except Quit:
                console.print("(quits)", markup=False)
    return capture.get()


LINES: list[tuple[str, str]] = [
    # breakpoints
    ("b 29", r"breakpoint 2  simple_nn.py:29"),
    ("b simple_nn.py:30", r"breakpoint 2  simple_nn.py:30"),
    ("break SimpleNN.__call__", r"breakpoint 2  SimpleNN.__call__ · a function"),
    ("b mse_loss", r"a function, where it is entered"),
    ("b 30 if z2.sum() > 3", r"breakpoint 2  simple_nn.py:30, z2.sum\(\) > 3"),
    ("b 30, z2.sum() > 3", r"breakpoint 2  simple_nn.py:30, z2.sum\(\) > 3"),
    ("b 31", r"! no op can come from line 31 of simple_nn.py; .*simple_nn.py:30 or simple_nn.py:35"),
    ("b loss < 10", r"breakpoint 2  loss < 10 · where it becomes true"),
    ("b nonsense", r"! no op, value, function or module is called nonsense"),
    ("tbreak 35", r"breakpoint 2  simple_nn.py:35 · once"),
    ("tb 35", r"once"),
    ("b", r"^breakpoint 1  forward a1"),
    ("info b", r"^breakpoint 1  forward a1"),
    ("info breakpoints", r"hit 1 time"),
    ("i b", r"^breakpoint 1  forward a1"),
    ("delete 1", r"Deleted breakpoint 1"),
    ("delete", r"Deleted breakpoint 1"),
    ("del 1", r"Deleted breakpoint 1"),
    ("clear 1", r"Deleted breakpoint 1"),
    ("cl 1", r"Deleted breakpoint 1"),
    ("delete 7", r"! there is no breakpoint, watch or catch 7; there are 1"),
    ("disable 1", r"disabled"),
    ("enable 1", r"breakpoint 1"),
    ("ignore 1 2", r"goes over 2 hits"),
    ("condition 1 a1.sum() > 0", r"a1.sum\(\) > 0"),
    ("commands 1", r"end finishes"),
    ("watch z1", r"watch 2  z1"),
    ("rwatch z1", r"watch 2  z1"),
    ("catch throw", r"! catch takes nan, inf, exception"),
    ("catch exception", r"catch 2  exception"),
    # motions
    ("s", r"#6 +y_pred - y_true .* subtract "),
    ("step 2", r"#7 +\(y_pred .* square "),
    ("n", r"#6 +y_pred - y_true .* subtract "),
    ("next", r"#6 +y_pred - y_true .* subtract "),
    ("r", r"#6 +y_pred - y_true .* subtract "),
    ("return", r"#6 +y_pred - y_true .* subtract "),
    ("fin", r"#6 +y_pred - y_true .* subtract "),
    ("finish", r"#6 +y_pred - y_true .* subtract "),
    ("unt", r"#6 +y_pred - y_true .* subtract "),
    ("until 35", r"#6 +y_pred - y_true .* subtract "),
    ("advance 35", r"#6 +y_pred - y_true .* subtract "),
    ("c", r"breakpoint 1  forward a1 · hit 2 times"),
    ("cont", r"breakpoint 1"),
    ("c 3", r"end of the tape|The program has ended|^$"),
    ("j 28", r"! nothing can be left out here; goto 28"),
    ("jump 28", r"! nothing can be left out here; goto 28"),
    ("reverse-step", r"#4 +a1 @ weights2 .* matmul "),
    ("rs", r"#4 +a1 @ weights2 .* matmul "),
    ("reverse-stepi", r"! an op is the smallest step.* rs and rn go back"),
    ("rn", r"#4 +a1 @ weights2 .* matmul "),
    ("rc", r"breakpoint 1  forward a1"),
    ("reverse-continue", r"#3 +a1 = max\(z1, 0\) .* maximum "),
    ("si", r"! an op is the smallest step: s steps"),
    ("run", r"! there is no program here that nnrepl could run again"),
    ("start", r"! restart runs the program from its start"),
    # looking
    ("l", r"▶ +30 #4,#5"),
    ("l .", r"▶ +30 #4,#5"),
    ("l 1,20", r"^ +20 "),
    ("l 25, 30", r"▶ +30 #4,#5"),
    ("l 40", r"^ +45 "),
    ("l 28,3", r"^ +31 "),
    ("l simple_nn.py:40", r"^ +45 "),
    ("l mse_loss", r"^ +35 #6-8"),
    ("l 999", r"! simple_nn.py has \d+ lines"),
    ("l nosuch.py:3", r"! there is no file nosuch.py"),
    ("ll", r"▶ +30 #4,#5"),
    ("longlist", r"^ +28 #1,#2 "),
    ("ll mse_loss", r"^34 .*\n +35 #6-8"),
    ("ops", r"▶ #5"),
    ("ops pass", r"#16"),
    ("ops 28", r"#2 "),
    ("ops backward", r"#16 "),
    ("ops mse_loss", r"#8 "),
    ("p z1", r"^z1 = \[\[-0.3218"),
    ("print z1", r"^z1 = \[\[-0.3218"),
    ("pp z1", r"\[\[-0.3218"),
    # with a bracket or a sign first
    ("p (z1 + 1)[0]", r"^\(z1 \+ 1\)\[0\] = \[ 0.6782"),
    ("p -z1", r"^-z1 = \[\[0.3218"),
    ("p [z1, a1]", r"\[0\]? *"),
    ("p(z1)", r"^z1 = \[\[-0.3218"),
    ("p/2f (z1)[0]", r"\[-0.32 "),
    ("pp (1, 2)", r"1,"),
    ("stats (z1 + 1)", r"z1 \+ 1"),
    ("hist (z1)", r"z1"),
    ("heatmap (z1 + 1)[0]", r"z1 \+ 1"),
    ("explain (z1)", r"z1 ="),
    ("what (z1)", r"made by"),
    ("watch (z1.max())", r"watch 2  z1.max\(\)"),
    ("display (z1)", r"1: z1 = "),
    ("plot (loss)", r"loss"),
    ("n (2)", r"back through mean\(#7\)"),
    ("until :35", r"#6 +y_pred - y_true .* subtract "),
    ("b (z1)", r"breakpoint 2  z1"),
    ("p == 3", r"! nothing here is called p"),
    ("w @ x", r"! nothing here is called w"),
    ("p z1 ;; p a1", r"^z1 = .*\na1 = "),
    ("whatis z1", r"z1 +\(1, 3\) float32"),
    ("ptype z1", r"made by"),
    ("x/2f z1", r"\[-0.3218 -2.3830\]"),
    ("x z1", r"^z1 = "),
    ("inspect z1", r"^z1 = "),
    ("display a1", r"1: a1 = \[\[0 0 0\]\]"),
    ("disp a1", r"1: a1 = \[\[0 0 0\]\]"),
    ("undisplay 1", r"! 1 is not displayed"),
    ("info display", r"Nothing is displayed"),
    ("bt", r"▶ simple_nn.py:30 in SimpleNN.__call__"),
    ("w", r"▶ simple_nn.py:30 in SimpleNN.__call__"),
    ("where", r"▶ simple_nn.py:30 in SimpleNN.__call__"),
    ("backtrace", r"▶ simple_nn.py:30"),
    ("bt 2", r"^simple_nn.py:46 in loss_fn.*\n.*\n▶ simple_nn.py:30 in SimpleNN.__call__.*\n[^\n]*$"),
    ("bt -1", r"^simple_nn.py:\d+ in [^\n]*\n[^\n]*$"),
    ("w 0", r"^▶ simple_nn.py:30 in SimpleNN.__call__\n[^\n]*$"),
    ("whatis self", r"^self  \S*SimpleNN  simple_nn.py:\d+$"),
    ("whatis model.parameters", r"^model.parameters  builtins.method  base.py:\d+$"),
    ("ptype loss_fn", r"^loss_fn  builtins.function  simple_nn.py:\d+$"),
    ("whatis mx", r"^mx  builtins.module$"),
    ("whatis SimpleNN", r"^SimpleNN  a class  simple_nn.py:\d+$"),
    ("u", r"simple_nn.py:46 in loss_fn"),
    ("up", r"simple_nn.py:46 in loss_fn"),
    ("d", r"! this is the function that makes the op"),
    ("frame 1", r"! up and down move between the calls"),
    ("f", r"! up and down|nothing here is called f"),
    ("a", r"^self +SimpleNN\nx +\(1, 2\) float32"),
    ("args", r"^self +SimpleNN"),
    ("info args", r"^self +SimpleNN"),
    ("info locals", r"a1 +\(1, 3\) float32"),
    ("info frame", r"SimpleNN.__call__"),
    # Python and the session
    ("!x", r"\[\["),
    ("!q = 3", r"^$"),
    ("import os; p = os.sep; p", r"^'/'$"),
    ("q = x * 2; q[0]", r"^q\[0\] = \["),
    ("set var q = 3", r"^$"),
    ("call 1 + 2", r"^3$"),
    ("interact", r"! the prompt takes Python already"),
    ("retval", r"! what an op gave is p #12|nothing here is called retval"),
    ("alias px p x", r"^$"),
    ("history", r"5  history"),
    ("source nothing.nn", r"! cannot read nothing.nn: No such file or directory$"),
    ("source loss_fn", r"! cannot read loss_fn: .*; ll loss_fn shows the source of a function"),
    ("h", r"help all lists every command"),
    ("help all", r"forwards"),
    ("help b", r"^break"),
    ("? b", r"^break"),
    ("what if z1 were 0.3?", r"! change it and see: z1 = 0.3 at the prompt"),
    ("what if it was all zeros", r"! change it and see: it = all zeros"),
    ("what if", r"! change it and see: w = 0.3"),
    ("why is this gradient zero?", r"! why grad\(w\) == 0 tells"),
    ("why is loss nan", r"! why nan tells"),
    ("why does it fail", r"! help why lists"),
    ("what does this op do", r"! explain tells what the op ahead computes"),
    ("exp(1)", r"! nothing here is called exp; did you mean mx.exp\?"),
    ("kill", r"! quit ends the program"),
    ("record", r"! everything is recorded already"),
    ("layout src", r"! nnrepl --tui"),
    ("q", r"\(quits\)"),
    ("quit", r"\(quits\)"),
    ("exit", r"\(quits\)"),
    ("exit()", r"\(quits\)"),
]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
def test_line(session: OpenSession, line: str, expected: str) -> None:
    shown = screen(session, line)
    shown = "\n".join(part.rstrip() for part in shown.strip().splitlines())
    assert re.search(expected, shown, re.MULTILINE), shown
    assert "(two lines!)" not in shown


def test_after_the_first_line_people_type_the_second(session: OpenSession) -> None:
    assert "z1 = " in screen(session, "alias pz p z1", "pz")
    assert "∂L/∂z1 is not made yet" in screen(session, "alias pg p grad(%1)", "pg z1")
    assert screen(session, "display a1", "undisplay", "info display").startswith("Nothing is displayed")
    assert "SimpleNN.__call__" in screen(session, "up", "d")
    assert "target" in screen(session, "up", "info locals") or "y_true" in screen(session, "info locals")
    assert "! this is the outermost function" in screen(session, "up 99", "up")
    assert screen(session, "q1 = 5", "p q1 + 1").strip() == "q1 + 1 = 6"


def test_next_goes_to_lines_and_step_to_ops_in_both_directions(session: OpenSession) -> None:
    def walk(line: str, start: str, count: int) -> list[int]:
        screen(session, f"goto {start}")
        found = []
        for _ in range(count):
            screen(session, line)
            op = session.op
            found.append(0 if op is None else op.index)
        return found

    screen(session, "clear")
    assert walk("next", "#1", 5) == [3, 4, 6, 9, 12]  # lines 29, 30, 35; then back through 35 and 30
    assert walk("reverse-next", "#6", 1) == [1]  # to where the line that called began
    assert walk("reverse-next", "#5", 2) == [4, 3]  # first to where this line begins
    assert walk("reverse-next", "#14", 3) == [12, 9, 6]
    assert walk("step", "#1", 3) == [2, 3, 4]
    assert walk("finish", "#1", 1) == [6]
    assert "   39 " in screen(session, "goto #4", "list", "list")


def test_a_word_that_is_a_name_is_python_where_both_would_do(session: OpenSession) -> None:
    assert screen(session, "p = 5", "p -1").strip() == "4"
    assert screen(session, "p (2)").startswith("! ")
    assert "z1 = " in screen(session, "p z1")


def test_source_runs_a_file_across_motions(session: OpenSession, tmp_path: Path) -> None:
    file = tmp_path / "lines.nn"
    file.write_text("#! a comment\np z1\n\ncontinue\np 1 + 1\n")
    shown = screen(session, f"source {file}")
    assert shown.startswith("z1 = ")
    assert "breakpoint 1" in shown
    assert shown.rstrip().endswith("2")
