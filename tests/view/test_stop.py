"""Stops: what one says without a command, held as screens, and held against what the op then makes."""

from __future__ import annotations

import io
import re

import mlx.core as mx
import mlx.nn as nn
import pytest
from rich.console import Console
from rich.text import Text

import nnrepl
from nnrepl.explain.doing import doing
from nnrepl.seen.stop_facts import scene
from nnrepl.session.session import Stop
from nnrepl.tape import Source
from nnrepl.view.one_op import state_of
from nnrepl.view.op_list import STATES
from nnrepl.view.ops_pane import op_row, result_name
from nnrepl.view.source_lines import Marked
from nnrepl.view.stopped import count_text, stop_view
from nnrepl.view.theme import DARK
from tests.support import OpenSession, nnrepl_cli


def shown(view: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, theme=DARK, highlight=False, markup=False)
    console.print(view)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights1 = mx.array([[0.5, -1.0, 0.25], [1.0, 0.75, -0.5]])
        self.bias1 = mx.zeros((3,))
        self.out = nn.Linear(3, 2)

    def __call__(self, x: mx.array) -> mx.array:
        z1 = x @ self.weights1 + self.bias1
        a1 = mx.maximum(z1, 0)
        return self.out(a1)


def session_on(x: mx.array | None = None) -> OpenSession:
    model = Net()
    model.out.weight = mx.array([[1.0, 2.0, 3.0], [0.5, 0.25, -1.0]])
    x = mx.array([[1.0, 2.0]]) if x is None else x

    def loss_fn(x: mx.array) -> mx.array:
        error = model(x) - 1
        return mx.mean(mx.square(error))

    return OpenSession(nnrepl.trace(loss_fn, x, wrt=model))


def here(session: OpenSession, width: int = 80) -> list[str]:
    return shown(stop_view(scene(session, Stop("", session.cursor))), width).splitlines()


def test_forward_backward_and_their_numbers_in_four_lines() -> None:
    session = session_on()
    forward = here(session)
    assert forward[0].startswith("step 1 · forward 1 of 8")
    assert forward[3].startswith("#1  x @ weights1   #1[0,0] = 1·0.5 + 2·1 = ?")
    session.run("step")
    assert here(session)[3].startswith("#2  z1 = x @ weights1 + bias1   z1[0,0] = 2.5 + 0 = ?")
    session.run("goto backward")
    session.run("step")
    square = here(session)
    assert square[0].startswith("step 1 · backward 2 of 8 · back through square(error)")
    assert square[3].startswith("#10  ∂L/∂error = ∂L/∂#7 · 2 · error   ∂L/∂error[0,0] = 0.5 · 2 · ")
    assert square[3].split("=")[-1].split()[0] == "?"
    while session.op is not None:
        lines = [line for line in here(session) if "╰" not in line]
        assert len(lines) <= 3 + len(session.op.outputs), lines
        session.run("step")


def test_what_has_just_been_made_is_called_by_its_name() -> None:
    session = session_on()
    first = shown(session.run("step")).splitlines()[0]
    assert first == "#1  x @ weights1 = [[ 2.5000  0.5000 -0.7500]]"
    assert shown(session.run("step")).startswith("z1 = [[")
    session.run("goto backward")
    seen = "\n".join(shown(session.run("step")) for _ in range(8))
    assert "∂L/∂bias1 = [" in seen
    assert "∂L/∂weights1 = [[" in seen
    assert not any(line.startswith("#") and line.split()[0][-2:] in (".0", ".1") for line in seen.splitlines())


def test_numbers_at_a_stop_are_those_of_the_op() -> None:
    session = session_on(mx.array([[1.0, 2.0], [-0.5, 0.25], [3.0, -1.0]]))
    seen = 0
    while session.op is not None:
        op = session.op
        found = [one for one in doing(session, op).equations if one.arithmetic is not None]
        assert all(not one.known for one in found if not one.value.evaluated)
        session.run("step")
        for one in found:
            session.evaluate([one.value])
            place = eval(one.element.partition("[")[2].removesuffix("]") or "()")
            index = (0,) * len(one.value.shape) if place == () else place if isinstance(place, tuple) else (place,)
            assert one.arithmetic is not None
            assert one.arithmetic.result == one.value.array[index].item() if index else one.value.array.item()
            seen += 1
    assert seen > 12


def test_a_stop_evaluates_nothing_that_is_large_and_nothing_at_all_with_peek_0() -> None:
    session = session_on(mx.random.normal((3000, 2)))
    assert "?" not in "".join(here(session))
    assert "(3000, 2) @ (2, 3) → (3000, 3) float32" in here(session)[3]
    assert not any(value.evaluated for value in session.op.outputs)  # type: ignore[union-attr]
    small = session_on()
    small.run("config peek 0")
    small.run("step")
    assert "?" not in "".join(here(small))
    assert not any(value.evaluated for op in small.tape.ops for value in op.outputs)


def test_an_op_ahead_stays_lazy_though_its_number_was_checked() -> None:
    session = session_on()
    here(session)
    assert session.op is not None
    assert not any(value.evaluated for value in session.op.outputs)


@pytest.mark.parametrize(("amount", "lines"), [("full", 4), ("formula", 4), ("short", 2)])
def test_how_much_a_stop_shows(amount: str, lines: int) -> None:
    session = session_on()
    session.run(f"config stop {amount}")
    said = here(session)
    assert len(said) == lines
    assert ("= ?" in said[-1]) == (amount == "full")
    assert "x @ weights1" in said[-1]


def test_numbers_are_seen_in_40_columns_too() -> None:
    session = session_on()
    session.run("goto backward")
    while session.op is not None:
        lines = here(session, 40)
        assert max(map(len, lines)) <= 40
        text = "".join(lines).replace(" ", "")
        for one in doing(session, session.op).equations:
            if one.element:
                assert f"{one.element}=" in text, lines
        session.run("step")


def test_many_rows_are_one_line() -> None:
    session = session_on(mx.ones((128, 2)))
    session.run("step 7")
    first = shown(session.run("step")).splitlines()
    assert first[0].startswith("#8 = ")
    session.run("goto backward")
    rows = shown(session.run("step")).splitlines()
    assert rows[0].startswith("∂L/∂#7 (128, 2)")
    assert "std" in rows[0]
    assert rows[1].startswith("step 1 ·")


def test_parts_of_a_gradient_are_called_parts() -> None:
    def twice(w: mx.array) -> mx.array:
        return (w * 2 + mx.exp(w)).sum()

    session = OpenSession(nnrepl.trace(twice, mx.array([0.0, 1.0]), wrt=0))
    seen = []
    while session.op is not None:
        seen += [*here(session), shown(session.run("step"))]
    text = "\n".join(seen)
    assert "part of ∂L/∂w = " in text
    assert "∂L/∂w = [     3 4.7183]" in text


@pytest.mark.parametrize("width", [80, 40, 24])
def test_the_marked_segment_is_in_view(width: int) -> None:
    line = "        outputs = self.projection(mx.concatenate([first, second, third], axis=-1)) + self.bias_of_all\n"
    for segment in ("mx.concatenate([first, second, third], axis=-1)", "self.bias_of_all", "outputs"):
        start = line.index(segment)
        source = Source("m.py", 1, 1, start, start + len(segment), segment, "f")
        lines = shown(Marked(source, [line]), width).splitlines()
        assert len(lines) == 2
        assert all(len(one) <= width for one in lines)
        begin = lines[1].index("━")
        marked = lines[0][begin : begin + lines[1].count("━")]
        assert marked.rstrip("…") == segment[: len(marked.rstrip("…"))], lines
        assert len(marked) >= min(len(segment), width - 12)


def test_a_student_follows_a_step_of_the_notebook_forward_and_back() -> None:
    """Every op of the step says what it does in numbers, and coming back to it says what came out."""
    count = 24
    lines = ["s"] * count + ["back"] * count
    screen = nnrepl_cli("examples/simple_nn.ipynb", stdin="\n".join(lines), env={"COLUMNS": "80"}).stdout
    first, *blocks = screen.split("(nnrepl) ")
    forward = [first, *blocks[: count - 1]]
    back = blocks[count : 2 * count][::-1]
    for at, (ahead, behind) in enumerate(zip(forward, back), 1):
        stop = ahead[ahead.index("step 1 · ") :].rstrip().splitlines()
        assert stop[1].startswith("▶ "), stop
        assert set(stop[2].strip()) == {"━"}, stop
        told = "\n".join(stop[3:])
        assert told.startswith(f"#{at}  "), told
        assert re.search(r"= \S.*\d", told), told
        known = behind[behind.index("step 1 · ") :].rstrip().splitlines()
        assert known[1:3] == stop[1:3]
        assert "?" not in "".join(known[3:])
        for line, later in zip(stop[3:], known[3:]):  # the very arithmetic, with its number
            begins = line.partition("?")[0].rstrip()
            assert later.startswith(begins if "?" in line else begins[:20]), (line, later)
    assert [at for at, block in enumerate(forward) if " · backward " in block] == list(range(8, 16))
    assert all("back through " in block for block in forward[8:16])


def test_ops_are_counted_within_their_phase_or_their_call() -> None:
    def loss_fn(w: mx.array) -> mx.array:
        a = w * 3
        b = mx.vmap(lambda x: mx.exp(x) * 2 + 1)(a)
        g = mx.grad(lambda v: (v * v).sum())(b)
        return (b + g).sum()

    counts = [count_text(op) for op in nnrepl.trace(loss_fn, mx.array([1.0, 2.0]), wrt=0).ops]
    assert counts == [
        "1 of 12", "1 of 3", "2 of 3", "3 of 3", "5 of 12", "1 of 2", "2 of 2", "1 of 2", "2 of 2", "10 of 12",
        "11 of 12", "12 of 12", "1 of 6", "2 of 6", "3 of 6", "4 of 6", "5 of 6", "6 of 6",
    ]  # fmt: skip


@pytest.mark.parametrize("results", [2, 3])
def test_a_row_has_the_shapes_of_two_results_and_says_that_there_are_more(results: int) -> None:
    op = nnrepl.trace(lambda w: mx.split(w, results), mx.zeros((6, 2))).ops[0]
    shape = f"({6 // results}, 2)"
    shapes = f"{shape}, {shape}" + (", …" if results == 3 else "")
    row = op_row(op, Text("split(w)"), 5, 3, 5, 60)
    left = f"  {op.label}  {STATES[state_of(op)]} {result_name(op).ljust(5)} split(w)"
    assert row.plain == left.ljust(60 - len(shapes)) + shapes
    assert op_row(op, Text("split(w)"), 0, 3, 5, 60).plain == "▶" + row.plain[1:]
    narrow = op_row(op, Text("split(w)"), 5, 3, 5, 14).plain
    assert narrow == row.plain[:13] + "…"
