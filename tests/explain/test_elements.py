"""Which element of a tensor is explained where none was asked for."""

from __future__ import annotations

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.explain.elements import telling_of
from nnrepl.explain.look import Look
from tests.support import OpenSession

NAN, INF, LOWEST = float("nan"), float("inf"), -3e38


@pytest.mark.parametrize(
    ("numbers", "place"),
    [
        (mx.array([[1.0, -5.0], [2.0, 4.0]]), (0, 1)),
        (mx.array([[1.0, INF], [NAN, -INF]]), (1, 0)),
        (mx.array([[1.0, -INF], [2.0, INF]]), (1, 1)),
        (mx.array([-INF, 1.0, -INF, -2.0]), (3,)),
        (mx.array([LOWEST, 1.0, LOWEST, -2.0]), (3,)),
        (mx.array([1.0] * 19 + [-INF]), (19,)),
        (mx.array([1.0] * 8 + [-INF] + [3.0]), (8,)),
        (mx.array([1.0] * 7 + [-INF] + [3.0]), (8,)),
        (mx.array([-INF, -INF]), (0,)),
        (mx.array([LOWEST, LOWEST * 1.1]), (1,)),
        (mx.array([-3e38, 2e38]), (1,)),
        (mx.array([2, -7, 3]), (1,)),
        (mx.array([5, -128, 127], mx.int8), (1,)),
        (mx.array([5, 250, 3], mx.uint8), (1,)),
        (mx.array([False, True]), (1,)),
        (mx.array([1 + 1j, -2 + 2j, 1.5 + 0j]), (1,)),
        (mx.array([1.0, -8.0], mx.float16), (1,)),
        (mx.array(3.0), ()),
    ],
)
def test_a_nan_an_overflow_or_the_largest_is_told_and_no_mask(numbers: mx.array, place: tuple[int, ...]) -> None:
    look = Look(OpenSession(nnrepl.trace(lambda x: x, mx.ones(1))))
    assert telling_of(look, numbers) == place
