"""Taken: what a line at the prompt takes from the program's iterators.

A line works on copies of those that Python can copy, so that the program finds them where it left them. A generator can
be neither copied nor put back: that a line has made it go on is said.
"""

from __future__ import annotations

from types import FrameType, GeneratorType
from typing import Any

from nnrepl.replay import keepers


class Iterators:
    """The iterators that a line can reach, and where they stood before it.

    Args:
        namespace: The variables that the line sees: those that hold an iterator are given a copy.
        names: Which of them are the program's.
        reached: All that can be reached from those.
    """

    def __init__(self, namespace: dict[str, Any], names: list[str], reached: list[Any]) -> None:
        self._namespace = namespace
        self._own = {name: namespace[name] for name in names if keepers.is_iterator(namespace[name])}
        self._before = [(thing, place_of(thing)) for thing in reached if keepers.is_iterator(thing)]
        for name, thing in self._own.items():
            try:
                namespace[name] = keepers.copy_iterator(thing)
            except keepers.CannotKeep:
                continue
            self._before.append((namespace[name], place_of(namespace[name])))

    def give_back(self) -> tuple[bool, list[str]]:
        """Give the variables their own again. Returns whether an iterator has gone on, and what those are called that
        cannot be put back."""
        moved = [thing for thing, before in self._before if place_of(thing) != before]
        gone_on = [_called(thing, self._own) for thing in moved if isinstance(thing, GeneratorType)]
        for name, thing in self._own.items():
            given = self._namespace.get(name)
            if any(given is one for one, _ in self._before):
                self._namespace[name] = thing
        return bool(moved), gone_on


def _called(generator: GeneratorType[Any, Any, Any], names: dict[str, Any]) -> str:
    return next((name for name, thing in names.items() if thing is generator), generator.__name__)


def place_of(thing: Any) -> Any:
    """Return where an iterator stands, to be compared; None where that cannot be told."""
    if isinstance(thing, GeneratorType):
        frame: FrameType | None = thing.gi_frame
        if frame is None or thing.gi_running:
            return None
        held = [(name, id(value)) for name, value in frame.f_locals.items()]
        return frame.f_lasti, held, place_of(thing.gi_yieldfrom)
    if not keepers.is_iterator(thing):
        return id(thing)
    try:
        reduced = keepers.unwarned(thing.__reduce__)
    except Exception:  # a library's own, which may go wrong in any way
        return None
    return _part(reduced)


def _part(part: Any) -> Any:
    if type(part) is tuple:
        return [_part(item) for item in part]
    return part if isinstance(part, (int, str)) else place_of(part)
