"""Caches: an `lru_cache` is put back to what it held, what it had counted, and what it would throw out next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from nnrepl.replay.caches import cache_of, entries_of, exchange, fill, keep_cache, results_of


def cached(size: int | None, typed: bool = False) -> tuple[Any, list[Any]]:
    """A cache of a function with a closure, and the calls that came through it."""
    came: list[Any] = []

    def function(*args: Any, **kwargs: Any) -> list[Any]:
        came.append((args, kwargs))
        return [args, kwargs]

    return functools.lru_cache(size, typed)(function), came


CALLS: list[Callable[[Any], Any]] = [
    lambda f: f(1), lambda f: f("a"), lambda f: f(1, 2), lambda f: f(1, b=2, a=3), lambda f: f(a=1),
    lambda f: f((1, 2)), lambda f: f(), lambda f: f(1.5),
]  # fmt: skip


@pytest.mark.parametrize("size", [None, 8, 100])
def test_each_way_of_calling_is_found_again_as_it_was_put_back(size: int | None) -> None:
    made, came = cached(size)
    results = [call(made) for call in CALLS]
    for call in CALLS[:3]:
        call(made)
    assert list(results_of(made)) == (results if size is None else [*results[3:], *results[:3]])
    info, own = made.cache_info(), made.__wrapped__.__code__
    restore = keep_cache(made)
    made("another"), made("a"), made.cache_clear(), made("third")
    restore()
    assert made.cache_info() == info
    assert made.__wrapped__.__code__ is own
    came.clear()
    assert all(call(made) is result for call, result in zip(CALLS, results))
    assert not came


def test_what_is_thrown_out_next_is_the_same() -> None:
    made, came = cached(2)
    first, second = made(1), made(2)
    assert made(1) is first
    restore = keep_cache(made)
    made(2), made(3)
    restore()
    came.clear()
    made(4)
    assert made(1) is first
    assert [args for args, _ in came] == [(4,)]
    assert made(2) is not second


def test_what_has_not_changed_is_left_alone_and_what_only_was_counted_is_not() -> None:
    made, came = cached(4)
    kept = made(1)
    before = made.cache_info()
    restore = keep_cache(made)
    restore()
    assert made.cache_info() == before
    made(1)
    restore()
    assert (made.cache_info(), made(1)) == (before, kept)
    made.cache_clear()
    empty = made.cache_info()
    back = keep_cache(made)
    made(1), made(1)
    back()
    assert made.cache_info() == empty
    assert len(came) == 2


def test_calls_that_failed_are_counted_and_not_kept() -> None:
    @functools.lru_cache(4)
    def fails(x: int) -> int:
        if x > 1:
            raise ZeroDivisionError
        return x

    fails(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fails(2)
    info = fails.cache_info()
    restore = keep_cache(fails)
    fails(0)
    restore()
    assert fails.cache_info() == info
    assert entries_of(fails) == [(1, 1)]


def test_what_cannot_be_put_back_is_computed_again() -> None:
    typed, came = cached(4, typed=True)
    typed(1)
    restore = keep_cache(typed)
    typed(2)
    restore()
    assert entries_of(typed) == []
    came.clear()
    typed(1)
    assert came
    of_python = functools.lru_cache(4)(abs)
    of_python(-1)
    back = keep_cache(of_python)
    of_python(-2)
    back()
    assert entries_of(of_python) == []
    assert (entries_of(len), cache_of(len), results_of(len)) == (None, None, ())


@pytest.mark.parametrize("size", [None, 4])
def test_some_results_are_exchanged_and_the_others_stay(size: int | None) -> None:
    made, came = cached(size)
    one, two = made(1), made(2)
    assert made(1) is one
    made.of_the_programs_own = {}
    info = made.cache_info()
    assert exchange(made, lambda result: result) == []
    assert exchange(made, lambda result: "new" if result is one else result) == [one]
    assert made.cache_info() == info
    came.clear()
    assert (made(1), made(2)) == ("new", two)
    assert made(2) is two
    assert not came
    fill(made, [], 0, 0)
    assert made.cache_info()[:2] == (0, 0)
