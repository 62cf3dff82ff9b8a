"""Where NaN and ∞ come from: held against the program with that very element made finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.explain.answer import Cause
from nnrepl.explain.health import health
from nnrepl.explain.look import Look
from nnrepl.explain.why import why
from nnrepl.session.births import _operands_of, follow
from tests.support import OpenSession


def session(fn: Callable[..., Any], *args: Any, wrt: Any = 0) -> OpenSession:
    return OpenSession(nnrepl.trace(fn, *args, wrt=wrt))


def text(answer: Cause) -> str:
    return " ".join([answer.headline, *answer.reasons, *answer.also, answer.advice])


PASSED_ON: list[Callable[[mx.array], mx.array]] = [
    lambda x: x * 2 + 1,
    lambda x: x @ mx.ones((6, 3)),
    lambda x: mx.ones((3, 4)) @ x,
    lambda x: mx.stack([x * 2, x])[1:],
    lambda x: mx.concatenate([x[2:], x[:2]], axis=0),
    lambda x: x.T.reshape(3, 8)[:, ::2],
    lambda x: mx.take(x, mx.array([3, 1, 1]), axis=0),
    lambda x: mx.softmax(x, axis=-1),
    lambda x: mx.cumsum(x, axis=1),
    lambda x: mx.fast.layer_norm(x, None, None, 1e-5),
    lambda x: mx.fast.rms_norm(x, mx.ones((6,)), 1e-5),
    lambda x: mx.var(x, axis=0),
    lambda x: mx.logsumexp(x, axis=1),
    lambda x: mx.conv1d(x[None], mx.ones((2, 3, 6))),
    lambda x: mx.pad(x, 1)[1:, 1:],
    lambda x: mx.where(mx.arange(6) > 2, x, 0.5),
    lambda x: x[:, :, None] - x[:, None, :],
    lambda x: mx.tensordot(x, mx.ones((4, 2)), [[0], [0]]),
    lambda x: mx.fast.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None], scale=0.5),
    lambda x: mx.vmap(lambda row: row * mx.sum(row))(x),
]


@pytest.mark.parametrize("op", PASSED_ON)
@pytest.mark.parametrize("bad", [mx.nan, mx.inf, -mx.inf])
def test_the_element_is_found_without_which_the_result_is_finite(
    op: Callable[[mx.array], mx.array], bad: float
) -> None:
    """For each bad element of a result: where `follow` says that it came from is an element of x without which it is
    finite, or an op that makes a NaN out of the ∞."""
    x = mx.sin(mx.arange(24)).reshape(4, 6)
    x[2, 4] = bad
    x[0, 5] = bad
    found = session(lambda x: op(x).sum(), x)
    out = found.tape.passes[0].loss.op.inputs[0]  # type: ignore[union-attr]
    look = Look(found)
    flat = out.array.flatten()
    for at in range(0, out.size, max(out.size // 7, 1)):
        if mx.isfinite(flat[at]).item():
            continue
        birth = follow(look, out, at).root
        assert birth.op is None, birth
        row, column = divmod(birth.at, 6)  # of `x`, which is (4, 6)
        assert (row, column) in ((2, 4), (0, 5))
        twin = mx.array(x)
        twin[row, column] = 0.25
        both = mx.array(twin)
        both[2, 4] = both[0, 5] = 0.25
        repaired = op(twin).flatten()[at]
        # Without the one element it is finite, or was bad by both.
        assert mx.isfinite(repaired).item() or mx.isfinite(op(both).flatten()[at]).item()
        if op(x).size == 24 and op is PASSED_ON[0]:
            assert mx.isfinite(repaired).item()


def test_a_weight_that_came_in_with_a_nan_is_named_with_its_element() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    model.layers[0].weight[1, 2] = mx.nan
    found = session(lambda x: nn.losses.mse_loss(model(x), mx.ones((2, 1))), mx.ones((2, 3)), wrt=model)
    for asked in ("nan", "", "loss is nan"):
        said = text(why(found, asked))
        assert "layers.0.weight[1,2] came in as NaN" in said, said
        assert "1 NaN among 12" in said
        assert "overflow" not in said
    finding = health(found).warnings
    assert [one.kind for one in finding] == ["non-finite"]
    assert "layers.0.weight[1,2]" in finding[0].text


def test_a_broken_row_that_nobody_reads_is_not_blamed() -> None:
    """x[0] is NaN and never reaches the loss; the logarithm of −1 does."""
    x = mx.array([[mx.nan, 1.0], [-1.0, 2.0]])
    said = text(why(session(lambda w: mx.log(x * w)[1].sum(), mx.ones((2,))), "nan"))
    assert "log" in said
    assert "negative" in said
    assert "came in" not in said


def test_a_mask_is_not_blamed_for_a_later_overflow() -> None:
    def loss(w: mx.array) -> mx.array:
        p = mx.softmax(w + mx.log(mx.array([1.0, 1.0, 0.0])))
        h = mx.exp(p * 1000)
        return (h - h).sum()

    found = session(loss, mx.array([1.0, 2.0, 3.0]))
    for asked in ("nan", "inf", "loss is nan"):
        answer = why(found, asked)
        assert answer.op is not None
        assert answer.op.name == "exp"
        assert "log(" not in text(answer)
    assert "exp(" in health(found).warnings[0].text


def test_an_infinity_that_is_divided_away_is_told_and_a_mask_is_not() -> None:
    def overflows(w: mx.array) -> mx.array:
        return (w / mx.sqrt((w * w).sum())).sum()

    found = session(overflows, mx.array([200.0, 200.0, 1.0], dtype=mx.float16))
    answer = why(found, "inf")
    assert answer.op is not None
    assert answer.op.name == "sum"
    assert "in float32 it would be 80001" in text(answer)
    assert [one.kind for one in health(found).warnings] == ["non-finite"]  # the zero gradient has the same cause
    sound = session(overflows, mx.array([2.0, 2.0, 1.0], dtype=mx.float16))
    assert "finite" in why(sound, "inf").headline
    assert health(sound).warnings == []
    mask = mx.array([0.0, -mx.inf, 0.0])
    masked = session(lambda w: (mx.softmax(w + mask) * mx.arange(3)).sum(), mx.array([1.0, 2.0, 3.0]))
    assert health(masked).warnings == []
    assert why(masked, "inf").op is None


def test_an_overflow_is_only_claimed_where_a_wider_dtype_shows_it() -> None:
    over = text(why(session(lambda w: (w * w).sum(), mx.array([3e19, 1.0])), "inf"))
    assert "overflows float32" in over
    assert "9.000e+38" in over
    nan = text(why(session(lambda w: (w * w).sum(), mx.array([mx.nan, 1.0])), "nan"))
    assert "overflow" not in nan


def test_the_infinity_of_the_forward_pass_is_behind_the_nan_of_its_slope() -> None:
    """e = exp(100) is ∞, 1 / e is 0: a finite loss, and 0 · ∞ in the gradient."""
    answer = why(session(lambda w: (1 / mx.exp(w)).sum(), mx.array([1.0, 100.0])), "nan")
    assert answer.op is not None
    assert (answer.op.name, answer.op.phase) == ("exp", "forward")
    assert "Where it is ∞ the gradient became NaN in #6, the VJP of exp" in text(answer)
    program = session(lambda w: (mx.log(w) * mx.array([1.0, 0.0])).sum(), mx.array([1.0, 0.0]))
    assert "Of the ∞ it became NaN in #3, #1 * #2 " in text(why(program, "nan"))  # −∞ · 0
    assert "Where it is ∞ the gradient became NaN in #7, the VJP of log" in text(why(program, "grad(w) nan"))  # 0 / 0


def test_a_clean_bill_says_what_was_looked_at() -> None:
    answer = why(session(lambda w: (w * w).sum(), mx.array([1.0, 2.0])), "nan")
    assert answer.op is None
    assert "6 tensors" in answer.headline or "tensors of pass 1" in answer.headline


def test_many_ops_are_followed_fast() -> None:
    def deep(w: mx.array) -> mx.array:
        x = mx.log(w)
        for _ in range(600):
            x = x * 0.999 + 0.001
        return x.sum()

    answer = why(session(deep, mx.array([-1.0, 2.0])), "nan")
    assert answer.op is not None
    assert answer.op.name == "log"


def test_an_infinite_gradient_that_comes_to_a_softmax_is_no_mask() -> None:
    """ln(0) after a softmax: its slope −∞ comes back to the softmax, and is nothing that the program meant."""
    x = mx.array([[200.0, 0.0], [1.0, 2.0]])
    answer = why(session(lambda x: mx.log(mx.softmax(x, axis=-1))[:, 1].sum(), x), "grad(x) is nan")
    assert "log(" in answer.headline
    assert "on purpose" not in text(answer)


def test_an_overflow_that_came_in_is_blamed_where_the_sum_would_overflow_as_well() -> None:
    z = mx.array([60000.0, 300.0, 50000.0, 100.0], mx.float16)
    answer = why(session(lambda z: (z * mx.array([1, 300, 1, 1], mx.float16)).sum(), z), "nan")
    assert "z * " in answer.headline, answer.headline
    sound = why(session(lambda z: (z * mx.array([1, 1, 1, 1], mx.float16)).sum(), z), "nan")
    assert "sum(" in sound.headline, sound.headline


def test_a_power_that_overflows_is_no_root_of_a_negative_number() -> None:
    z = mx.array([-300.0, 2.0], mx.float16)
    answer = why(session(lambda z: (z**2).sum(), z), "nan")
    assert "overflows float16" in text(answer), text(answer)
    assert "not whole" not in text(answer)
    assert "not whole" in text(why(session(lambda z: (z**0.5).sum(), z), "nan"))


def test_a_number_that_is_too_large_for_its_new_dtype_is_said_so() -> None:
    answer = text(why(session(lambda z: (z * 1e6).astype(mx.float16).sum(), mx.array([1.0])), "nan"))
    assert "It overflows float16, whose largest number is 65504." in answer
    assert "{" not in answer


def test_a_bad_result_of_a_nested_gradient_is_born_inside_of_it() -> None:
    """And what is done with a good one makes its own."""

    def loss(x: mx.array, w: mx.array) -> mx.array:
        slope = mx.grad(lambda y: mx.sqrt(y).sum())(x)
        return (slope * mx.log(w)).sum()

    made = OpenSession(nnrepl.trace(loss, mx.array([1.0, 0.0, 4.0]), mx.array([1.0, 2.0, 0.0]), wrt=0))
    product = next(op for op in made.tape.ops if op.name == "multiply" and not op.inner and op.of is None)
    look = Look(made)
    born = [follow(look, product.outputs[0], at).root.op for at in (1, 2)]
    assert [(op.name, op.inner) for op in born if op is not None] == [("vjp of sqrt", True), ("log", False)]


@pytest.mark.parametrize("bad", [mx.nan, mx.inf])
def test_a_number_in_the_call_is_told_of_its_op_and_not_of_the_slope(bad: float) -> None:
    """The loss is finite: only the gradient shows the number that stands in the program."""

    def loss(w: mx.array) -> mx.array:
        h = w.sum() * bad
        return mx.where(h < 0, h, w.sum())

    opened = session(loss, mx.array([0.5, 1.0]))
    written = next(op for op in opened.tape.ops if op.name == "multiply")
    assert f"{written.label}, " in (said := text(why(opened, "nan"))), said
    assert "in its call" in said
    assert "out of finite numbers" not in said


@pytest.mark.parametrize(("dtype", "small"), [(mx.float16, "1e-4"), (mx.float32, "1e-8"), (mx.bfloat16, "1e-8")])
def test_what_is_to_be_added_is_a_number_in_that_dtype(dtype: mx.Dtype, small: str) -> None:
    """1e-8 is 0 in float16."""
    x = mx.array([0.0, 1.0], dtype)
    assert f"mx.sqrt(x + {small})" in text(why(session(lambda x: mx.sqrt(x).sum(), x), "grad(x)"))
    assert mx.isfinite(mx.grad(lambda x: mx.sqrt(x + float(small)).sum())(x)).all()


@pytest.mark.parametrize(
    ("left", "right", "combine"),
    [
        ((4, 6), (6, 3), mx.matmul),
        ((2, 4, 6), (6, 3), mx.matmul),
        ((2, 4, 6), (2, 6, 3), mx.matmul),
        ((2, 5, 2, 3), (2, 5, 3, 4), mx.matmul),
        ((2, 3), (3,), mx.add),
        ((2, 1, 3), (4, 1), mx.multiply),
    ],
)
def test_the_numbers_of_an_element_are_those_of_which_mlx_makes_it(
    left: tuple[int, ...], right: tuple[int, ...], combine: Callable[[mx.array, mx.array], mx.array]
) -> None:
    """Read off beside the whole: at their places, and they make the element."""
    a, b = (mx.arange(float(mx.zeros(shape).size)).reshape(shape) % 7 - 3 for shape in (left, right))
    for op in session(combine, a, b, wrt=None).tape.ops:
        (value,) = op.outputs
        for at in range(value.size):
            numbers = []
            for taken in op.inputs:
                piece = _operands_of(op, value, at, taken)
                assert piece is not None
                found, first, step = piece
                flat = taken.array.reshape(-1).tolist()
                assert found.tolist() == [flat[first + step * k] for k in range(found.size)]
                numbers.append(found)
            made = combine(*numbers)
            assert made.item() == value.array.reshape(-1)[at].item()
