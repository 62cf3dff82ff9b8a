"""why: each reason for a zero, small or missing gradient in a program where it is so, and where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.explain.answer import Cause
from nnrepl.explain.disconnected import why_end
from nnrepl.explain.health import health
from nnrepl.explain.why import why
from nnrepl.tape import claims
from tests.support import OpenSession

W = mx.array([[0.5, -1.0, 2.0], [2.0, 0.25, 1.0], [-0.75, 1.5, 0.3]])
ONES = mx.ones((3, 3))
Fn = Callable[[mx.array], mx.array]


def half(array: mx.array) -> mx.array:
    return array.astype(mx.float16)


def ask(fn: Callable[..., mx.array], text: str = "grad(w)", *args: mx.array, wrt: Any = 0) -> Cause:
    return why(OpenSession(nnrepl.trace(fn, *(args or (W,)), wrt=wrt)), text)


def text(answer: Cause) -> str:
    return " ".join([answer.headline, *answer.reasons, *answer.also, answer.advice])


@mx.custom_function
def silent(w: mx.array) -> mx.array:
    return mx.sin(w)


@silent.vjp
def _nothing(w: mx.array, g: mx.array, out: mx.array) -> mx.array:
    return mx.zeros_like(w)


def attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    out = mx.fast.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None], scale=1.0)
    return (out * mx.arange(3)).sum()


ZERO: dict[str, tuple[Fn, str, Fn]] = {
    "stack": (
        lambda w: (mx.stack([w * 2, ONES])[1:] ** 2).sum(),
        "[1:] (test_claims.py:",
        lambda w: (mx.stack([w * 2, ONES])[:1] ** 2).sum(),
    ),
    "concatenate": (
        lambda w: (mx.concatenate([w * 2, ONES], axis=1)[:, 3:] ** 2).sum(),
        "leaves out the part",
        lambda w: (mx.concatenate([w * 2, ONES], axis=1)[:, 2:] ** 2).sum(),
    ),
    "mask of a part": (
        lambda w: ((mx.concatenate([w * 2, ONES], axis=1) * mx.array([0, 0, 0, 1, 1, 1.0])) ** 2).sum(),
        "at the 9 places that count",
        lambda w: ((mx.concatenate([w * 2, ONES], axis=1) * mx.array([0, 0, 1, 1, 1, 1.0])) ** 2).sum(),
    ),
    "mask of a part in half precision": (  # float16 is not too small for anything there: the other part has numbers
        lambda w: ((mx.concatenate([half(w) * 2, half(ONES)], axis=1) * half(mx.array([0, 0, 0, 1, 1, 1]))) ** 2).sum(),
        "at the 9 places that count",
        lambda w: ((mx.concatenate([half(w) * 2, half(ONES)], axis=1) * half(mx.array([0, 0, 1, 1, 1, 1]))) ** 2).sum(),
    ),
    "one place": (
        lambda w: mx.maximum(w, 0)[0, 1] * 2,
        "is 0 at the one place where",
        lambda w: mx.maximum(w, 0)[0, 2] * 2,
    ),
    "two places": (
        lambda w: (mx.maximum(w, 0) * mx.array([[0, 1, 0], [0, 0, 0], [1, 0, 0.0]])).sum(),
        "is 0 at each of the 2 places where",
        lambda w: (mx.maximum(w, 0) * mx.array([[0, 1, 0], [1, 0, 0], [1, 0, 0.0]])).sum(),
    ),
    "rms_norm": (
        lambda w: (mx.fast.rms_norm(w, mx.zeros((3,)), 1e-5) * 3).sum(),
        "was made as zeros",
        lambda w: (mx.fast.rms_norm(w, mx.array([0.0, 0.0, 1.0]), 1e-5) * 3).sum(),
    ),
    "layer_norm": (
        lambda w: (mx.fast.layer_norm(w, mx.zeros((3,)), None, 1e-5) * 3).sum(),
        "was made as zeros",
        lambda w: (mx.fast.layer_norm(w, mx.array([0.0, 0.0, 1.0]), None, 1e-5) * 3).sum(),
    ),
    "attention": (
        lambda w: attention((w @ w) * 100, mx.eye(3) * 100, W),
        "attention is saturated",
        lambda w: attention(w @ w, mx.eye(3), W),
    ),
    "attention of one": (
        lambda w: attention(w, mx.ones((1, 3)), mx.ones((1, 3))),
        "one position only",
        lambda w: attention(w, W[:2], W[:2]),
    ),
    "custom": (lambda w: silent(w * 2).sum(), "own backward rule", lambda w: mx.sin(w * 2).sum()),
    "custom at the end": (lambda w: silent(w).sum(), "own backward rule", lambda w: mx.sin(w).sum()),
    "square of zeros": (
        lambda w: ((w * mx.zeros((3,))) ** 2).sum(),
        "is 0. ",
        lambda w: ((w * mx.array([0.0, 0.0, 1.0])) ** 2).sum(),
    ),
}


@pytest.mark.parametrize("name", ZERO)
def test_a_zero_is_followed_to_its_cause_and_its_twin_is_healthy(name: str) -> None:
    fault, said, sound = ZERO[name]
    answer = ask(fault)
    assert "is 0" in answer.headline
    assert said in text(answer), text(answer)
    other = ask(sound)
    assert "is 0:" not in other.headline, other.headline
    assert said not in text(other)


def test_a_sum_that_cancels_is_said_to_cancel() -> None:
    x = mx.sin(mx.arange(150)).reshape(50, 3)

    def shifted(w: mx.array) -> mx.array:
        y = x + w
        return ((y - y.mean(axis=0, keepdims=True)) ** 3).sum()

    answer = ask(shifted, "grad(w) is tiny", mx.array([0.1, 0.2, 0.3]))
    assert "cancel" in answer.reasons[0]
    assert not answer.advice
    sound = ask(lambda w: ((x + w) ** 3).sum(), "grad(w) is tiny", mx.array([0.1, 0.2, 0.3]))
    assert "cancel" not in text(sound)


def test_a_gradient_that_is_rounding_is_no_warning() -> None:
    """The shares of a softmax add up to 1 whatever w is: the gradient of their sum is 0 but for rounding."""
    found = health(OpenSession(nnrepl.trace(lambda w: mx.softmax(w, axis=-1).sum() * 2, W, wrt=0)))
    assert found.warnings == []


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.frozen, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.table, self.cut = mx.ones((4, 3)), mx.ones((3,))
        self.frozen.freeze()

    def __call__(self, x: mx.array, scale: mx.array, rows: mx.array) -> mx.array:
        x = self.frozen(mx.tanh(self.main(x))) * scale
        return x + self.table[rows] + mx.stop_gradient(self.cut * 2)


@pytest.mark.parametrize(
    ("what", "cause", "said"),
    [
        ("frozen.weight", "frozen", "frozen in the model"),
        ("unused.weight", "unused", "never used"),
        ("scale", "asked", "nobody asked"),
        ("rows", "data", "only used as an index"),
        ("cut", "cut", "stop_gradient lets no gradient pass"),
    ],
)
def test_why_a_gradient_is_missing_has_one_answer_of_several(what: str, cause: str, said: str) -> None:
    model = Model()
    args = W, mx.ones((3,)), mx.array([0, 2, 2])
    session = OpenSession(nnrepl.trace(lambda x, scale, rows: model(x, scale, rows).sum(), *args, wrt=model))
    for asked in (f"grad({what})", f"grad({what}) is none"):
        answer = why(session, asked)
        assert answer.cause == cause, answer
        assert said in text(answer)
    assert "connected" in why(session, "main.weight is none").headline


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (mx.stop_gradient, "on purpose"),
        (mx.argmax, "it answers with places"),
        (mx.floor, "it is a step function"),
        (lambda x: x.astype(mx.int32), "it makes whole numbers (int32)"),
        (lambda x: mx.where(x > 0, x, 0), "it is only used as a condition, and a condition has no slope"),
        (lambda x: x[mx.array([0])], "it is only used as an index, and an index has no slope"),
        (lambda x: x > 0, "its result is bool"),
        (lambda x: x * 2, "no gradient passes through it"),
    ],
)
def test_why_no_gradient_passes_is_said_of_each_kind_of_op(last: Callable[[mx.array], mx.array], said: str) -> None:
    assert said in why_end(nnrepl.trace(last, W).ops[-1])


def test_what_an_edit_cuts_is_cut_by_the_edit() -> None:
    session = OpenSession(nnrepl.trace(lambda w: mx.sin(w * 2).sum(), W, wrt=0))
    session.run("goto #2")
    session.run("#1 = mx.ones((3, 3))")
    answer = why(session, "grad(w)")
    assert answer.cause == "edit", answer
    assert "edit" in text(answer)


def test_what_is_healthy_is_said_to_be() -> None:
    session = OpenSession(nnrepl.trace(lambda w: mx.sin(w * 2).sum(), W, wrt=0))
    for asked in ("w", "#1", "grad(w)", "grad(w) is tiny"):
        assert "Nothing is wrong" in why(session, asked).headline
    assert "finite" in why(session, "w is nan").headline
    assert "empty" in why(OpenSession(nnrepl.trace(lambda w: w[:0], W)), "#1").headline


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ((2, 3), (4, 3), "@ b.T is (2, 3) @ (3, 4)"),
        ((3, 2), (3, 4), "a.T @ b is (2, 3) @ (3, 4)"),
        ((2, 4, 3), (2, 5, 3), "b.swapaxes(-1, -2) is (2, 4, 3) @ (2, 3, 5)"),
        ((4, 2), (3, 4), "b @ a is (3, 4) @ (4, 2)"),
        ((2, 4, 3), (7, 5, 3), ""),
    ],
)
def test_what_is_proposed_for_a_failed_product_can_be_multiplied(left: Any, right: Any, said: str) -> None:
    from nnrepl.explain.failed_call import _matmul

    class Named:
        def __init__(self, name: str, shape: tuple[int, ...]) -> None:
            self.name, self.shape = name, shape

    found = claims.first_advised(_matmul(Named("a", left), Named("b", right)))  # type: ignore[arg-type]
    assert found is not None
    advice = found[1]
    assert said in advice
    assert ("transpose" in advice or "order" in advice) == bool(said)
    if said:
        shapes = [eval(part) for part in advice.rstrip(".").rsplit(" is ", 1)[1].split(" @ ")]
        mx.matmul(*(mx.ones(shape) for shape in shapes))


def test_diff_says_how_much_it_compared() -> None:
    session = OpenSession(nnrepl.trace(lambda w: mx.sin(w * 2).sum(), W, wrt=0))
    session.run("goto #2")
    session.run("#1 = #1 * 1")
    from rich.console import Console

    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(session.run("diff"))
    assert "no value differs: 6 ops compared" in capture.get()


@pytest.mark.parametrize("steps", [1, 3])
def test_a_receipt_says_what_it_did_not_look_at(steps: int) -> None:
    from rich.console import Console

    from nnrepl.record.verify import verify
    from nnrepl.view.receipt import receipt_view

    with nnrepl.recording() as recorded:
        for _ in range(steps):
            mx.value_and_grad(lambda w: mx.sin(w * 2).sum())(W)
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(receipt_view(verify(recorded.tape, recorded.tape.passes[-1])))
    assert ("2 other passes of the tape were not looked at" in capture.get()) == (steps == 3)
    assert ("not looked at" in capture.get()) == (steps > 1)


def test_what_is_left_of_a_product_is_said_exactly() -> None:
    """A VJP that gives 0 of numbers that are not 0: they are too small, or they cancel, or they never meet."""
    tiny = mx.full((3, 3), 1e-30)
    assert "too small for float32" in text(ask(lambda w: ((w @ tiny) * tiny).sum()))
    opposite = ask(lambda w: (mx.array([[1.0, -1.0]]) @ (mx.ones((2, 3)) @ w)).sum())
    assert "cancel" in text(opposite)
    apart = ask(lambda w: (mx.array([[1.0, 0.0]]) @ (mx.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]) @ w)).sum())
    assert "cancel" not in text(apart)
    assert "are all 0" in text(apart)


def test_the_factor_of_a_linear_layer_is_its_other_operand() -> None:
    model = nn.Linear(3, 2)
    answer = why(OpenSession(nnrepl.trace(lambda x: model(x).square().sum(), mx.ones((4, 3)), wrt=model)),
                 "grad(weight)")  # fmt: skip
    factors = [link.factor for link in answer.links if "addmm" in link.does]
    assert factors
    assert all(factor.startswith("xᵀ") for factor in factors)
