"""explain: every op of every layer, in both phases, with numbers that add up."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl import UserError
from nnrepl.explain.explained import explain
from nnrepl.explain.words import factor, number, substitute
from tests.support import OpenSession


def test_numbers_of_one_element_are_those_of_the_op() -> None:
    x, w = mx.array([[1.0, 2.0], [3.0, -1.0]]), mx.array([[0.5, -0.25], [1.5, 2.0]])
    trace = nnrepl.trace(lambda x, w: mx.sum(mx.square(x @ w)), x, w, wrt=1)
    session = OpenSession(trace)
    assert explain(session, "#1 at [1, 0]").lines == [
        "#1[1,0] = x[1,0]·w[0,0] + x[1,1]·w[1,0]",
        "= 3·0.5 + (−1)·1.5",
        "= 0",
    ]
    found = explain(session, "grad(w) at [0, -1]")
    assert found.lines[1:] == ["= 1·7.5 + 3·(−5.5)", "= −9"]
    assert "The sum runs over the rows of the batch" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("#1 at [0]", "2 numbers"),
        ("#1 at [0, 2]", "axis 1 has no element 2"),
        ("#1 at [x, 2]", r"written at \[2, 0\]"),
        ("#7", "there is no op #7"),
        ("nothing", "nothing on the tape is called nothing"),
    ],
)
def test_bad_input_gets_one_line(asked: str, answer: str) -> None:
    trace = nnrepl.trace(lambda x: mx.sin(x).sum(), mx.ones((2, 2)), wrt=0)
    with pytest.raises(UserError, match=answer):
        explain(OpenSession(trace), asked)


def test_a_call_of_mlxs_shows_its_inside_and_its_jacobian() -> None:
    scaled = mx.custom_function(lambda row: row * row[0])
    trace = nnrepl.trace(lambda x: mx.vmap(scaled)(x).sum(), mx.array([[2.0, 3.0]]), wrt=0)
    session = OpenSession(trace)
    label = next(op.label for op in trace.ops if op.name.startswith("vmap"))
    found = explain(session, f"{label} at [0, 1]")
    assert "made what it returns" in found.words
    assert found.lines == [f"{label}[0,1] = 6"]
    assert "3 with x[0,0], 2 with x[0,1]" in " ".join(found.notes)
    assert explain(session, "grad(x) at [0, 0]").lines[1:] == ["= 1·4 + 1·3", "= 7"]


def test_long_sums_show_the_largest_terms_and_add_up() -> None:
    x = mx.arange(100.0)
    trace = nnrepl.trace(lambda x: mx.sum(x), x)
    lines = explain(OpenSession(trace), "#1").lines
    assert lines == [
        "#1 = Σ x[:]", "= 96 + 97 + 98 + 99 + (96 more: 4560)", "= 4950",
    ]  # fmt: skip


def test_numbers_are_written_as_a_teacher_writes_them() -> None:
    assert [number(value) for value in (-0.5, 3.0, float("nan"), -1e-9, 1e20, True)] == [
        "−0.5", "3", "NaN", "−1e−09", "1e+20", "true",
    ]  # fmt: skip
    assert factor(-2.0) == "(−2)"
    assert substitute("max(a, b)", {"a": "(−1)", "b": "0"}) == "max(−1, 0)"
    assert substitute("g · [a > b]", {"g": "2", "a": "(−1)", "b": "0"}) == "2 · [−1 > 0]"


def test_what_the_next_op_makes_is_that_of_this_step() -> None:
    """Also where its call returns at once, so that its variable is never seen; what `p` says will make it is meant."""
    model = nn.Linear(2, 2)

    def forward(x: mx.array) -> mx.array:
        h = nn.relu(model(x))
        return h

    def train(x: mx.array) -> None:
        for _ in range(2):
            _, grads = nn.value_and_grad(model, lambda x: mx.mean(mx.square(forward(x))))(x)
            model.update({name: model[name] - 0.1 * grads[name] for name in grads})

    session = OpenSession(nnrepl.trace(train, mx.ones((3, 2))))
    session.run("goto step 1 maximum")
    assert "#3 (maximum) makes it" in str(session.run("p h"))
    assert str(session.run("explain h")).startswith("#3  maximum")
