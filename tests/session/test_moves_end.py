"""Where motions end, told from the ops themselves: into functions and out of them, and which of several places."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.session.errors import UserError
from nnrepl.session.excerpts import whole_function
from tests.support import OpenSession


def inner(x: mx.array) -> mx.array:
    doubled = x * 2
    return mx.tanh(doubled)


def outer(x: mx.array) -> mx.array:
    shifted = -x + 1
    found = inner(shifted)
    return found - 3


def loss_fn(w: mx.array) -> mx.array:
    squared = w * w
    return mx.sum(outer(squared))


@pytest.fixture
def session() -> OpenSession:
    return OpenSession(nnrepl.trace(loss_fn, mx.arange(3.0), wrt=0))


def at(session: OpenSession) -> str:
    """What the next op is, and of which function."""
    op = session.tape.ops[session.cursor]
    return f"{op.name} in {op.source.function}"


FORWARD = [
    "multiply in loss_fn", "negative in outer", "add in outer", "multiply in inner", "tanh in inner",
    "subtract in outer", "sum in loss_fn",
]  # fmt: skip


def test_the_program_is_what_the_rows_below_think(session: OpenSession) -> None:
    ops = [op for op in session.tape.ops if op.phase == "forward"]
    assert [f"{op.name} in {op.source.function}" for op in ops] == FORWARD


@pytest.mark.parametrize(
    ("start", "motion", "end"),
    [
        ("goto tanh", "reverse-finish", "multiply in inner"),
        ("goto inner", "reverse-finish", "add in outer"),
        ("goto subtract", "rfin", "negative in outer"),
        ("goto sum", "rfin", "multiply in loss_fn"),
        ("goto inner", "finish", "subtract in outer"),
        ("goto add", "finish", "sum in loss_fn"),
        ("goto add", "next", "multiply in inner"),
        ("goto subtract", "reverse-next", "multiply in inner"),
        ("goto tanh", "back", "multiply in inner"),
        ("goto tanh", "step", "subtract in outer"),
        ("goto add", "next 2", "subtract in outer"),
        ("goto add", "next ;; next", "subtract in outer"),
        ("goto add", "next ;; next ;; next", "sum in loss_fn"),
        ("goto add", "next ;; until", "subtract in outer"),
        ("goto add", "next ;; finish", "sum in loss_fn"),
        ("goto add", "next ;; step", "tanh in inner"),
        ("goto add", "next ;; step ;; rn", "multiply in inner"),
        ("goto add", "next ;; goto inner ;; next", "tanh in inner"),
        ("goto sum", "rn 2", "multiply in loss_fn"),
        ("goto subtract", "rn ;; rn", "negative in outer"),
        ("goto inner", "rn", "negative in outer"),
        ("goto subtract", "rn step", "multiply in loss_fn"),
        ("goto subtract", "rn ;; rfin", "negative in outer"),
        ("goto multiply", "next", "negative in outer"),
    ],
)
def test_a_motion_ends_there(session: OpenSession, start: str, motion: str, end: str) -> None:
    session.run("goto start")
    session.run(start)
    session.run(motion)
    assert at(session) == end


def test_at_the_end_the_function_of_the_last_op_is_listed(session: OpenSession) -> None:
    """As at that op itself."""
    last = session.tape.ops[-1]
    session.run(f"goto {last.label}")
    there = whole_function(session)
    session.run("goto end")
    assert session.op is None
    assert (whole_function(session).path, whole_function(session).first) == (there.path, there.first)


def test_goto_chooses_here_then_the_last_then_the_next() -> None:
    model = nn.Linear(2, 2)

    def step(x: mx.array) -> mx.array:
        return model(x).sum()

    whole = nn.value_and_grad(model, step)

    def program(x: mx.array) -> mx.array:
        before = mx.exp(x)
        first, _ = whole(before)
        second, _ = whole(mx.exp(first + x))
        return second

    session = OpenSession(nnrepl.trace(program, mx.ones((1, 2))))
    sums = [op.position for op in session.tape.ops if op.name == "sum" and op.phase == "forward"]
    exps = [op.position for op in session.tape.ops if op.name == "exp"]
    assert len(sums) == len(exps) == 2
    for cursor, place, wanted in [
        (sums[0], "sum", sums[0]),  # where one stands
        (sums[0] + 1, "exp", exps[0]),  # none in this pass: the first of this step
        (exps[0], "sum", sums[0]),  # none before: the next one
    ]:
        session.run(f"goto #{cursor + 1}")
        session.run(f"goto {place}")
        assert session.cursor == wanted, (cursor, place)


def test_goto_in_a_step_without_it_chooses_the_last_before_it() -> None:
    model, opt = nn.Linear(2, 2), optim.SGD(0.1)

    def loss(x: mx.array, number: int) -> mx.array:
        out = model(x)
        return (mx.exp(out) if number != 2 else mx.tanh(out)).sum()

    def program(x: mx.array) -> mx.array:
        for number in (1, 2, 3):
            value, grads = nn.value_and_grad(model, lambda n=number: loss(x, n))()
            opt.update(model, grads)
        return value

    session = OpenSession(nnrepl.trace(program, mx.ones((1, 2))))
    exps = [op for op in session.tape.ops if op.name == "exp"]
    assert [op.step.number for op in exps] == [1, 3]
    session.run("goto step 2")
    session.run("goto exp")
    assert session.tape.ops[session.cursor].of is exps[0]  # the last op that is there: its VJP
    session.run("goto tanh")  # none before: the next one
    assert session.tape.ops[session.cursor].step.number == 2
    session.run("goto step 3")
    session.run("rn step")
    assert session.cursor == next(op.position for op in session.tape.ops if op.step.number == 2) > 0


def test_the_prompt_does_not_move_the_random_state() -> None:
    def draws(x: mx.array) -> mx.array:
        return (x + mx.random.normal((2,))).sum()

    mx.random.seed(3)
    session = OpenSession(nnrepl.trace(draws, mx.ones(2), wrt=0))
    before = mx.random.state[0].tolist()  # type: ignore[index]
    session.run("p mx.random.normal((3,))")
    session.run("mx.random.uniform(shape=(2,))")
    assert mx.random.state[0].tolist() == before  # type: ignore[index]


def test_a_whole_number_takes_no_fraction() -> None:
    def pick(w: mx.array) -> mx.array:
        places = mx.array([0, 1])
        return w[places].sum()

    session = OpenSession(nnrepl.trace(pick, mx.arange(3.0), wrt=0))
    session.run("goto sum")
    for line in ("places[0] = 0.5", "places = 0.5"):
        with pytest.raises(UserError, match=r"0\.5"):
            session.run(line)
    session.run("places[0] = 2")
    assert session.run("p places") is not None
