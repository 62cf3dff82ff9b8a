"""Leaps: which loss is called one that leapt; and how a condition stands beside a place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from nnrepl.session.conditions import split_condition
from nnrepl.session.errors import UserError
from nnrepl.session.leaps import FAR, leap, size_of_loss


def step(number: int, loss: Any, **given: Any) -> Any:
    if loss is None:
        return SimpleNamespace(number=number, loss=None)
    array = mx.array(loss)
    known = {"size": array.size, "evaluated": True, "refusal": "", "array": array}
    return SimpleNamespace(number=number, loss=SimpleNamespace(**{**known, **given}))


def leapt(*losses: Any) -> tuple[int, int] | None:
    """The number of the step that leapt, with that of the step before, which is 0 where there is none."""
    tape: Any = SimpleNamespace(steps=[step(number, loss) for number, loss in enumerate(losses, 1)])
    found = leap(tape)
    return None if found is None else (found[0].number if found[0] is not None else 0, found[1].number)


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([1.0, 2.0, 1.0], None), ([1.0, 1e6], None), ([1.0, 1.1e6], (1, 2)), ([2.0, None, -2.1e6, 1.0], (1, 3)),
        ([2e12], (0, 1)), ([9e11, 1.0], None), ([0.0, 900.0], None), ([0.0, 1100.0], (1, 2)),
        ([1.0, mx.inf, 1e9], None), ([mx.nan, 1e9], None), ([1.0, [1e9, 1e9], 3.0], None), ([], None),
        ([1e-9, 1.0, 2e6], (2, 3)),
    ],
)  # fmt: skip
def test_a_loss_leaps_that_is_finite_and_a_million_times_as_large(losses: Any, found: Any) -> None:
    assert FAR == 1e6
    assert leapt(*losses) == found


def test_a_loss_that_would_have_to_be_computed_is_not_known() -> None:
    assert size_of_loss(step(1, -3.0)) == 3.0
    assert size_of_loss(step(1, [3.0])) == 3.0
    for known in ({"evaluated": False}, {"refusal": "it cannot be"}, {"size": 2}):
        assert size_of_loss(step(1, 3.0, **known)) is None
    assert size_of_loss(step(1, None)) is None


@pytest.mark.parametrize(
    ("text", "place", "condition"),
    [
        ("matmul", "matmul", ""), ("matmul, z > 3", "matmul", "z > 3"), ("matmul if z > 3", "matmul", "z > 3"),
        ("if z > 3", "", "z > 3"), ("f(1, 2)", "f(1, 2)", ""), ("x[1, 2], a if b else c", "x[1, 2]", "a if b else c"),
        ("matmul if z[0, 1] > 3", "matmul", "z[0, 1] > 3"), ("a if b, c", "a", "b, c"), ("notif x", "notif x", ""),
        ("{1, 2}) , b", "{1, 2})", "b"), ("matmul  if   z", "matmul", "z"), ("", "", ""),
    ],
)  # fmt: skip
def test_a_place_and_a_condition_are_two(text: str, place: str, condition: str) -> None:
    assert split_condition(text) == (place, condition)


def test_what_is_missing_beside_a_comma_is_said() -> None:
    with pytest.raises(UserError, match="a place is missing: break matmul"):
        split_condition(", z > 3")
    with pytest.raises(UserError, match="a condition is missing after the comma: break matmul, z1"):
        split_condition("matmul, ")
