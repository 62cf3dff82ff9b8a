"""Reasons: why a choice, a yes, a count, a shape is not so. Each is held against numbers that are worked out here."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.learn.apart import apart
from nnrepl.learn.reasons import counted, evidence, why_no_member, why_not
from nnrepl.learn.wrong_shapes import reply_to_shape, shape_mistakes
from tests.learn.playing import lesson_of, played
from tests.support import OpenSession

X = [[1.0, 2.0], [3.0, -1.0]]
W = [[0.5, -1.0], [0.25, 2.0]]


def _loss_fn(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
    z = x @ w + b  # [[1, 3], [1.25, -5]]
    a = mx.maximum(z, 0)
    share = mx.softmax(a, axis=-1)
    return mx.mean(share[:, 0])


def _session() -> OpenSession:
    return OpenSession(nnrepl.trace(_loss_fn, mx.array(X), mx.array(W), mx.zeros((2,)), wrt=(1, 2)))


@pytest.fixture(scope="module")
def session() -> OpenSession:
    made = _session()
    made.goto("end")
    return made


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("mx.all(a == z)", "Then `a[1, 1]` would be −5, which is `z[1, 1]`; it is not."),
        ("mx.all(a == mx.abs(z))", "Then `a[1, 1]` would be 5, which is `mx.abs(z)` (abs: drops the sign); it is not."),
        ("mx.all(a == 0)", "Then `a[0, 0]` would be 0; it is not."),
        ("mx.allclose(a, -z)", "Then `a[0, 0]` would be −1, which is `-z`; it is not."),
        ("mx.abs(a[0, 0] - z[0, 1]).max() < 1e-5", "Then `a[0, 0]` would be 3, which is `z[0, 1]`; it is not."),
        ("mx.abs(a[0, 0] + z[0, 1]) < 1e-5", "Then `a[0, 0]` would be −3, which is `-(z[0, 1])`; it is not."),
        ("a[0, 0] > 2", "would have to be more than 2; it is 1."),
        ("bool((a[0, 1] <= z[0, 0]).item())", "would have to be at most 1, which is `z[0, 0]`; it is 3."),
        ("0 < z[1, 1] < 9", "For that, `0` would have to be less than −5, which is `z[1, 1]`; it is 0."),
        ("a[0, 0] == 1 and a[0, 1] == 7", "Then `a[0, 1]` would be 7; it is not."),
        ("a[1, 1] != 0", "Then `a[1, 1]` would not be 0; it is."),
        ("mx.isnan(a[0, 0])", "Then `a[0, 0]` would be NaN; it is not."),
        ("mx.array_equal(a, z)", "For that, `mx.array_equal(a, z)` would have to hold; it does not."),
    ],
)  # fmt: skip
def test_why_a_condition_does_not_hold(session: OpenSession, condition: str, said: str) -> None:
    assert said in why_not(session, condition)


def test_what_is_asked_is_not_told() -> None:
    session = _session()
    session.goto("a")
    with apart(session):
        assert why_not(session, "a[0, 0] > 2") == "Then `a[0, 0]` would be more than 2; it is not."
        assert "a[1, 1]` would be 5" in why_not(session, "mx.all(a == mx.abs(z))")


@pytest.mark.parametrize(
    ("condition", "holds", "said"),
    [
        ("a[0, 0] < a[0, 1]", True, "`a[0, 0]` is 1, less than `a[0, 1]`, 3."),
        ("a[0, 1] < 2.5", False, "`a[0, 1]` is 3, not less than 2.5."),
        ("bool((mx.abs(a).max() == 3).item())", True, "`mx.abs(a).max()` is 3, the same as 3."),
        ("a[0, 0] != 1", False, "`a[0, 0]` is 1, the same as 1."),
        ("mx.all(z > -9)", True, "`z[0, 0]` is 1, more than −9."),
        ("(a[0, 0] + a[0, 1] + a[1, 0] + a[1, 1] + z[0, 0] + z[0, 1]) > 2", True, "It comes to 9.25, more than 2."),
        ("all(p < q for p, q in [(1, 2)])", True, ""),
    ],
)
def test_the_numbers_behind_a_yes_or_a_no(session: OpenSession, condition: str, holds: bool, said: str) -> None:
    assert evidence(session, condition, holds) == said


def test_every_number_of_a_reason_is_one_by_which_the_condition_fails(session: OpenSession) -> None:
    z = (mx.array(X) @ mx.array(W)).flatten().tolist()
    for bound in (-6.5, -0.5, 1.125, 2.0, 4.0):
        for sign in ("<", ">"):
            holds = all(eval(f"{it} {sign} {bound}") for it in z)  # type: ignore[union-attr]
            said = why_not(session, f"mx.all(z {sign} {bound})")
            if holds:
                assert said == f"For that, `mx.all(z {sign} {bound})` would have to hold; it does not."
                continue
            found = float(re.findall(r"it is (.*)\.$", said)[0].replace("−", "-"))
            assert found in z
            assert not eval(f"{found} {sign} {bound}")


@pytest.mark.parametrize(
    ("expression", "right", "typed", "said"),
    [
        ("int((z > 0).sum().item())", 3, 1, "how many there are where `z > 0` does not hold"),
        ("int(mx.sum(z > 0).item())", 3, 4, "That is all of them"),
        ("int((z > 0).sum().item())", 3, 2, "one too few"),
        ("int(mx.argmax(z[0]).item())", 1, 0, "`z[0][0]` is 1; there is a larger one."),
        ("int(mx.argmax(z[0]).item())", 1, 2, "One counts from 0."),
        ("z[1].argmin().item()", 1, 0, "`z[1][0]` is 1.25; there is a smaller one."),
        ("len([1, 2])", 2, 3, "one too many"),
    ],
)
def test_a_wrong_count_is_known(session: OpenSession, expression: str, right: int, typed: int, said: str) -> None:
    assert said in next(it.said for it in counted(session, expression, right) if it.value == typed)


def test_a_name_that_does_not_belong_is_told_why(session: OpenSession) -> None:
    text = '{n for n, g in {"a": a, "z": z}.items() if mx.all(g >= 0).item()}'
    assert why_no_member(session, text, "z") == "For that, `z[1, 1]` would have to be at least 0; it is −5."
    assert why_no_member(session, "{'a'}", "z") == ""
    assert why_no_member(session, text, "nothing") == ""
    assert why_no_member(session, text.replace("for", "for _ in [1] for", 1), "z") == ""


# -- shapes ----------------------------------------------------------------------------------------------------------


def _shapes(x: mx.array, w: mx.array, b: mx.array, q: mx.array) -> mx.array:
    z = x @ w + b  # (5, 4) @ (4, 3) + (3,)
    h = x @ w
    rows = mx.sum(z, axis=1)
    kept = mx.mean(z, axis=0, keepdims=True)
    whole = mx.max(z)
    apart = rows[:, None] - rows
    turned = z.T
    scores = q @ q.transpose(0, 2, 1)  # (2, 6, 7)
    flat = z.reshape(-1)
    return whole + h.sum() + kept.sum() + apart.sum() + turned.sum() + scores.sum() + flat.sum()


@pytest.fixture(scope="module")
def shaped() -> OpenSession:
    arrays = [mx.random.normal(shape) for shape in ((5, 4), (4, 3), (3,), (2, 6, 7))]
    made = OpenSession(nnrepl.trace(_shapes, *arrays, wrt=(0, 1, 2, 3)))
    made.goto("end")
    return made


@pytest.mark.parametrize(
    ("asked", "given", "said"),
    [
        ("h.shape", (3, 5), "The rows come from x, there are 5; the columns from w, 3."),
        ("h.shape", (5, 4), "is gone; the columns come from w"),
        ("h.shape", (4, 3), "The axis of 4 that x and w share is added up, and is gone; the rows come from x."),
        ("h.shape", (3,), "a row for each of the 5"),
        ("h.shape", (5, 4, 3), "is added up, and is gone."),
        ("scores.shape", (6, 6), "The axis of 2 in front stays"),
        ("scores.shape", (2, 6, 7), "The axis of 7"),
        ("z.shape", (3,), "That is the shape of b; it is stretched to that of the other."),
        ("z.shape", (15,), "It has 15 numbers, and they stand along 2 axes."),
        ("rows.shape", (5, 3), "before; sum makes one number of axis 1"),
        ("rows.shape", (5, 1), "it is not kept with 1"),
        ("rows.shape", (3,), "when axis 0 goes; here axis 1 goes"),
        ("rows.shape", (), "a single number is left when no axis is named"),
        ("kept.shape", (3,), "keepdims=True keeps it, 1 long"),
        ("kept.shape", (5, 1), "when axis 1 goes; here axis 0 goes"),
        ("whole.shape", (1,), "A single number has no axis"),
        ("apart.shape", (5,), "and the other to its"),
        ("apart.shape", (5, 1), "it is stretched"),
        ("turned.shape", (5, 3), "That is the shape of z, which goes in; the axes are others."),
        ("flat.shape", (5, 3), "which goes in; the axes are others"),
        ("grad(w).shape", (3, 4), "A gradient has the shape of what it belongs to, w; that is its transpose."),
        ("grad(w).shape", (5, 3), "what comes in"),
        ("grad(b).shape", (5, 3), "A gradient has the shape of what it belongs to, b"),
        ("grad(x).shape", (), "one number for each of its own"),
        ("tuple(h.shape)", (1, 5, 3), "There is no such axis of 1 in it."),
    ],
)
def test_a_wrong_shape_is_known(shaped: OpenSession, asked: str, given: tuple[int, ...], said: str) -> None:
    right = tuple(nnrepl.learn.asking.ask(shaped, asked).result)
    known = shape_mistakes(shaped, asked, right)
    assert said in next((it.said for it in known if it.value == given), f"nothing is known of {given}")
    assert right not in [it.value for it in known]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((9, 4, 2), "Look at the first axis; the rest is right."),
        ((3, 5, 6), "Look at the second and third axis; the rest is right."),
        ((7, 7), "It has 3 axes, not 2."),
        ((7, 7, 7), "None of its axes is so long."),
    ],
)
def test_any_other_shape_is_told_where_it_is_wrong(given: tuple[int, ...], said: str) -> None:
    assert reply_to_shape(given, (3, 4, 2)) == said


def test_a_student_is_never_told_only_that_it_is_not_so(tmp_path: Path) -> None:
    text = """```nnrepl
goto forward
```
```question
Which shape?
answer: z.shape
```
```question
Which one?
option: as it is :: mx.all(z == x)
option: another :: mx.any(z != x)
```
```question
Is it positive?
answer: bool((z > 0).all().item())
```
```question
Which are positive?
answer: {n for n, g in {"weight": weight, "bias": bias}.items() if mx.all(g > 0).item()}
```
```question
The row?
answer: x[0].tolist()
```
"""
    typed = "2/(1,2,3)/(3, 3)/2 3/2 2/1/2/yes/no/weight/none/2 1/-1 -2/1 3/1/1 2"
    lines = ["", *typed.split("/")]
    screen = played(lesson_of(tmp_path, text), lines)
    assert "Not so.\n" not in screen
    for said in ("it is stretched", "It has 2 axes, not 3.", "None of its axes is so long", "Look at the second axis",
                 "would be",
                 "is -0.75, not more than 0", "would have to be more than 0; it is -1", "the other way round",
                 "look at the signs", "look at number 2", "There are 2 of them, not 1"):  # fmt: skip
        assert said in screen, said
    assert screen.count("✓ Right") == 5
