"""The table: every module of commands is in it; what is hidden works, listed nowhere; what is to go away says so."""

from __future__ import annotations

import ast
import re
from inspect import signature

import mlx.core as mx
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from rich.text import Text

import nnrepl
from nnrepl.commands import MODULES, load_all
from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.manuals import apropos_view, groups, help_view
from nnrepl.commands.table import ANYTHING, TABLE, Table, command
from nnrepl.session.errors import UserError
from nnrepl.shell.complete import NameCompleter, TapeIndex
from tests.support import ROOT, OpenSession
from tests.view.test_tensor import screen

load_all()


def test_every_module_with_a_command_is_loaded() -> None:
    """A module that nobody imports has no command, and nothing would say so."""
    entering = set()
    for path in (ROOT / "nnrepl/commands").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
            if any(isinstance(one, ast.Call) and ast.unparse(one.func) == "command" for one in decorators):
                entering.add(path.stem)
    missing = sorted(entering - set(MODULES))
    assert not missing, f"{', '.join(missing)}: not in nnrepl/commands/__init__.MODULES, which says in which order"
    assert entering == set(MODULES)


def test_every_command_takes_the_interpreter_and_a_line() -> None:
    """The table does not know the interpreter, so mypy does not hold its functions against it."""
    own = [one for one in TABLE.by_name.values() if one.run.__module__.startswith("nnrepl.")]
    taken = [tuple(parameter.annotation for parameter in signature(one.run).parameters.values()) for one in own]
    assert set(taken) == {("Interpreter", "str")}


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> OpenSession:
    """A session whose table has a hidden command and one that is to go away."""
    monkeypatch.setattr(TABLE, "commands", list(TABLE.commands))
    monkeypatch.setattr(TABLE, "by_name", dict(TABLE.by_name))

    @command("xyzzy", group="general", takes=ANYTHING, hidden=True)
    def xyzzy(it: Interpreter, text: str) -> Text:
        """Do what nobody is told of."""
        return Text(f"a hollow voice says {text}")

    @command("oldstep", "os", group="forwards", takes=ANYTHING, instead="step [n]")
    def oldstep(it: Interpreter, text: str) -> Text:
        """Do what step does."""
        return Text("stepped")

    return OpenSession(nnrepl.trace(lambda x: (x * 2).sum(), mx.ones((2,)), wrt=0))


def test_a_hidden_command_works_and_is_listed_nowhere(session: OpenSession) -> None:
    assert str(session.run("xyzzy plugh")) == "a hollow voice says plugh"
    table = session.interpreter.table
    assert isinstance(table, Table)
    listed = [name for found in groups(table).values() for one in found for name in one.names]
    assert not {"xyzzy", "oldstep", "os"} & {*listed, *table.names}
    assert "xyzzy" not in screen(help_view(table, "all"), 100)
    with pytest.raises(UserError):
        apropos_view(table, "nobody is told of")
    offered = {
        one.text
        for one in NameCompleter(session.interpreter, TapeIndex(session)).get_completions(
            Document("xy"), CompleteEvent()
        )
    }
    assert not offered
    with pytest.raises(UserError, match=r"nothing here is called xyzz$"):
        session.run("xyzz")
    assert "Do what nobody is told of." in screen(help_view(table, "xyzzy"), 100)


def test_a_command_that_is_to_go_away_says_what_to_type_instead(session: OpenSession) -> None:
    assert str(session.run("os 3")).splitlines() == ["(os is to go away; type instead: step [n])", "stepped"]
    assert str(session.run("os")) == "stepped", "once is enough"
    assert "It is to go away; type instead: step [n]" in screen(help_view(session.interpreter.table, "oldstep"), 100)


def test_a_command_that_is_the_name_of_a_tensor_too_says_so_and_of_what_is_none_yet_nothing_is_said() -> None:
    def loss(x: mx.array) -> mx.array:
        s = x * 2
        s = s + 1
        c = "text"
        return s.sum() if c else s

    session = OpenSession(nnrepl.trace(loss, mx.ones((2,)), wrt=0))
    assert "also" not in str(session.run("c"))
    session.run("goto #2")
    assert "(s is also a tensor: p s shows it)" in str(session.run("s"))


def test_what_a_transform_returns_is_called_as_it_was_made_and_prints_as_in_plain_python() -> None:
    def loss(x: mx.array) -> mx.array:
        step, each = mx.compile(loss), mx.vmap(loss)
        first, second = mx.split(x * 2, 2)
        return (first * second).sum() if step and each else x

    session = OpenSession(nnrepl.trace(loss, mx.ones((4,)), wrt=0))
    session.run("goto #3")
    for name, title in (("step", "compile"), ("each", "vmap")):
        assert re.fullmatch(rf"{name} = <mlx\.core\._gc_func object at 0x\w+>", str(session.run(f"p {name}")))
        said = " ".join(str(session.run(f"whatis {name}")).split())
        assert re.fullmatch(rf"{name} mx\.{title} of \w+\.loss test_table\.py:\d+", said)
    assert "result [1] of 2" in str(session.run("what second"))
    assert "result [" not in str(session.run("what #1"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("load example simple_nn", "there is no program here that another could take the place of"),
        ("load nothing.safetensors", "there is no file nothing.safetensors"),
        ("load", "no saved tape is being looked at"),
        ("learn 1", "there is no program here that a lesson's could take the place of"),
        ("reload", "there is no program here whose files nnrepl has read"),
        ("restart", "there is no program here that nnrepl could run again"),
        ("redraw", "nothing has been shown yet"),
        ("diff", "this is timeline 1, without edits"),
        ("diff 1 7", "there is no timeline 7; there is only timeline 1"),
        ("diff 1 1 1", "diff compares two timelines"),
        ("alias pg p grad(%1) | alias pg", "pg = p grad(%1)"),
        ("alias nothing", "there is no alias nothing; alias nothing LINE makes one"),
        ("alias", "There are no aliases"),
        ("display", "Nothing is displayed"),
        ("watch y.max() | condition 1 y.max() > 1", "watch 1 has no condition; only breakpoints have"),
        ("watch later.max()", "watch 1 later.max() It names nothing that is on the tape yet: kept pending."),
        ("watch 1 + 1", "1 + 1 names no tensor of the tape; display 1 + 1 shows it at every stop"),
        ("break #1 | condition 1 x.max() > 1 | info breakpoints", "breakpoint 1 #1, x.max() > 1 · one op"),
        ("break #1 | condition 1 x.max() > 1 | condition 1", "breakpoint 1 #1 · one op"),
        ("break #1 | break #2 | break #3 | delete 1-2 | info breakpoints", "breakpoint 3 #3 · one op"),
        (
            "break #1 | break #2 | disable 2-9 | info brea",
            "breakpoint 1 #1 · one op breakpoint 2 #2 · one op · disabled",
        ),
        ("enable 7", "there is no breakpoint, watch or catch 7; there are none"),
        ("up | up | up", "this is the outermost function"),
        ("down", "this is the function that makes the op; up leaves it"),
        ("stats 'a'", "'a' is no tensor but str"),
        ("stats nothing.*", "no tensor is called nothing.*"),
        ("goto end | into", "the cursor stands after the last op; name one"),
        ("into x", "x comes in from outside of this pass, and no op on the tape made it"),
        ("what f", "f builtins.function test_table.py:"),
        ("what y.max", "y.max nanobind.nb_bound_method"),
        ("info xx", "info knows breakpoints, watch"),
    ],
)
def test_what_a_line_is_answered_where_it_has_nothing_to_do(lines: str, said: str) -> None:
    def f(x: mx.array) -> mx.array:
        y = mx.exp(x)
        return (y * 2).sum()

    session = OpenSession(nnrepl.trace(lambda x: f(x), mx.array([1.0, 2.0]), wrt=0))
    session.run("goto multiply")
    try:
        for line in lines.split(" | "):
            answer = str(session.run(line))
    except UserError as error:
        answer = str(error)
    answer = " ".join(answer.split())
    assert answer == said if " one op" in said else answer.startswith(said)
