"""Collector: keeps Python's garbage collector from walking the tape again and again.

Everything on the tape lives as long as the tape. Each full collection would walk all of it: a pause of a second after
8,000 small passes. So what was recorded is set aside now and then (`gc.freeze`), after a collection of what is new;
and it is given back (`gc.unfreeze`) before the program collects by itself, and where a tape may be let go of.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_collect = gc.collect
_OFTEN = 2_000
"""Ops that are recorded between two times at which they are set aside: a collection in a few milliseconds."""

_frozen: bool | None = None
"""Whether others had set aside what lives, once that has been asked or told."""
_set_aside = False
"""Whether anything of a recording is set aside. What `nnrepl.__main__` froze, before a program ran, stays so."""
_left = 0
"""How many tapes may have been let go of since the last time all was walked: each holds itself in circles."""
_MANY = 6
"""So many may wait: walking all takes longer than to run a small function again."""


class Collector:
    """Sets aside what one recorder has recorded.

    Attributes:
        due: The position on the tape at which it is time again.
    """

    def __init__(self) -> None:
        self.due = _OFTEN if _set_aside or frozen() else 0  # at once, unless the imports are set aside already
        self._set_aside = False

    def rest(self, position: int) -> None:
        """Set everything aside that lives now, once the garbage in what is new has been collected. What lived before
        the first time is not walked. Does nothing while the program has switched collections off."""
        global _left
        self.due = position + _OFTEN
        if gc.isenabled():
            _collect(2 if self._set_aside or _left >= _MANY else 1)
            _left = 0 if _left >= _MANY else _left
            set_aside()
            self._set_aside = True


@contextmanager
def paused() -> Iterator[None]:
    """Collect nothing while much is made that stays."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def set_aside() -> None:
    """Keep the collector from walking what lives now, until `wake`."""
    gc.freeze()
    _note(True)


def let_go() -> None:
    """Note that a tape may be let go of from here on."""
    global _left
    _left += 1
    wake()


def wake() -> None:
    """Note that a tape may be let go of from here on: the collector looks at everything once more."""
    global _frozen
    if _set_aside:
        gc.unfreeze()
        _note(False)
        _frozen = False


def freeze_imports() -> None:
    """Set aside what has been imported before any program runs."""
    global _frozen
    gc.freeze()
    _frozen = True


def frozen() -> bool:
    """Whether what lives was set aside by others: `nnrepl.__main__` does so, and a program may. Python is asked once at
    most: it counts by walking through all of it, which took longer than to record a small function, and a tenth of a
    short session."""
    global _frozen
    if _frozen is None:
        _frozen = gc.get_freeze_count() > _OF_PYTHON
    return _frozen


_OF_PYTHON = 1_000
"""Python 3.12 sets some hundred things of its own aside."""


def _note(set_aside: bool) -> None:
    global _set_aside
    _set_aside = set_aside


def caught(collect: Callable[..., int]) -> Callable[..., int]:
    """`gc.collect` for the program: it finds what it would find without us."""

    @functools.wraps(collect)
    def collected(*args: Any, **kwargs: Any) -> int:
        wake()
        return collect(*args, **kwargs)

    return collected


def enumerated(objects: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """`gc.get_objects` for the program, likewise."""

    @functools.wraps(objects)
    def found(*args: Any, **kwargs: Any) -> list[Any]:
        wake()
        return objects(*args, **kwargs)

    return found
