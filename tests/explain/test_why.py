"""why: causes, on faults that are planted in programs of different kinds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl import UserError
from nnrepl.explain.answer import Cause
from nnrepl.explain.why import why
from nnrepl.view.causes import why_view
from tests.support import OpenSession, nnrepl_cli
from tests.view.test_tensor import screen


def session(fn: Callable[..., Any], *args: Any, wrt: Any = 0) -> OpenSession:
    return OpenSession(nnrepl.trace(fn, *args, wrt=wrt))


def ask(text: str, fn: Callable[..., Any], *args: Any, wrt: Any = 0) -> Cause:
    return why(session(fn, *args, wrt=wrt), text)


def blamed(answer: Cause) -> str:
    assert answer.op is not None, answer
    return (answer.op.of or answer.op).name


X = mx.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])
W = mx.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]])


@pytest.mark.parametrize(
    ("fault", "operation", "said"),
    [
        (lambda w: mx.maximum(X @ w - 50, 0), "maximum", "in 2 of 2 units, for every row of the batch (2 of 2)"),
        (lambda w: mx.minimum(X @ w + 50, 6), "minimum", "≥ 6 in 2 of 2 units"),
        (lambda w: mx.clip(X @ w, 40, 50), "clip", "cuts off every element"),
        (lambda w: mx.sigmoid(X @ w + 200), "sigmoid", "saturated"),
        (lambda w: (X @ w) * mx.zeros((2, 2)), "multiply", "the other factor is 0"),
        (lambda w: mx.where(mx.array(False), X @ w, 1.0), "where", "takes no element"),
        (lambda w: mx.round(X @ w), "round", "a step function"),
        (lambda w: mx.softmax((X @ w)[:, :1], axis=-1), "softmax", "axis of length 1"),
        (lambda w: mx.zeros((4, 2)) @ (X @ w), "matmul", "is 0"),
    ],
)
def test_the_op_that_makes_a_gradient_zero(fault: Callable[[mx.array], mx.array], operation: str, said: str) -> None:
    answer = ask("grad(w) == 0", lambda w: mx.sum(mx.sin(fault(w)) + 1), W)
    assert blamed(answer) == operation
    assert said in " ".join([answer.headline, *answer.reasons])
    assert [link.mark for link in answer.links if link.mark] == ["here it becomes 0"]


@pytest.mark.parametrize("columns", [60, 66, 74, 80, 100])
def test_each_link_of_a_chain_shows_its_number_in_any_width(columns: int) -> None:
    def fault(w: mx.array) -> mx.array:
        hidden_with_a_long_name = mx.maximum(X @ w - 50, 0)
        return (hidden_with_a_long_name * mx.array([2.0, 3.0])).sum()

    answer = ask("grad(w) == 0", fault, W)
    shown = [line for line in screen(why_view(answer), columns).splitlines() if " × " in line or "∂L/∂#" in line]
    assert max(map(len, shown)) <= columns
    chain = [link for link in answer.links if link.name]
    assert len(chain) == 6, chain
    numbers = [line for line in shown if re.search(r"= 0 everywhere \(|‖[\d.]+‖ \(|= 1\b", line)]
    assert len(numbers) >= len(chain), shown


def test_float16_underflow_is_told_from_a_true_zero() -> None:
    w = (mx.ones((3,)) * 1e-3).astype(mx.float16)
    answer = ask("grad(w)", lambda w: mx.sum(mx.square(w * 1e-4) * 1e-3), w)
    assert "too small for float16" in answer.reasons[0]
    assert "in float32 the largest element would be" in answer.reasons[0]


@pytest.mark.parametrize(
    ("make", "operation", "rule"),
    [
        (lambda x: mx.log(x - x), "log", "logarithm of 0"),
        (lambda x: mx.log(x - 100), "log", "negative number"),
        (lambda x: (x - x) / (x - x), "divide", "0 divided by 0"),
        (lambda x: x / (x - x), "divide", "divided by 0 is ∞"),
        (lambda x: mx.sqrt(x - 100), "sqrt", "square root of a negative"),
        (lambda x: mx.exp(x * 1000), "exp", "overflows in float32 beyond 88.72"),
        (lambda x: mx.arccos(x + 10), "arccos", "no finite value"),
        (lambda x: mx.softmax(mx.where(x > -1e9, -mx.inf, x), axis=-1), "softmax", "whole row of −∞"),
    ],
)
def test_the_first_op_that_makes_a_number_non_finite(
    make: Callable[[mx.array], mx.array], operation: str, rule: str
) -> None:
    x = mx.array([[1.0, 2.0], [3.0, 4.0]])
    answer = ask("nan", lambda x: mx.sum(mx.sin(make(mx.tanh(x) + x)) * 0.5), x)
    assert blamed(answer) == operation
    assert rule in " ".join(answer.reasons)
    assert answer.advice


@pytest.mark.parametrize(
    ("make", "operation"),
    [
        (lambda x: mx.where(x > 0, mx.sqrt(x), 0.0), "sqrt"),
        (lambda x: mx.where(x > 0, x**0.5, 0.0), "power"),
        (lambda x: mx.linalg.norm(x * 0), "linalg.norm"),
    ],
)
def test_a_gradient_that_is_non_finite_under_a_finite_loss(
    make: Callable[[mx.array], mx.array], operation: str
) -> None:
    session_ = session(lambda x: mx.sum(make(x)), mx.array([0.0, 1.0, 4.0]))
    for asked in ("nan", "grad(x) is nan", "isnan(grad(x))"):
        answer = why(session_, asked)
        assert answer.op is not None
        assert answer.op.phase == "backward"
        assert blamed(answer) == operation


def test_an_infinite_mask_is_no_fault() -> None:
    mask = mx.array([[0.0, -mx.inf], [0.0, 0.0]])
    answer = ask("nan", lambda w: mx.sum(mx.softmax(w[:2] + mask, axis=-1) ** 2), W)
    assert answer.op is None
    assert "finite" in answer.headline


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.side, self.unused = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)
        self.frozen = nn.Linear(4, 4)
        self.frozen.freeze()
        self.cut: Callable[[mx.array], mx.array] = abs

    def __call__(self, x: mx.array) -> mx.array:
        return self.frozen(self.main(x)) + self.cut(self.side(x))


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda x: mx.stop_gradient(x), "stop_gradient lets no gradient pass"),
        (lambda x: mx.argmax(x, axis=-1, keepdims=True), "slope"),
    ],
)
def test_where_the_way_to_a_parameter_ends(cut: Callable[[mx.array], mx.array], said: str) -> None:
    model = Branches()
    model.cut = cut
    found = session(lambda x: mx.sum(mx.square(model(x))), X, wrt=model)
    answer = why(found, "grad(side.weight)")
    assert said in " ".join([answer.headline, *answer.reasons])
    assert "never used" in why(found, "grad(unused.weight) is none").headline
    assert "frozen" in " ".join(why(found, "grad(frozen.weight) is none").reasons)


def test_vanishing_and_exploding_name_the_repeated_op() -> None:
    def deep(x: mx.array) -> mx.array:
        for _ in range(20):
            x = mx.sigmoid(x)
        return mx.sum(x)

    answer = ask("grad(x) is tiny", deep, X)
    assert blamed(answer) == "sigmoid"
    assert "sigmoid at test_why.py" in answer.reasons[0]
    assert "passed 20 times" in answer.reasons[0]

    def grow(x: mx.array) -> mx.array:
        for _ in range(20):
            x = x * 7.0
        return mx.sum(x)

    assert blamed(ask("grad(x) is exploding", grow, X)) == "multiply"


def failing(fn: Callable[..., Any], *args: Any) -> Cause:
    """The call of a session that runs into an error: what the recorder kept of it."""
    from nnrepl.record.intercept import recording
    from nnrepl.record.names import ProgramNames
    from nnrepl.record.recorder import Recorder
    from nnrepl.session.session import TapeSession

    names = ProgramNames()
    tape = names.tape
    with recording(Recorder(tape, strict=False)), pytest.raises(ValueError, match=r"."):
        fn(*args)
    return why(TapeSession(tape, names), "error")


@pytest.mark.parametrize(
    ("fn", "shapes", "advice"),
    [
        (lambda a, b: a @ b, [(5, 3), (4, 3)], "transpose is probably missing"),
        (lambda a, b: a @ b, [(3, 5), (2, 3)], "wrong order"),
        (lambda a, b: a @ b, [(2, 3, 4), (12, 5)], "flattened first"),
        (lambda a, b: a + b, [(5, 3), (5,)], "[:, None]"),
        (lambda a, b: a - b, [(5, 3), (3, 5)], "transpose is probably missing"),
    ],
)
def test_a_shape_error_says_what_disagrees_and_what_was_meant(fn: Any, shapes: list[Any], advice: str) -> None:
    answer = failing(fn, *(mx.ones(shape) for shape in shapes))
    assert advice in answer.advice
    assert len(answer.evidence) == 2
    assert [piece.text for piece in answer.evidence] == [f"{shape} float32, from outside" for shape in shapes]
    assert answer.reasons


def test_what_is_not_finite_is_said_of_the_one_or_of_how_many() -> None:
    def fn(x: mx.array) -> mx.array:
        h = mx.log(x)
        one = h[3]
        return h.sum() + one

    found = session(fn, mx.array([-1.0, 1.0, 0.0, -2.0]))
    heads = {
        asked: why(found, asked).headline.partition(": ") for asked in ("nan", "h is nan", "h is inf", "one is nan")
    }
    some = "h has 2 NaN and 1 ∞ among 4 numbers"
    assert [head for head, _, _ in heads.values()] == ["The loss of step 1 is NaN", some, some, "one is NaN"]
    born = ["NaN" if asked != "h is inf" else "−∞" for asked in heads]
    assert [re.findall(r"makes (\S+) out of finite numbers", end) for _, _, end in heads.values()] == [
        [it] for it in born
    ]


def test_why_alone_finds_what_is_wrong_and_questions_that_are_none_get_one_line() -> None:
    dead = session(lambda w: mx.sum(mx.maximum(X @ w - 50, 0)), W)
    assert blamed(why(dead, "")) == "maximum"
    sound = session(lambda w: mx.sum(mx.sin(X @ w)), W)
    assert why(sound, "").op is None
    for asked, said in (
        ("nothing == 0", "nothing on the tape"),
        ("error", "no op"),
        ("loss", "two passes"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            why(sound, asked)


def test_an_answer_evaluates_only_what_it_needs() -> None:
    def branches(w: mx.array, x: mx.array) -> mx.array:
        huge = x
        for _ in range(50):
            huge = mx.sin(huge)
        return mx.sum(w * 2) + mx.sum(huge)

    found = session(branches, mx.ones((3,)), mx.ones((3,)), wrt=[0, 1])
    answer = why(found, "grad(w)")
    assert answer.ops <= 6
    assert sum(op.outputs[0].evaluated for op in found.tape.ops if op.outputs) <= 8


GAPS = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
model, optimizer = nn.Linear(3, 1), optim.SGD(0.01)
data = mx.random.normal((24, 3))
data = mx.where(mx.arange(24)[:, None] % 5 == 0, mx.nan, data)
step = nn.value_and_grad(model, lambda m, x: m(mx.where(mx.isnan(x), FILL, x)).square().mean())
for turn in range(8):
    rows = data[turn * 3 : turn * 3 + 3]
    loss, grads = step(model, rows)
    optimizer.update(model, grads)
    mx.eval(model.parameters())
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_batch_with_gaps_that_the_model_fills_is_no_result(native: str, tmp_path: Path) -> None:
    """Nobody's loss is NaN; that is said first, whether the call that takes the batch is closed or not."""
    for fill, begins in (("0.0", "No loss and no gradient is NaN or ∞, but "), ("x", "The loss of step 8 is NaN: ")):
        path = tmp_path / "gaps.py"
        path.write_text(GAPS.replace("FILL", fill))
        shown = nnrepl_cli("--plain", str(path), stdin="c\nwhy\nquit\n", env={"NNREPL_NATIVE": native}).stdout
        said = re.split(r"\(nnrepl[ \d]*\) why\n", shown)[1].removeprefix("opening").partition("stops it\n")
        assert " ".join((said[2] or said[0]).split()).startswith(begins), shown


def test_the_loss_of_an_edit_is_told_by_what_has_a_gradient() -> None:
    def loss(w: mx.array) -> mx.array:
        h = w * 2
        size = (h * h).sum()  # noqa: F841 -- it changes as well, and no loss depends on it
        return h.sum()

    session = OpenSession(nnrepl.trace(loss, mx.ones(2), wrt=0))
    session.run("goto #2")
    session.run("h = h * 3")
    said = str(session.run("why loss"))
    assert "The loss is 12 in timeline 2 and 4 in timeline 1: +8, by h = h * 3." in said
    assert re.findall(r"^  (\w+) = \+8 ", said, re.MULTILINE) == ["h"]
