"""Changing: which array objects some Python changes in place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from nnrepl.record.native_reads import IN_PLACE
from nnrepl.record.patches import Patches

_copy = mx.array.__copy__
Changed = dict[int, tuple[mx.array, mx.array]]
"""The array objects that were changed, by `id`, and what they held before."""


@contextmanager
def changes_in_place() -> Iterator[Changed]:
    """Note what is changed in place inside (`x[i] = v`, `x += y`), and what it held before."""
    changed: Changed = {}
    patches = Patches()
    try:
        for name in IN_PLACE:  # inside: Ctrl-C may come between two of them
            patches.set(mx.array, name, _noting(changed, vars(mx.array)[name]))
        yield changed
    finally:
        patches.undo()


def _noting(changed: Changed, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(array: mx.array, *args: Any) -> Any:
        if id(array) not in changed:
            changed[id(array)] = (array, _copy(array))
        return original(array, *args)

    return wrapper
