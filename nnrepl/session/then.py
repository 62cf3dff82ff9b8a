"""Then: the program's own containers as they were, for as long as an expression is evaluated.

A look into the past works on the program's own objects (`model.layers[0].weight`, `params["w1"]`, `model(x)`), so those
hold for that moment what they held then, and get back what they hold now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from nnrepl.record.containers import fill
from nnrepl.session.frames import Frames, real
from nnrepl.tape import UNBOUND, Bindings, Holder, Value
from nnrepl.tape.kept_array import KeptArray

if TYPE_CHECKING:
    from nnrepl.session.callees import Exchange, Space


@contextmanager
def then(
    frames: Frames, things: Iterable[Any], position: int, array: Callable[[Value], Any], variables: Iterable[Exchange]
) -> Iterator[None]:
    """While this lasts, containers among `things` and all that they hold are as they were at `position`, and other
    variables are exchanged."""
    restore: list[Callable[[], None]] = []
    try:
        for space, name, before in variables:
            restore.append(partial(_set, space, name, space.get(name, UNBOUND)))
            _set(space, name, before)
        for holder in _reachable(frames.tape.bindings, things, position):
            thing = holder.refer()
            entries = frames.tape.bindings.contents(holder, position)
            if thing is not None and isinstance(entries, (dict, list, KeptArray)):
                undo = _give(frames, thing, entries, position, array)
                if undo is not None:
                    restore.append(undo)
        yield
    finally:
        for undo in reversed(restore):
            undo()


def _set(variables: Space, name: str, thing: Any) -> None:
    if thing is UNBOUND:
        variables.pop(name, None)
    else:
        variables[name] = thing


def _reachable(bindings: Bindings, things: Iterable[Any], position: int) -> list[Holder]:
    pending = [thing for thing in things if isinstance(thing, Holder)]
    found = dict.fromkeys(pending)
    while pending:
        entries = bindings.contents(pending.pop(), position)
        for thing in entries.values() if isinstance(entries, dict) else entries if isinstance(entries, list) else ():
            if isinstance(thing, Holder) and thing not in found:
                found[thing] = None
                pending.append(thing)
    return list(found)


def _give(
    frames: Frames, thing: Any, entries: Any, position: int, array: Callable[[Value], Any]
) -> Callable[[], None] | None:
    """Let a container hold other things; returns what puts back what it holds now. None where nothing is to do."""
    if isinstance(entries, KeptArray):
        return entries.give(thing)
    if isinstance(entries, dict):
        return fill(thing, {key: real(frames, item, position, str(key), array, True) for key, item in entries.items()})
    return fill(thing, [real(frames, item, position, "it", array, True) for item in entries])
