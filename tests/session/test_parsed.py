"""A line of the prompt is read once, and everything that its syntax tells is told by what was read."""

from __future__ import annotations

import ast
import contextlib

import mlx.core as mx
import mlx.nn as nn
import pytest
from rich.console import Console

import nnrepl
from nnrepl.session.enclosing import RESULT, enclosed
from nnrepl.session.parsed import parse
from nnrepl.session.typed import on_tape
from tests.support import OpenSession


def loss_fn(x: mx.array) -> mx.array:
    z1 = x * 2
    a1 = mx.maximum(z1, 0)
    return mx.mean(a1)


@pytest.fixture
def session() -> OpenSession:
    found = OpenSession(nnrepl.trace(loss_fn, mx.array([1.0, -2.0, 3.0]), wrt=0))
    found.run("goto a1")
    return found


@pytest.mark.parametrize(
    ("line", "times"),
    [("z1 + 1", 1), ("z1[0] = 5", 1), ("z1 = z1 * 2", 1), ("#1 * 2", 1), ("y = 3", 1), ("p z1", 2), ("goto mean", 2)],
)
def test_a_line_is_read_once_and_what_follows_a_command_once(
    session: OpenSession, line: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = ast.parse

    def counted(source: str, *args: object, **named: object) -> ast.AST:
        indexed = source.endswith("\n")  # the text of an edit, as a file of source like any other
        if source.strip() and not indexed and source.strip()[:2] in line.replace("#", "_"):
            read.append(source)
        return plain(source, *args, **named)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(ast, "parse", counted)
    session.run(line)
    assert len(read) == times, read


def test_a_line_that_does_not_parse_holds_no_frame() -> None:
    """Its error is kept with it; by a traceback it would hold all that waits, the program's tensors too."""
    line = parse("goto step 3")
    with pytest.raises(SyntaxError):
        line.only()
    assert line.error is not None
    assert line.error.__traceback__ is None


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("layers.0.weight + model.x[0]", ["layers.0.weight", "model.x"]),
        ("#12.1 * z1@4", ["#12.1", "z1@4"]),
        ("∂L/∂z1.sum() if a else 'z2'", ["a", "∂L/∂z1.sum"]),
        ("f(x=y).z", ["f", "y"]),
        ("x  # and #12", ["x"]),
        ("w[0].a = b.c", ["w", "b.c"]),
    ],
)
def test_the_names_that_are_read_in_a_text(text: str, mentions: list[str]) -> None:
    assert sorted(found.path for found in parse(text).mentions) == sorted(mentions)


@pytest.mark.parametrize(
    ("text", "target", "value"),
    [
        ("grad(a1) = grad(a1) * 2", "grad(a1)", "grad(a1) * 2"),
        ("layers.0.weight[1] *= é", "layers.0.weight[1]", "é"),
        ("z1 = (z1 *\n      2)", "z1", "z1 *\n      2"),
        ("∂L/∂z1 = [1,\n 2]", "∂L/∂z1", "[1,\n 2]"),
    ],
)
def test_both_sides_of_an_assignment_have_their_own_text(text: str, target: str, value: str) -> None:
    change = parse(text).assignment
    assert change is not None
    assert (change.target.text, change.value.text) == (target, value)


def test_an_assignment_over_several_lines_is_an_edit(session: OpenSession) -> None:
    session.run("z1 = (z1 *\n      2)")
    assert session.interpreter.value(parse("z1")).tolist() == [4.0, -8.0, 12.0]


def test_a_gradient_in_mathematics_has_its_methods(session: OpenSession) -> None:
    session.run("goto end")
    assert session.interpreter.value(parse("∂L/∂z1.sum().item()")) == pytest.approx(2 / 3)


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(2, 2), nn.Linear(2, 2)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_variable_of_a_comprehension_hides_the_programs() -> None:
    model = Layered()
    session = OpenSession(nnrepl.trace(lambda x: model(x).sum(), mx.ones((1, 2)), wrt=0))
    session.run("goto layers.1")
    session.run("up")
    found = session.interpreter.value(parse("[layer.weight.tolist() for layer in self.layers]"))
    assert found == [layer.weight.tolist() for layer in model.layers]


def test_what_stands_behind_a_motion_is_run_where_it_arrives(session: OpenSession) -> None:
    session.run("goto z1")
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(session.run("step ;; p z1 * 3"))
    assert "z1 * 3 = [  6 -12  18]" in capture.get()
    assert capture.get().count("▶") == 1  # the stop is shown, and shown once


def test_what_the_tape_knows_by_name_at_the_end_of_a_program() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = mx.ones((3,))

        def __call__(self, x: mx.array) -> mx.array:
            y = x * self.w
            return y.sum()

    layer = Layer()
    inside = OpenSession(nnrepl.trace(lambda x: layer(x) * 2, mx.ones((3,)), wrt=0))
    inside.run("goto sum")
    known = {name for name in ("self", "y", "loss", "grad", "nothing") if on_tape(inside, name)}
    assert known == {"self", "y", "loss", "grad"}
    inside.run("goto start")
    inside.run("finish")  # in the lambda, which has no `self`
    assert not on_tape(inside, "self")
    alone = OpenSession(nnrepl.trace(lambda x: x * 2, mx.ones((3,))))
    assert not on_tape(alone, "loss")
    assert not on_tape(alone, "self")


@pytest.mark.parametrize(
    "text",
    [
        "def add():\n    nonlocal total\n    total += 1\nadd()",
        "def add(n):\n    inner = n\n    nonlocal total\n    total = total * inner\nfor k in range(3): add(k + 1)",
        "class Adds:\n    step = 2\n    def __call__(self):\n        nonlocal total, other\n"
        "        total, other = other, 1\nadds = Adds(); adds()",
        "def add():\n    nonlocal total\n    total = sum(n for n in range(5))\n"
        "add(); seen = [m for m in (1, 2)]; (last := 7)",
        "async def add():\n    nonlocal total\nwith Closing() as held: double = lambda y: y * total",
        "total = 5",
    ],
)
def test_nonlocal_at_the_prompt_is_a_global_of_the_program(text: str) -> None:
    """It leaves the variables that it would leave with `global` written there, and no others."""
    spaces = []
    for tree in (enclosed(ast.parse(text))[0], ast.parse(text.replace("nonlocal", "global"))):
        space = {"total": 3, "other": 4, "Closing": contextlib.nullcontext}
        exec(compile(tree, "<prompt>", "exec"), space)
        spaces.append(space)
    for space in spaces:
        space.pop("__outer__", None)
        space.pop(RESULT, None)
        space.pop("__builtins__")
    found, plain = ({name: None if callable(thing) else thing for name, thing in space.items()} for space in spaces)
    assert found == plain
