"""Pairing: `diff` holds an op against the same place of the source on the other timeline, each time that it comes."""

from __future__ import annotations

import mlx.core as mx
import pytest

from tests.explain.test_said import lines, trace

W = mx.array([1.0, 2.0, 3.0])
KEYS = mx.random.split(mx.random.key(5), 8)


def drawing(w: mx.array, more: bool) -> mx.array:
    a = w * 2
    if (a.sum().item() < 0) != more:  # type: ignore[operator]
        a = a + mx.random.normal((3,), key=KEYS[0])
    b = mx.random.normal((3,), key=KEYS[7])
    c = mx.random.normal((3,), key=KEYS[2])
    return mx.sum(a * b + c)


@pytest.mark.parametrize("more", [False, True])
def test_a_draw_more_or_less_changes_no_other(more: bool) -> None:
    session = trace(drawing, W, more, wrt=0)
    shown = lines(session, "goto a", "step", "a = a * -1", "diff")
    differing = shown.split("first difference")[1].split("differ;")[0]
    assert "multiply" in differing
    assert "normal " not in differing
    assert f"3 ops on timeline {1 if more else 2} only, from " in shown


def looped(w: mx.array) -> mx.array:
    count = mx.sum(w) - 4
    w = mx.sin(w)
    noise = [mx.random.normal((3,), key=KEYS[i]) for i in range(int(count.item()))]  # type: ignore[arg-type]
    return mx.sum(w + noise[0]) + mx.sum(mx.random.normal((3,), key=KEYS[7]))


def test_a_loop_that_goes_round_once_more() -> None:
    session = trace(looped, W, wrt=0)
    shown = lines(session, "goto count", "step", "count = count + 1", "diff")
    assert "no value differs" in shown
    assert "the program goes another way: 2 ops on timeline 2 only, from " in shown


def branched(w: mx.array) -> mx.array:
    a = w * 2
    b = mx.exp(a) if a.sum().item() > 0 else mx.sin(a)  # type: ignore[operator]
    return mx.sum(b)


def test_what_comes_behind_another_branch_is_compared() -> None:
    session = trace(branched, W, wrt=0)
    shown = lines(session, "goto a", "step", "a = a * -1", "diff")
    assert "1 op on timeline 1 only, from #3 exp; 1 op on timeline 2 only, from " in shown
    assert "sum" in shown.split("first difference")[1].split("differ;")[0]
