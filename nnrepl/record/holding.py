"""Holding: in which containers an array object lies, of all that are looked at, and what lies within one.

The first is asked where an array is given another value in place. A program that adds its gradients up in objects of
its own does that with every second op, and to walk over all that it holds each time makes a run of n ops cost n².
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import CodeType
from typing import Any

import mlx.core as mx

from nnrepl.record.containers import Watched, view_of
from nnrepl.record.stack import is_module

_array = mx.array
_WITHIN = 8


class HolderIndex:
    """An index from array objects to the containers that held them when they were looked at last.

    It is made when it is first asked: a program that changes no array in place pays for nothing. It holds numbers
    only, neither arrays nor containers, which go when the program lets go of them; what is asked of it is looked up
    among those that are known, so an entry of something that is gone, or has changed, does no harm.

    Args:
        known: The containers that are looked at, by their identity.
    """

    def __init__(self, known: Mapping[int, Watched]) -> None:
        self._known = known
        self._holding: dict[int, dict[int, None]] | None = None
        self._noted = self._at_most = 0

    def note(self, key: int, items: Iterable[Any]) -> None:
        """Note what a container holds now."""
        holding = self._holding
        if holding is None:
            return
        for item in items:
            if type(item) is _array:
                holding.setdefault(id(item), {})[key] = None
                self._noted += 1
        if self._noted > self._at_most:  # most are of arrays that are gone
            self._holding = None

    def holding(self, array: mx.array) -> Iterator[Watched]:
        """Every container that held the array when it was looked at last."""
        if self._holding is None:
            self._index()
        for key in list((self._holding or {}).get(id(array), ())):
            watched = self._known.get(key)
            if watched is not None and any(item is array for item in watched.last or ()):
                yield watched

    def _index(self) -> None:
        self._holding, self._noted, self._at_most = {}, 0, 1 << 62
        for key, watched in self._known.items():
            self.note(key, watched.last or ())
        self._at_most = 2 * self._noted + 4096


def within(outer: Watched, known: Mapping[int, Watched]) -> list[tuple[Any, Watched]]:
    """Return the first few containers in one of the program's own, which are looked at with it. A model has more
    of them than can be looked at with every op."""
    found: list[tuple[Any, Watched]] = []
    passed = {outer}
    pending = [] if outer.holder.kind.__module__.startswith("mlx") or is_module(outer.refer()) else [outer]
    while pending and len(passed) <= _WITHIN:
        for item in pending.pop(0).last or ():
            inner = known.get(id(item))
            if inner is None or inner in passed or is_module(item):
                continue
            passed.add(inner)
            pending.append(inner)
            if inner.holder.kind is not tuple:
                found.append((view_of(item), inner))
                if len(found) == _WITHIN:  # the rest of a long list is not looked at for what nobody takes
                    return found
    return found


def mentioned(module: Any, code: CodeType, known: Mapping[int, Watched]) -> list[tuple[Any, Watched]]:
    """Return the containers of a model that a function names, `self.cache`, and the first few in those: what it may
    change. Lists of layers are none."""
    found: list[tuple[Any, Watched]] = []
    for name in code.co_names:
        thing = dict.get(module, name)
        thing = module.__dict__.get(name) if thing is None else thing
        watched = known.get(id(thing)) if thing is not None else None
        if watched is None or watched.last is None or is_module(thing):
            continue
        if watched.holder.kind is not tuple and not any(map(is_module, watched.last)):
            found += [(view_of(thing), watched), *within(watched, known)]
    return found[:_WITHIN]
