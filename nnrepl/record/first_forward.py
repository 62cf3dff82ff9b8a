"""First forward: what ends a closed stretch of a program of which no forward pass has begun yet.

The user is to stand at the first op of that, if it ever comes. It begins where a Module's parameter is read (see
`nnrepl.record.phases.starts`), so whatever reads one, and whatever makes a Module, is recorded from there on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nnrepl.late import late
from nnrepl.record.native import Levels, noticing
from nnrepl.record.patches import Patches

_READERS = ("__init__", "__getattr__", "__getitem__")


def awaited(levels: Levels, patches: Patches) -> None:
    """Put in what notices that a Module is made, or gives a parameter."""
    kind = late("mlx.nn.layers.base").Module  # also where the program has not imported it: it may do so now
    for name in _READERS:
        patches.set(kind, name, _noticed(levels, getattr(kind, name)))


def _noticed(levels: Levels, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if levels.resting and noticing() is levels:
            levels.wake()
        return original(*args, **kwargs)

    return wrapper
