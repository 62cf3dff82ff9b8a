"""load, examples and edit at the prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnrepl.programs.examples import examples
from nnrepl.programs.loading import import_of, program_of
from nnrepl.programs.script import load_script
from tests.programs.reloading import HEAD, TAIL, Program, printed
from tests.programs.test_reload import LOOP, MENDED, METHOD, SCRIPT, from_step
from tests.support import EXAMPLES

ARGUMENTS = """\
import sys
import mlx.core as mx
print("said", sys.argv, __name__, sys.path[0])
a = mx.ones((2,)) * 3
print("said", (a + 1).tolist())
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    made = Program(tmp_path, monkeypatch, capfd)
    made.write(SCRIPT)
    return made


def test_load_starts_another_script_with_its_arguments(program: Program) -> None:
    program.write(ARGUMENTS, "other.py")
    shown = program.run("next pass 2", "load other.py --steps 20 'a b'", "step", "p a")
    folder = str(program.folder)
    assert f"said ['other.py', '--steps', '20', 'a b'] __main__ {folder}" in shown
    assert "said [4.0, 4.0]" in shown
    assert "a is not" in shown or "lies ahead" in shown or "not made yet" in shown


def test_what_was_typed_at_the_end_of_a_program_is_no_part_of_the_next(program: Program) -> None:
    program.write(ARGUMENTS, "other.py")
    shown = program.run("continue", "print('typed')", "load other.py", "continue", "restart", "continue")
    assert shown.count("\ntyped") == 1, shown


def test_load_starts_a_module(program: Program) -> None:
    (program.folder / "pack").mkdir()
    program.write("", "pack/__init__.py")
    program.write(ARGUMENTS, "pack/run.py")
    shown = program.run("load -m pack.run 3", "continue")
    assert f"said ['{program.folder / 'pack' / 'run.py'}', '3'] __main__" in shown


def test_what_is_loaded_is_the_same_program_as_from_the_command_line(program: Program) -> None:
    program.write(SCRIPT.replace("seed(3)", "seed(4)"), "other.py")
    shown = program.run("next pass 4", "load other.py", "continue", "restart", "continue")
    twin = program.twin(SCRIPT.replace("seed(3)", "seed(4)"))
    assert printed(shown)[2:] == [*twin, *twin]


def test_reload_knows_what_was_loaded(program: Program) -> None:
    program.write(SCRIPT, "other.py")
    lines = ("load other.py", "next pass 4", program.mend(SCRIPT.replace(*METHOD), "other.py"), "reload", "continue")
    assert printed(program.run(*lines)) == program.twin(from_step(2, "Net.__call__ = mended"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("load nothing.py", "there is no file nothing.py"),
        ("load broken.py", "broken.py, line 1: "),
        ("load -m nothing.at_all", "cannot run module nothing.at_all: "),
        ("load example", "load example needs a name; examples lists them"),
        ("load example transfomer", "there is no example transfomer; did you mean transformer?"),
        ("load 'open", "load takes a file and its arguments as a shell does"),
        ("load run", "there is no file run.safetensors"),
        ("load", "no saved tape is being looked at; load FILE opens one"),
    ],
)
def test_what_cannot_be_loaded_loses_nothing(program: Program, line: str, said: str) -> None:
    program.write("def (", "broken.py")
    shown = program.run("next pass 4", line, "continue")
    assert said in shown
    assert printed(shown) == program.twin(SCRIPT)


def test_what_lies_here_under_the_name_example_goes_before_those_that_come_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = program_of("example transformer")
    assert there is not None
    assert there.title == "example transformer"
    (tmp_path / "example").mkdir()
    (tmp_path / "example" / "__main__.py").write_text("")
    mine = program_of("example transformer")
    assert mine is not None
    assert mine.title != "example transformer"


def test_every_example_is_listed_on_one_line(program: Program) -> None:
    shown = program.run("examples").splitlines()
    programs = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/*.py")]
    assert len(shown) == sum(not file.stem.endswith("_sound") for file in programs) + 1
    assert any(line.startswith("broken/nan_log ") for line in shown)
    assert all(found.summary for found in examples())


def test_an_example_is_loaded_by_its_bare_name(program: Program) -> None:
    shown = program.run("load example nan_log_sound", "continue", "p loss")
    assert "example broken/nan_log_sound: running to its first op" in shown
    assert "loss = " in shown


def test_edit_opens_the_editor_at_the_line_and_reloads(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = program.folder / "vi"
    editor.write_text('#!/bin/sh\necho said "$@"\nsed -i \'s/mx.tanh(self.a(x))/mx.sin(self.a(x) + 1)/\' "$2"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    shown = program.run("next pass 4", "edit", "continue")
    lines = printed(shown)
    assert f"said +15 {program.path}" in lines
    lines.remove(f"said +15 {program.path}")
    assert lines == program.twin(from_step(2, "Net.__call__ = mended", HEAD + LOOP + TAIL, MENDED))


@pytest.mark.parametrize(
    ("editor", "said"),
    [
        ("", "edit needs an editor: set EDITOR"),
        ("no-such-editor", "cannot run no-such-editor"),
        ("false", "the editor ended with status 1; nothing was reloaded"),
        ("true", "nothing has changed in the program's files"),
    ],
)
def test_edit_without_an_editor(program: Program, monkeypatch: pytest.MonkeyPatch, editor: str, said: str) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    shown = program.run("next pass 4", "edit", "continue")
    assert said in shown
    assert printed(shown) == program.twin(SCRIPT)


MODEL = '''"""A model."""
from dataclasses import dataclass, field
import mlx.nn as nn

WIDTH: int = 3
big, _small = 4, 5

@dataclass
class Args:
    width: int = field(default=WIDTH)

class Net(nn.Module):
    def __call__(self, x):
        return x * 2

args = Args()
'''


def test_a_file_that_only_defines_adds_its_names(program: Program) -> None:
    (program.folder / "lib").mkdir()
    program.write(MODEL, "lib/model.py")
    count = (
        "print('said', len([name for name in globals() if name in ('Net', 'WIDTH', 'big', 'Args', 'args', '_small')]))"
    )
    more = ("said = print('said', WIDTH, big, kept.sum().item(), (Net()(kept) - 1).tolist())", "reverse-step")
    shown = program.run(
        "continue", "kept = mx.ones(2)", "load lib/model.py", *more, "undo", count, "undo", "undo", count
    )
    assert "from model import WIDTH, big, Args, Net, args\n" in shown
    back = [line for line in shown.splitlines() if " taken back: " in line]
    assert [line.partition(": ")[0] for line in back] == [f"prompt {number} is taken back" for number in (3, 4, 2)]
    assert more[0] in back[0]
    assert printed(shown) == [*program.twin(SCRIPT), "said 3 4 2.0 [1.0, 1.0]", "said 5", "said 1"]


def test_a_file_is_not_taken_for_another_of_its_name(program: Program) -> None:
    program.write(MODEL, "json.py")
    shown = program.run_here("continue", "load json.py", "1 + 1")
    assert "there is another module json already, " in shown
    assert "rename json.py" in shown


DOES = [
    "print('said')",
    "x = mx.ones(2)",
    "for i in range(2): pass",
    "if True: y = 1",
    "w = f()",
    "from mlx import x; x()",
]


@pytest.mark.parametrize(
    ("name", "text", "arguments", "line"),
    [
        ("sheet.py", "", [], "from sheet import Net, f, n"),
        ("sheet.py", "", ["2"], ""),
        ("my-sheet.py", "", [], ""),
        *[("sheet.py", text, [], "") for text in DOES],
    ],
)
def test_a_file_that_does_something_is_a_program(
    tmp_path: Path, name: str, text: str, arguments: list[str], line: str
) -> None:
    """And so is one whose name no import could have, and one with arguments."""
    begin = "import mlx.core as mx\nimport mlx.nn as nn\nclass Net(nn.Module): pass\ndef f(): pass\nn = Net()\n"
    (tmp_path / name).write_text(begin + text)
    assert import_of(load_script(str(tmp_path / name), arguments)).rpartition("\n")[2] == line


@pytest.mark.parametrize("text", ["", "import mlx.core as mx\n"])
def test_a_file_without_names_of_its_own_has_nothing_to_import(tmp_path: Path, text: str) -> None:
    (tmp_path / "bare.py").write_text(text)
    assert import_of(load_script(str(tmp_path / "bare.py"), [])) == ""


def test_a_file_of_a_package_is_loaded_by_its_path_or_as_a_module(program: Program) -> None:
    (program.folder / "lib" / "pack").mkdir(parents=True)
    program.write("", "lib/pack/__init__.py")
    program.write("def double(x):\n    return x * 2\n", "lib/pack/base.py")
    program.write(
        "from .base import double\nclass Net:\n    def __call__(self, x):\n        return double(x)\n",
        "lib/pack/net.py",
    )
    said = "print('said', Net()(mx.ones(2)).tolist(), __name__)"
    shown = program.run("continue", "load lib/pack/net.py", said)
    assert "from pack.net import Net\n" in shown
    assert printed(shown)[-1] == "said [2.0, 2.0] __main__"
    shown = program.run(said, program=("lib/pack/net.py",))
    assert printed(shown) == ["said [2.0, 2.0] __main__"]
