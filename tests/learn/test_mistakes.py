"""Mistakes: each wrong answer is the number that a person gets who goes wrong in that way, worked out here by hand."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.explain.look import Look
from nnrepl.learn import posing, rules
from nnrepl.learn import wrong_products as products
from nnrepl.learn.answers import CHOICE, NAMES, NUMBER, SHAPE, NoAnswer, near, read, same
from nnrepl.learn.asking import ask
from nnrepl.learn.mistakes import RULES, mistakes
from nnrepl.learn.slips import slips
from nnrepl.ops import ENTRIES
from tests.support import OpenSession

X = [[1.0, 2.0], [3.0, -1.0]]
W = [[0.5, -1.0], [0.25, 2.0]]
B = [0.5, -0.25]


def _loss_fn(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
    product = x @ w  # [[1, 3], [1.25, -5]]
    z = product + b
    a = mx.maximum(z, 0)  # [[1.5, 2.75], [1.75, 0]]
    share = mx.softmax(a, axis=-1)
    surprise = -mx.log(share)
    scaled = surprise / 4.0
    error = a - 2.0
    squared = mx.square(error)
    return mx.mean(squared) + mx.sum(scaled) * 0.5


@pytest.fixture(scope="module")
def session() -> OpenSession:
    made = OpenSession(nnrepl.trace(_loss_fn, mx.array(X), mx.array(W), mx.array(B), wrt=(0, 1, 2)))
    made.goto("end")
    return made


def _share(row: list[float], at: int) -> float:
    return math.exp(row[at]) / sum(math.exp(it) for it in row)


@pytest.mark.parametrize(
    ("asked", "typed", "said"),
    [
        ("product[0, 1]", -3.0, "look at the sign"),
        ("product[0, 1]", 4.0, "You forgot the product x[0,0] · w[0,1]."),
        ("product[0, 1]", -1.0, "You forgot the product x[0,1] · w[1,1]."),
        ("product[0, 1]", 4.25, "That takes row 1 of w"),
        ("product[0, 1]", 1.25, "Row and column are the wrong way round: that is product[1,0]."),
        ("product[0, 1]", -5.0, "That is product[1,1]; asked is product[0,1], and one counts from 0."),
        ("product[1, 0]", 0.75, "without its factors x"),
        ("z[0, 1]", 3.0, "You forgot to add b[1]."),
        ("z[0, 1]", 3.25, "b[1] is added, not subtracted."),
        ("z[0, 1]", 3.75, "You forgot the product x[0,0] · w[0,1]."),
        ("a[1, 1]", -5.25, "ReLU is still to come"),
        ("a[1, 1]", 5.25, "not its absolute value"),
        ("a[0, 0]", 1.0, "You forgot to add b[0]."),
        ("error[0, 1]", 4.75, "2 is subtracted, not added."),
        ("error[0, 1]", 2.75, "You forgot to subtract 2."),
        ("squared[0, 1]", 1.5, "doubled"),
        ("squared[0, 1]", -0.5625, "look at the sign"),
        ("squared[0, 1]", 4.75**2, "2 is subtracted, not added."),
        ("share[0, 0]", math.exp(1.5), "divided by the sum"),
        ("share[0, 0]", 1.5 / 4.25, "takes e to the power"),
        ("share[0, 0]", 0.5, "if all were equal"),
        ("share[0, 0]", _share([1.5, 1.75], 0), "along the wrong axis"),
        ("surprise[0, 0]", -math.log10(_share([1.5, 2.75], 0)), "to base 10"),
        ("scaled[0, 0]", -math.log(_share([1.5, 2.75], 0)), "You forgot to divide by 4."),
        ("grad(squared)[0, 0]", 1.0, "its share, 1/4"),
        ("grad(error)[0, 0]", -1.0, "2·x alone"),
        ("grad(z)[1, 1]", None, "only where z is positive"),
    ],
)
def test_a_wrong_answer_is_known(session: OpenSession, asked: str, typed: float | None, said: str) -> None:
    found = ask(session, asked)
    assert found.value is not None
    known = mistakes(Look(session), found.value, found.index)
    meant = [it for it in known if said in it.said]
    assert meant, [(it.value, it.said) for it in known]
    if typed is not None:
        assert any(near(float(it.value), typed) for it in meant)
    right = float(found.result)
    assert not any(near(float(it.value), right) for it in known), "a right answer is called wrong"
    assert len({round(float(it.value), 9) for it in known}) == len(known)


def _linear_loss(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
    z = mx.addmm(b, x, w.T)
    return mx.sum(z * mx.array([[1.0, 10.0], [100.0, 1000.0]]))


def _batched_loss(q: mx.array, k: mx.array) -> mx.array:
    scores = q @ k
    return mx.sum(scores * scores)


Q = mx.arange(12, dtype=mx.float32).reshape(2, 2, 3)
K = mx.arange(12, dtype=mx.float32).reshape(2, 3, 2) + 1


@pytest.mark.parametrize(
    ("asked", "typed", "said"),
    [
        ("z[0, 1]", 4.25, "You forgot to add b."),  # 1·0.25 + 2·2
        ("z[0, 1]", 3.75, "You forgot the product x[0,0]"),
        ("grad(b)[1]", 10.0, "That is row 0 of the batch alone"),
        ("grad(b)[1]", 505.0, "mean over the batch"),
        ("scores[1, 0, 1]", 6 * 8 + 7 * 10.0, "You forgot the product q[1,0,2] · k[1,2,1]."),
    ],
)
def test_a_wrong_answer_of_a_layer_is_known(asked: str, typed: float, said: str) -> None:
    if asked.startswith("scores"):
        trace = nnrepl.trace(_batched_loss, Q, K, wrt=(0, 1))
    else:
        trace = nnrepl.trace(_linear_loss, mx.array(X), mx.array(W), mx.array(B), wrt=(0, 1, 2))
    session = OpenSession(trace)
    session.goto("end")
    found = ask(session, asked)
    assert found.value is not None
    known = mistakes(Look(session), found.value, found.index)
    meant = [it for it in known if said in it.said]
    assert any(near(float(it.value), typed) for it in meant), [(it.value, it.said) for it in known]


def test_the_gradient_of_a_weight_is_a_sum_over_the_batch(session: OpenSession) -> None:
    found = ask(session, "grad(w)[0, 0]")
    assert found.value is not None
    left, came = ask(session, "x[0, 0]").result, ask(session, "grad(product)[0, 0]").result
    known = mistakes(Look(session), found.value, found.index)
    meant = [it for it in known if it.said == "You forgot the product x[0,0] · ∂L/∂product[0,0], a row of the batch."]
    assert len(meant) == 1
    assert near(float(meant[0].value), float(found.result) - left * came)


def test_whoever_plays_a_lesson_has_every_rule() -> None:
    """They enter themselves: a module that nothing imports has none, and these tests import them all."""
    has_rules = {path.stem for path in Path(rules.__file__).parent.glob("*.py") if "\n@rule(" in path.read_text()}
    imported = Path(posing.__file__).read_text().partition("from nnrepl.learn import ")[2].partition("  #")[0]
    assert has_rules
    assert has_rules <= set(imported.split(", "))


def test_every_rule_is_for_an_op_that_there_is() -> None:
    assert products
    assert rules
    for name in RULES:
        assert name.removeprefix("vjp of ") in ENTRIES, name


def test_the_links_of_the_chain_rule(session: OpenSession) -> None:
    for name in ("grad(error)[0, 1]", "grad(z)[0, 0]"):
        found = ask(session, name)
        assert found.value is not None
        said = " ".join(it.said for it in mistakes(Look(session), found.value, found.index))
        assert "sign" in said or "itself" in said


@pytest.mark.parametrize(
    ("expression", "typed", "said"),
    [
        ("b[0] - 0.5 * w[1, 1]", 1.5, "subtracted, not added"),
        ("b[0] - 0.5 * w[1, 1]", 0.5, "forgot to subtract"),
        ("b[0] - 0.5 * w[1, 1]", -1.5, "forgot the factor `0.5`"),
        ("b[0] - 0.5 * w[1, 1]", 0.5 - 0.5, "forgot the factor `w[1, 1]`"),
        ("z[0, 1] / w[1, 0]", 2.75, "forgot to divide"),
        ("z[0, 1] / w[1, 0]", 0.25 / 2.75, "other way round"),
        ("z[0, 1] / w[1, 0]", 2.75 * 0.25, "divided by `w[1, 0]`, not multiplied"),
    ],
)
def test_a_slip_in_an_expression_is_known(session: OpenSession, expression: str, typed: float, said: str) -> None:
    right = float(ask(session, expression).result)
    found = [it for it in slips(session, expression, right) if said in it.said]
    assert any(near(float(it.value), typed) for it in found), [(it.value, it.said) for it in found]


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("3", 3.0), ("-3.5", -3.5), ("−3,5", -3.5), ("7/2", 3.5), ("-7 / 2", -3.5), ("1e-3", 0.001), ("= 2.", 2.0),
        ("≈ 0.25", 0.25), ("2*3+1", 7.0), ("2·3", 6.0), ("2×3", 6.0), ("6÷3", 2.0), ("2^3", 8.0), ("(1+2)*2", 6.0),
        ("50 %", 0.5), ("+4", 4.0), (".5", 0.5), ("0,25", 0.25), ("-inf", -math.inf), ("-∞", -math.inf),
    ],
)  # fmt: skip
def test_a_number_however_it_is_typed(typed: str, number: float) -> None:
    assert read(typed, NUMBER).value == number


@pytest.mark.parametrize(
    "typed", ["", "abc", "1 2", "1,2,3", "__import__('os')", "(1", "2**9**9**9", "1/0", "True", "x"]
)
def test_what_is_no_number(typed: str) -> None:
    with pytest.raises(NoAnswer):
        read(typed, NUMBER)


@pytest.mark.parametrize(
    ("typed", "wanted", "right"),
    [
        ("-2.4", -2.383, True), ("-2.38", -2.383, True), ("-2", -2.383, False), ("-2.5", -2.383, False),
        ("0.5761", 0.57612, True), ("0.6", 0.57612, True), ("0.5", 0.57612, False), ("0", 0.0, True),
        ("0.001", 0.0, False), ("11", 11, True), ("11.1", 11, False), ("3", 3.0, True), ("nan", math.nan, True),
        ("0", math.nan, False), ("inf", math.inf, True), ("-inf", math.inf, False),
    ],
)  # fmt: skip
def test_how_near_is_right(typed: str, wanted: float, right: bool) -> None:
    assert same(read(typed, NUMBER), wanted, NUMBER) is right


def test_shapes_names_and_choices() -> None:
    for typed in ("(2, 3)", "2,3", "2 3", "2x3", "[2, 3]", "2 × 3"):
        assert same(read(typed, SHAPE), (2, 3), SHAPE), typed
    assert same(read("()", SHAPE), (), SHAPE)
    assert not same(read("3, 2", SHAPE), (2, 3), SHAPE)
    known = ("weight", "bias")
    for typed in ("weight, bias", "bias and weight", "all", "weight;bias"):
        assert same(read(typed, NAMES, known), {"weight", "bias"}, NAMES)
    assert same(read("none", NAMES, known), set(), NAMES)
    assert read("b", CHOICE, ("one", "two")).value == 2
    assert read("Two", CHOICE, ("one", "two")).value == 2
    for typed in ("ab", "c", "3"):
        with pytest.raises(NoAnswer):
            read(typed, CHOICE, ("one", "two"))
