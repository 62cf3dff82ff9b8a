"""The table: every module of commands is in it; what is hidden works, listed nowhere; what is to go away says so."""

from __future__ import annotations

import ast
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
