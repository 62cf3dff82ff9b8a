"""Every command is typed for its result: in a transcript that shows it, or in the test that is named here."""

from __future__ import annotations

import re

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.commands import load_all
from nnrepl.commands.table import EXPRESSION, PLACE, TABLE, Opens, command
from nnrepl.session.errors import Quit
from tests.shell.test_transcripts import TRANSCRIPTS
from tests.support import PROMPT, ROOT, OpenSession

ELSEWHERE = {
    "compare": "tests/session/test_reference.py",
    "edit": "tests/programs/test_load.py",
    "examples": "tests/programs/test_load.py",
    "export": "tests/shell/test_output.py",
    "learn": "tests/learn/test_lessons.py",
    "load": "tests/programs/test_load.py",
    "quit": "tests/commands/test_typed.py",
    "reload": "tests/programs/test_reload.py",
    "save": "tests/programs/test_saved.py",
    "source": "tests/shell/test_muscle_memory.py",
    "tui": "tests/shell/test_full_screen.py",
    "unalias": "tests/commands/test_typed.py",
    "undisplay": "tests/commands/test_typed.py",
}
"""What writes files, reads them, needs a terminal or a program that is changed, or has an effect and shows nothing."""
REFUSED = re.compile(r".*\b(no|not|nothing|cannot|needs|none)\b.*")
"""An answer of one line that says why there is no other."""
ASSIGNED = re.compile(r"\w+(\[.*\])? *[-+*/@]?=[^=]")


def test_every_command_is_typed_and_answered() -> None:
    load_all()
    answered: set[str] = set()
    for path in TRANSCRIPTS.glob("*.txt"):
        for line, _, shown in (step.partition("\n") for step in PROMPT.split(path.read_text(encoding="utf-8"))[1:]):
            # A transcript is compared to the letter: what it shows is held. `w = w.T` is no command, `tui` in a pipe
            # shows nothing of it.
            if shown.strip() and not REFUSED.fullmatch(shown.strip()) and not ASSIGNED.match(line):
                answered.update(line.split()[:1])
    never = {command.names[0] for command in TABLE.commands if not answered.intersection(command.names)}
    missing = sorted(never - ELSEWHERE.keys())
    assert not missing, f"{', '.join(missing)}: typed in no transcript (tests/transcripts/*.txt)"
    assert never == ELSEWHERE.keys()
    for name, file in ELSEWHERE.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"(\"|\\n){name}( |\")", text), f"{file} does not type {name}"


def test_a_command_that_takes_names_or_places_says_what_it_looks_at() -> None:
    """Of steps that ran natively it would know nothing: they would stay closed without a word."""
    for takes in (PLACE, EXPRESSION):
        with pytest.raises(TypeError, match=r"mine takes (places|names): say what it looks at"):
            command("mine", takes=takes, group="looking")
    assert "mine" not in TABLE
    whole = {one.names[0] for one in TABLE.commands if Opens.TAPE in one.opens}
    assert whole == {"check", "health", "last", "verify", "what", "why"}, (
        "those that look at all of the tape stand here"
    )


@pytest.fixture
def session() -> OpenSession:
    """A session at the start of a small call."""
    opened = OpenSession(nnrepl.trace(lambda x: ((x * 2) + 1).sum(), mx.ones((2,)), wrt=0))
    opened.run("goto start")
    return opened


def test_what_is_no_longer_displayed_is_not_shown(session: OpenSession) -> None:
    session.run("display x")
    session.run("display x + 1")
    assert str(session.run("step")).count("x + 1 = [2 2]") == 1
    session.run("undisplay 2")
    shown = str(session.run("step"))
    assert "x = [1 1]" in shown
    assert "x + 1" not in shown
    session.run("undisplay")
    assert "x = [1 1]" not in str(session.run("back"))
    with pytest.raises(nnrepl.UserError, match="display"):
        session.run("undisplay 7")


def test_what_is_no_alias_is_not_known(session: OpenSession) -> None:
    session.run("alias twice p %1 * 2")
    assert str(session.run("twice x")) == "x * 2 = [2 2]"
    session.run("unalias twice")
    with pytest.raises(nnrepl.UserError):
        session.run("twice x")
    with pytest.raises(nnrepl.UserError, match="twice"):
        session.run("unalias twice")


def test_quit_leaves(session: OpenSession) -> None:
    for line in ("quit", "q", "exit"):
        with pytest.raises(Quit):
            session.interpreter.run(line)


def test_which_of_two_variables_of_a_name_is_meant_is_said_once() -> None:
    """What is shown is the program's line; what makes the op is a function of the library that it calls."""
    layer = nn.Linear(2, 2)

    def called(x: mx.array) -> mx.array:
        y = x + 1
        return layer(y).sum()

    opened = OpenSession(nnrepl.trace(called, mx.ones((1, 2)), wrt=0))
    said = [
        " ".join(str(opened.run(line)).split())
        for line in ("goto add", "p x", "goto addmm", "p y", "p x", "p x", "up", "p x")
    ]
    hint = "(x is that of Linear.__call__, which makes this op; up leads to that of "
    assert [hint in one for one in said] == [False, False, False, False, True, False, False, False]
    assert "[[2 2]]" in said[4]
    assert "[[1 1]]" in said[-1]


class Narrow(nn.Linear):
    """Calls the method of its base."""


def its_loss(model: nn.Module, x: mx.array) -> mx.array:
    loss = nn.losses.mse_loss(model(x), x)
    return loss


def test_what_a_loss_in_mlx_calls_so_is_told_from_the_programs_own() -> None:
    """And `where` names the class of a module only where its method tells another; what is given a module has none."""

    opened = OpenSession(nnrepl.trace(its_loss, Narrow(2, 2), mx.ones((1, 2)), wrt=0))
    calls = re.findall(r" in (.*?) *$", str(opened.run("where")), re.MULTILINE)
    assert calls[-2:] == ["its_loss", "Linear.__call__  Narrow"]
    opened.run("goto mean")
    said = str(opened.run("explain loss")).partition("\n")[0]
    assert said == "(loss is that of _reduce, which makes this op; that of its_loss is not set yet)"


def test_parts_of_a_tuple_are_called_as_in_python(session: OpenSession) -> None:
    session.run("def pair(): return x, {'a': [x * 2, 3]}")
    assert re.findall(r"^(\S+) = ", str(session.run("p pair()")), re.MULTILINE) == [
        "pair()[0]", "pair()[1].a.0", "pair()[1].a.1",
    ]  # fmt: skip
    assert re.findall(r"^(\S+) = ", str(session.run("p [x, (x, 2)]")), re.MULTILINE) == ["[0]", "[1][0]", "[1][1]"]
