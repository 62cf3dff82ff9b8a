"""Caches: what a `functools.lru_cache` holds, in which order it will throw it out, and how it is put back.

A cache with a `maxsize` is a chain of links made in C, which Python cannot reach. What it holds is seen by the garbage
collector, one link after another; and it is filled as the program fills it, by calling the function that it caches,
with a body for that moment which gives what was held.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

_MANY = 100_000
"""How many calls a cache may count for the count to be put back."""


def cache_of(thing: Any) -> dict[Any, Any] | None:
    """Return the dict of an `lru_cache`: without a `maxsize` it holds what the function gave as it is."""
    own = getattr(thing, "__dict__", None)
    found = [part for part in gc.get_referents(thing) if type(part) is dict and part is not own]
    return found[0] if len(found) == 1 else None


def entries_of(thing: Any) -> list[tuple[Any, Any]] | None:
    """Return the keys and results that an `lru_cache` holds, what it throws out next first; None if that cannot be
    told."""
    cache = cache_of(thing)
    if cache is None:
        return None
    if thing.cache_parameters()["maxsize"] is None:
        return list(cache.items())
    parts = gc.get_referents(thing)
    keys = {id(key) for key in cache}
    start = next((at for at, part in enumerate(parts) if id(part) in keys), 0)
    entries = [(parts[at], parts[at + 1]) for at in range(start, start + 3 * len(keys), 3) if at + 1 < len(parts)]
    return entries if {id(key) for key, _ in entries} == keys and len(entries) == len(keys) else None


def results_of(thing: Any) -> tuple[Any, ...]:
    """Return what an `lru_cache` has kept."""
    return tuple([result for _, result in entries_of(thing) or ()])


def keep_cache(thing: Any) -> Callable[[], None]:
    """Remember what an `lru_cache` holds. What cannot be put back into it is computed again."""
    before, counts = entries_of(thing), thing.cache_info()

    def restore() -> None:
        now = entries_of(thing)
        if now is None or before is None:
            thing.cache_clear()
        elif not _same(now, before) or thing.cache_info() != counts:
            fill(thing, before, counts.hits, counts.misses)

    return restore


def exchange(thing: Any, other: Callable[[Any], Any]) -> list[Any]:
    """Let an `lru_cache` hold something else where it holds some results. Returns those."""
    before, counts = entries_of(thing) or [], thing.cache_info()
    after = [(key, other(result)) for key, result in before]
    if _same(before, after):
        return []
    fill(thing, after, counts.hits, counts.misses)
    return [result for (_, result), (_, new) in zip(before, after) if new is not result]


def fill(thing: Any, entries: list[tuple[Any, Any]], hits: int, misses: int) -> None:
    """Let an `lru_cache` hold these entries, and have counted so many calls; where that cannot be done it is empty."""
    thing.cache_clear()
    mark = next((part for part in reversed(gc.get_referents(thing)) if type(part) is object), None)
    calls = [_call_of(key, mark) for key, _ in entries]
    function = thing.__wrapped__
    if not isinstance(function, FunctionType) or thing.cache_parameters()["typed"]:
        return
    with _giving(function) as give:
        for _ in range(min(misses - len(entries), _MANY)):
            give(None, fails=True)
            try:
                thing(_NOBODY)
            except _NotKept:
                continue
        for (_, result), (args, kwargs) in zip(entries, calls):
            give(result)
            thing(*args, **kwargs)
        for _ in range(min(hits, _MANY) if calls else 0):
            thing(*calls[-1][0], **calls[-1][1])


class _NotKept(Exception):
    """Raised in the place of a function: a call that a cache counts and does not keep."""


_NOBODY = object()


def _call_of(key: Any, mark: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of which a cache has made a key: one number or text, or a tuple of all, in which a mark
    stands before those that have names."""
    if type(key) is not tuple:
        return (key,), {}
    end = next((at for at, part in enumerate(key) if part is mark), len(key))
    named = key[end + 1 :]
    return key[:end], dict(zip(named[::2], named[1::2]))


def _same(entries: list[tuple[Any, Any]], others: list[tuple[Any, Any]]) -> bool:
    return len(entries) == len(others) and all(
        [key is other and result is held for (key, result), (other, held) in zip(entries, others)]
    )


@contextmanager
def _giving(function: FunctionType) -> Iterator[Callable[..., None]]:
    """Let a function give for a while what it is told to."""
    own = function.__code__

    def give(result: Any, fails: bool = False) -> None:
        body, place = (_fails.__code__, _NotKept) if fails else (_gives.__code__, result)
        function.__code__ = _with_constant(body, place).replace(co_freevars=own.co_freevars)

    try:
        yield give
    finally:
        function.__code__ = own


def _gives(*_: Any, **__: Any) -> Any:
    return "the result"


def _fails(*_: Any, **__: Any) -> Any:
    failure: Any = "the result"
    raise failure


def _with_constant(code: CodeType, thing: Any) -> CodeType:
    """Return the code of a function with a thing in the place of the text in it."""
    return code.replace(co_consts=tuple([thing if part == "the result" else part for part in code.co_consts]))
