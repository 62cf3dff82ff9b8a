# ruff: noqa: E501  (the programs are tables of replaced lines)
"""Reload: what follows is what a plain program computes that has the mended line from that step on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnrepl.programs.kept import Kept
from nnrepl.programs.reload import Reloader
from nnrepl.record.names import ProgramNames
from nnrepl.session.session import TapeSession
from nnrepl.shell.shell import Shell
from tests.programs.reloading import HEAD, TAIL, Program, printed

LOOP = """\
step = nn.value_and_grad(model, loss_fn)
for i in range(5):
    loss, grads = step(model, x, y)
    opt.update(model, grads)
    print("loss", i, loss.item())
"""
SCRIPT = HEAD + LOOP + TAIL
METHOD = ("mx.tanh(self.a(x))", "mx.sin(self.a(x) + 1)")
MENDED = "def mended(self, x):\n    return self.b(mx.sin(self.a(x) + 1))\nmodel = Net()"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    return Program(tmp_path, monkeypatch, capfd)


def from_step(step: int, statement: str, script: str = SCRIPT, made: str = MENDED) -> str:
    """The twin: a script in which a statement runs at the entry of a step."""
    script = script.replace("model = Net()", made)
    return script.replace("    loss, grads", f"    if i == {step}:\n        {statement}\n    loss, grads")


MAIN = (
    HEAD.replace("model = Net()", "def main():\n    model = Net()")
    .replace("\nopt =", "\n    opt =")
    .replace("\nx, y", "\n    x, y")
    + "".join(f"    {line}\n" for line in (LOOP + TAIL).splitlines())
    + "main()\n"
)

CLOSURE = MAIN.replace(
    "    step = ",
    "    def loss_fn(model, x, y):\n        return mx.mean((model(x) - y) ** 2) * scale\n    scale = 2.0\n    step = ",
)

DECORATED = SCRIPT.replace("def loss_fn", "def traced(f):\n    return lambda *a: f(*a)\n\n\n@traced\ndef loss_fn")

KINDS = (
    HEAD.replace(
        "    def __call__",
        """\
    @staticmethod
    def bend(x, by=1.0):
        return x * by

    @classmethod
    def shift(cls, x):
        return x

    @property
    def scale(self):
        return 1.0

    def __call__""",
    ).replace("mx.tanh(self.a(x))", "self.shift(self.bend(mx.tanh(self.a(x)))) * self.scale")
    + LOOP
    + TAIL
)

OVERRIDE = (
    SCRIPT.replace(
        "class Net(nn.Module)",
        "class Base(nn.Module):\n    def bend(self, x):\n        return x * 2\n\n\nclass Net(Base)",
    )
    .replace("mx.tanh(self.a(x))", "self.bend(self.a(x))")
    .replace("    def __call__", "    def bend(self, x):\n        return x\n\n    def __call__")
)

COMPILED = (
    HEAD
    + """\
from functools import partial
state = [model.state, opt.state]
@partial(mx.compile, inputs=state, outputs=state)
def step(x, y):
    loss, grads = nn.value_and_grad(model, loss_fn)(model, x, y)
    opt.update(model, grads)
    return loss
for i in range(5):
    loss, grads = step(x, y), None
    mx.eval(state)
    print("loss", i, loss.item())
    said = mx.abs(loss)
"""
    + TAIL
)


@dataclass(frozen=True)
class Case:
    """A script, where it is stopped, what is mended in it, and the twin."""

    script: str
    stop: tuple[str, ...]
    mend: tuple[tuple[str, str], ...]
    twin: str
    said: str = "timeline 2: reload: "

    @property
    def mended(self) -> str:
        text = self.script
        for old, new in self.mend:
            assert old in text
            text = text.replace(old, new)
        return text


LOSS = ("return mx.mean((model(x) - y) ** 2)", "return mx.mean(mx.abs(model(x) - y))")
NEW_LOSS = "def mended(model, x, y):\n    return mx.mean(mx.abs(model(x) - y))\nmodel = Net()"
CASES = {
    "method": Case(SCRIPT, ("next pass 4",), (METHOD,), from_step(2, "Net.__call__ = mended")),
    "method, from the end of a pass": Case(
        SCRIPT, ("next pass 4", "goto loss", "step"), (METHOD,), from_step(2, "Net.__call__ = mended")
    ),
    "method, from the past": Case(
        SCRIPT, ("continue", "goto pass 3"), (METHOD,), from_step(1, "Net.__call__ = mended")
    ),
    "method, from the update": Case(
        SCRIPT, ("next pass 3",), (METHOD,), from_step(2, "Net.__call__ = mended")
    ),
    "function": Case(
        SCRIPT, ("next pass 4",), (LOSS,), from_step(2, "step = nn.value_and_grad(model, mended)", made=NEW_LOSS)
    ),
    "in main": Case(
        MAIN, ("next pass 4",), (METHOD,), MAIN.replace("\ndef main", "\n" + MENDED.partition("model =")[0] + "def main")
        .replace("        loss, grads", "        if i == 2:\n            Net.__call__ = mended\n        loss, grads")
    ),
    "main itself": Case(
        MAIN, ("next pass 4",), (("optim.Adam(0.1)", "optim.Adam(0.2)"),), MAIN.replace("optim.Adam(0.1)", "optim.Adam(0.2)"),
        "runs again from its start",
    ),
    "closure": Case(
        CLOSURE, ("next pass 4",), (("** 2) * scale", "** 2) + scale"),),
        CLOSURE.replace("        loss, grads", """\
        if i == 2:
            def loss_fn(model, x, y):
                return mx.mean((model(x) - y) ** 2) + scale
            step = nn.value_and_grad(model, loss_fn)
        loss, grads"""),
    ),
    "closure with another variable": Case(
        CLOSURE, ("next pass 4",), (("** 2) * scale", "** 2) * scale + opt.step"),),
        CLOSURE.replace("** 2) * scale", "** 2) * scale + opt.step"), "runs again from its start",
    ),
    "decorated": Case(
        DECORATED, ("next pass 4",), (LOSS,), from_step(2, "step = nn.value_and_grad(model, mended)", made=NEW_LOSS)
    ),
    "kinds of methods": Case(
        KINDS, ("next pass 4",),
        (("return x * by", "return x * by + 1"), ("        return x\n", "        return x * 2\n"), ("return 1.0", "return 3.0")),
        from_step(2, "Net.__call__ = mended", KINDS, """\
def mended(self, x):
    return self.b(((mx.tanh(self.a(x))) * 1.0 + 1) * 2 * 3.0)
model = Net()"""),
    ),
    "default of a method": Case(
        KINDS, ("next pass 4",), (("by=1.0", "by=0.5"),),
        from_step(2, "Net.bend = staticmethod(lambda x: x * 0.5)", KINDS),
    ),
    "new helpers": Case(
        SCRIPT, ("next pass 4",),
        (
            ("mx.tanh(self.a(x))", "bent(self.mid(x))"),
            ("    def __call__", "    def mid(self, x):\n        return self.a(x) + OFFSET\n\n    def __call__"),
            ("class Net", "import math as maths\nOFFSET = 1.0\n\n\ndef bent(x):\n    return mx.sin(x * maths.e)\n\n\nclass Net"),
        ),
        from_step(2, "Net.__call__ = mended", made=MENDED.replace("self.a(x) + 1", "(self.a(x) + 1.0) * 2.718281828459045")),
    ),
    "super()": Case(
        SCRIPT.replace("class Net(nn.Module)", "class Base(nn.Module):\n    def bend(self, x):\n        return x * 2\n\n\nclass Net(Base)"),
        ("next pass 4",), (("mx.tanh(self.a(x))", "super().bend(self.a(x))"),),
        from_step(2, "Net.__call__ = mended", made=MENDED.replace("mx.sin(self.a(x) + 1)", "self.a(x) * 2")),
    ),
    "an override goes": Case(
        OVERRIDE, ("next pass 4",), (("    def bend(self, x):\n        return x\n\n    def __call__", "    def __call__"),),
        from_step(2, "Net.__call__ = mended", OVERRIDE, MENDED.replace("mx.sin(self.a(x) + 1)", "self.a(x) * 2")),
    ),
    "compiled": Case(
        COMPILED, ("continue", "goto pass 6"), (METHOD,),
        from_step(2, "Net.__call__ = mended; step = partial(mx.compile, inputs=state, outputs=state)(plain)", COMPILED)
        .replace("@partial(mx", "def plain(x, y):\n    loss, grads = nn.value_and_grad(model, loss_fn)(model, x, y)\n"
                 "    opt.update(model, grads)\n    return loss\n@partial(mx"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_numbers_are_those_of_the_twin(program: Program, case: Case) -> None:
    program.write(case.script)
    shown = program.run(*case.stop, program.mend(case.mended), "reload", "continue")
    _, _, after = shown.partition("timeline 2: ")
    twin = program.twin(case.twin)
    lines = printed(after)
    assert "END a.weight" in after, shown
    assert any(line.startswith("loss ") for line in lines), shown
    assert lines == twin[-len(lines) :], shown
    assert case.said in shown


def mended(script: str = SCRIPT) -> str:
    return script.replace(*METHOD)


def test_undo_gives_the_old_code_back_and_redo_the_new(program: Program) -> None:
    program.write(SCRIPT)
    shown = program.run("next pass 4", program.mend(mended()), "reload", "undo", "continue")
    assert printed(shown) == program.twin(SCRIPT)
    program.write(SCRIPT)
    shown = program.run("next pass 4", program.mend(mended()), "reload", "undo", "redo", "continue")
    assert printed(shown) == program.twin(from_step(2, "Net.__call__ = mended"))


def test_each_timeline_runs_on_with_its_own_code(program: Program) -> None:
    program.write(SCRIPT)
    lines = ("next pass 4", program.mend(mended()), "reload", "next pass 2", "timeline 1", "next pass 2", "timeline 2")
    shown = program.run(*lines, "continue")
    with_it, without = program.twin(from_step(2, "Net.__call__ = mended")), program.twin(SCRIPT)
    assert printed(shown) == [*with_it[:3], without[2], *with_it[3:]]


def test_a_reload_after_undo_is_taken_again(program: Program) -> None:
    program.write(SCRIPT)
    shown = program.run("next pass 4", program.mend(mended()), "reload", "undo", "reload", "continue")
    assert printed(shown) == program.twin(from_step(2, "Net.__call__ = mended"))
    assert "timeline 3: reload: Net.__call__" in shown


def test_a_change_taken_back_in_the_editor_gives_the_old_numbers(program: Program) -> None:
    program.write(SCRIPT)
    shown = program.run(
        "next pass 4", program.mend(mended()), "reload", program.mend(SCRIPT, "train.py"), "reload", "c"
    )
    assert printed(shown) == program.twin(SCRIPT)
    assert "timeline 3: reload: Net.__call__" in shown


def test_edits_behind_and_before_a_reload(program: Program) -> None:
    program.write(SCRIPT)
    scaled = "        grads['a']['weight'] = grads['a']['weight'] * 2\n    opt.update"
    lines = ("next pass 4", program.mend(mended()), "reload")
    shown = program.run(
        *lines, "next pass 2", "next pass 1", "rn pass", "model.a.weight = model.a.weight * 2", "continue"
    )
    twin = from_step(2, "Net.__call__ = mended").replace(
        "    loss, grads", "    if i == 3:\n        model.a.weight = model.a.weight * 2\n    loss, grads"
    )
    del scaled
    assert printed(shown)[-5:] == program.twin(twin)[-5:], shown
    program.write(SCRIPT)
    shown = program.run(*lines, "goto pass 3", "model.a.weight = model.a.weight * 2", "continue")
    twin = SCRIPT.replace(
        "    loss, grads", "    if i == 1:\n        model.a.weight = model.a.weight * 2\n    loss, grads"
    )
    assert printed(shown)[-5:] == program.twin(twin)[-5:], shown
    assert "reload: Net.__call__ lay further on and is not made again here" in shown


def test_what_does_not_parse_changes_nothing(program: Program) -> None:
    program.write(SCRIPT)
    shown = program.run("next pass 4", program.mend(SCRIPT + "def broken(:\n"), "reload", "continue")
    assert "train.py:34 does not parse: invalid syntax; nothing has changed" in shown
    assert printed(shown) == program.twin(SCRIPT)


def test_a_file_that_is_gone_changes_nothing(program: Program) -> None:
    program.write(SCRIPT)
    shown = program.run("next pass 4", "import os; os.remove('train.py')", "reload", "continue")
    assert "train.py is gone; nothing has changed" in shown
    assert printed(shown) == program.twin(SCRIPT)


def test_comments_and_layout_are_no_change_and_the_source_shown_is_what_runs(program: Program) -> None:
    program.write(SCRIPT)
    moved = "# a comment\n\n" + SCRIPT.replace("mx.tanh(self.a(x))", "mx.tanh( self.a(x) )")
    shown = program.run("next pass 4", "finish", program.mend(moved), "reload", "list all", "continue")
    assert "nothing has changed in the program's files but comments and layout" in shown
    assert "        return self.b(mx.tanh(self.a(x)))" in shown, shown
    assert "# a comment" not in shown
    assert printed(shown) == program.twin(SCRIPT)


def test_the_module_level_is_rude(program: Program) -> None:
    program.write(SCRIPT)
    other = SCRIPT.replace("optim.Adam(0.1)", "optim.Adam(0.3)")
    shown = program.run("next pass 4", program.mend(mended(other)), "reload", "timelines", "continue")
    assert "not taken over: train.py:23: opt = optim.Adam(0.3) (module level); reload all does" in shown
    assert printed(shown) == program.twin(from_step(2, "Net.__call__ = mended"))
    program.write(SCRIPT)
    shown = program.run("next pass 4", program.mend(mended(other)), "reload all", "continue")
    assert printed(shown)[2:] == program.twin(mended(other)), shown
    program.write(SCRIPT)
    shown = program.run("next pass 4", program.mend(mended(other)), "reload", "reload", "reload all", "continue")
    assert printed(shown)[2:] == program.twin(mended(other)), shown


def test_a_rude_change_alone_is_said_and_not_taken(program: Program) -> None:
    program.write(SCRIPT)
    other = SCRIPT.replace("optim.Adam(0.1)", "optim.Adam(0.3)")
    shown = program.run("next pass 4", program.mend(other), "reload", "timelines", "continue")
    assert "not taken over: train.py:23: opt = optim.Adam(0.3) (module level); reload all does" in shown
    assert "timeline 2" not in shown
    assert program.status == 1
    assert printed(shown) == program.twin(SCRIPT)


def test_a_constructor_whose_objects_live_is_rude(program: Program) -> None:
    program.write(SCRIPT)
    other = SCRIPT.replace("nn.Linear(4, 1)", "nn.Linear(4, 1, bias=False)")
    shown = program.run("next pass 4", program.mend(other), "reload", "continue")
    assert "train.py:9: Net.__init__ is a constructor; 1 Net lives, and keeps what it has" in shown
    assert printed(shown) == program.twin(SCRIPT)


def test_a_function_in_use_that_is_gone_stays(program: Program) -> None:
    program.write(SCRIPT)
    gone = SCRIPT.replace("def loss_fn", "def other")
    shown = program.run("next pass 4", program.mend(gone), "reload", "continue")
    assert "not taken over: loss_fn is gone from the source, and stays as it was; reload all does" in shown
    assert printed(shown) == program.twin(SCRIPT)


def test_definitions_that_lie_ahead_are_made_of_the_new_source(program: Program) -> None:
    script = SCRIPT.replace("\nclass Net", "\nfirst = mx.ones((2,)) * 2\nsecond = first + 1\n\n\nclass Net")
    program.write(script)
    shown = program.run("goto second", "where", program.mend(mended(script)), "reload", "continue")
    assert printed(shown) == program.twin(mended(script))
    assert "timeline 2" in shown


def test_a_module_of_the_program(program: Program) -> None:
    head, _, rest = HEAD.partition("\n\nmodel = Net()")
    program.write(head.replace("mx.random.seed(3)\n", ""), "net.py")
    script = "from net import *\nfrom net import Net, loss_fn\nmx.random.seed(3)\nmodel = Net()" + rest + LOOP + TAIL
    program.write(script)
    plain = program.twin(script)
    new = (program.folder / "net.py").read_text().replace(*METHOD)
    twin = from_step(2, "Net.__call__ = mended", script)
    expected = program.twin(twin)
    for lines in (("next pass 4",), ("continue", "goto pass 5")):
        program.write(head.replace("mx.random.seed(3)\n", ""), "net.py")
        shown = program.run(*lines, program.mend(new, "net.py"), "reload", "continue")
        assert printed(shown)[-5:] == expected[-5:], shown
    assert plain[-5:] != expected[-5:]
    program.write(head.replace("mx.random.seed(3)\n", ""), "net.py")
    shown = program.run("continue", "goto pass 5", program.mend(new, "net.py"), "x = x * 1", "continue")
    assert printed(shown)[-5:] == plain[-5:], "what runs again imports the source that it had"


def test_after_an_exception_the_mended_program_goes_on_from_the_failed_call(program: Program) -> None:
    failing = SCRIPT.replace("mx.tanh(self.a(x))", "mx.tanh(self.a(x)) @ x")
    program.write(failing)
    shown = program.run("continue", program.mend(mended()), "reload", "continue")
    assert printed(shown) == program.twin(mended()), shown


FAILURES = {
    "an op": ("mx.tanh(self.a(x))", "mx.tanh(self.a(x)) @ x"),
    "python, after an op": ("mx.tanh(self.a(x))", "mx.tanh(self.a(x)) + int('x')"),
    "python, before any op": ("        return self.b", "        int('x')\n        return self.b"),
}


@pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("loop", [LOOP, "first = x * 2 + 1\nprint('said', model(first).tolist())\n" + LOOP])
def test_whatever_failed_the_mended_program_goes_on_from_the_failed_call(
    program: Program, failing: tuple[str, str], loop: str
) -> None:
    script = HEAD + loop + TAIL
    program.write(script.replace(*failing))
    shown = program.run("continue", program.mend(script), "reload", "continue")
    assert printed(shown) == program.twin(script), shown


def test_a_failure_in_the_third_step_goes_on_from_there(program: Program) -> None:
    script = SCRIPT.replace("return mx.mean", "opt.step.item() < 2 or int('x')\n    return mx.mean")
    program.write(script)
    shown = program.run("continue", program.mend(mended()), "reload", "continue")
    assert printed(shown) == program.twin(from_step(2, "Net.__call__ = mended")), shown


def test_restart_reads_the_files_anew(program: Program) -> None:
    program.write(SCRIPT)
    shown = program.run("next pass 2", program.mend(mended()), "restart", "continue")
    assert printed(shown)[-len(program.twin(mended())) :] == program.twin(mended())
    program.write(SCRIPT)
    shown = program.run("next pass 2", program.mend("def ("), "restart", "continue")
    assert "train.py:1 does not parse" in shown
    assert printed(shown) == program.twin(SCRIPT)


def notebook(*cells: str) -> str:
    code = [
        {"cell_type": "code", "metadata": {}, "source": cell, "outputs": [], "execution_count": None} for cell in cells
    ]
    return json.dumps({"cells": code, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


def test_the_cells_of_a_notebook(program: Program) -> None:
    pytest.importorskip("nbformat")
    new = HEAD.replace(*METHOD)
    program.write(notebook(HEAD, LOOP, TAIL), "lesson.ipynb")
    mend = program.mend(notebook(new, LOOP, TAIL), "lesson.ipynb")
    shown = program.run("next pass 4", mend, "reload", "continue", program=("lesson.ipynb",))
    assert printed(shown) == program.twin(from_step(2, "Net.__call__ = mended")), shown
    mend = program.mend(notebook(new, "1", LOOP, TAIL), "lesson.ipynb")
    program.write(notebook(HEAD, LOOP, TAIL), "lesson.ipynb")
    shown = program.run("next pass 4", mend, "reload", "continue", program=("lesson.ipynb",))
    assert "lesson.ipynb has 4 cells now and had 3; load lesson.ipynb begins anew" in shown
    assert printed(shown) == program.twin(SCRIPT)


@pytest.mark.parametrize("agreed", [True, False])
def test_on_a_terminal_one_is_asked_what_is_rude(
    program: Program, monkeypatch: pytest.MonkeyPatch, agreed: bool
) -> None:
    asked: list[str] = []

    def confirm(self: Shell, question: str, otherwise: bool = False) -> bool:
        asked.append(question)
        return agreed

    monkeypatch.setattr(Shell, "confirm", confirm)
    other = mended(SCRIPT.replace("optim.Adam(0.1)", "optim.Adam(0.3)"))
    program.write(SCRIPT)
    shown = program.run_here("next pass 4", program.mend(other), "reload", "continue")
    expected = program.twin(other if agreed else from_step(2, "Net.__call__ = mended"))
    assert printed(shown)[-len(expected) :] == expected
    assert len(asked) == 1
    assert "train.py:23: opt = optim.Adam(0.3) (module level)" in asked[0]
    assert "ops so far stay as timeline 1" in asked[0]


def test_old_ops_are_shown_as_they_were_written(program: Program) -> None:
    program.write(SCRIPT)
    lines = (
        "next pass 4",
        program.mend("# moved\n" + mended()),
        "reload",
        "goto sin",
        "list all",
        "undo",
        "goto tanh",
    )
    shown = program.run(*lines, "list all")
    _, new, old = shown.split("class Net(nn.Module):")
    assert "mx.sin(self.a(x) + 1)" in new
    assert "mx.tanh(self.a(x))" not in new.partition("timeline 1")[0]
    assert "mx.tanh(self.a(x))" in old


def test_a_file_that_changes_is_noticed_once(program: Program) -> None:
    program.write(SCRIPT)
    kept = Kept()
    kept.keep(str(program.path), SCRIPT)
    names = ProgramNames()
    files, session = Reloader(kept), TapeSession(names.tape, names)
    assert files.notice(session) == ""
    program.write(SCRIPT)
    assert files.notice(session) == ""
    program.write(mended())
    said = "train.py has changed on disk; the program runs what it read, reload takes the change in"
    assert files.notice(session) == said
    assert files.notice(session) == ""
    program.path.unlink()
    assert files.notice(session) == ""


def test_a_saved_tape_knows_that_its_program_was_reloaded(program: Program) -> None:
    program.write(SCRIPT)
    shown = program.run(
        "next pass 4", program.mend(mended()), "reload", "save run", "load run", "timelines", "goto sin"
    )
    assert "▶ └ 2  reload: Net.__call__  before " in shown
    assert "mx.sin(self.a(x) + 1)" in shown


def test_a_function_that_is_decorated_anew_is_followed_by_the_names_that_it_has(program: Program) -> None:
    script = SCRIPT.replace("step = nn", "step = lambda *given: nn.value_and_grad(model, loss_fn)(*given)\nunused = nn")
    script = script.replace("def loss_fn", "def doubled(f):\n    return lambda *a: f(*a) * 2\n\n\ndef loss_fn")
    program.write(script)
    after = script.replace("def loss_fn", "@doubled\ndef loss_fn")
    after = after.replace("    return lambda *a: f(*a) * 2", "    by = 2\n    return lambda *a: f(*a) * by")
    shown = program.run("next pass 4", program.mend(after), "reload", "continue")
    twin = script.replace("    loss, grads", "    if i == 3:\n        loss_fn = doubled(loss_fn)\n    loss, grads")
    assert printed(shown)[3:] == program.twin(twin)[3:], shown
    assert "doubled" in shown
    assert "<lambda>" not in shown, "what is in a function that is named goes without saying"
