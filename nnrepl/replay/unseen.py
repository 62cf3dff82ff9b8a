"""Unseen: what holds a tensor, and no variable leads to it.

Python keeps on its stack what a running `for` loop goes through, a list that is being made, the arguments of functions
made in C; a context variable's tensor lies in a context. The garbage collector knows all of them by what they hold: an
edit that gives one name another tensor asks it, so that they keep the old one, or are named.
"""

from __future__ import annotations

import contextvars
import gc
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any

from nnrepl.record.frame_variables import namespace, set_variables
from nnrepl.replay.keepers import is_iterator
from nnrepl.replay.world import contents_of
from nnrepl.tape import collector

_CONTAINERS = (tuple, list, dict, set, frozenset)
_NESTED = 3
"""So deep lie tensors in what nnrepl's own functions hold (`mx.concatenate([a, b])`)."""
_LEVELS = 6
"""So far it is asked what holds what holds a tensor: in a dict, which a closure of ours has, four times."""
_MANY = 1_000
_IN_CONTEXT = frozenset(("hamt", "hamt_bitmap_node", "hamt_array_node", "hamt_collision_node", "Context", "Token"))
"""What a context is made of."""
_FRAMES: tuple[tuple[type, str], ...] = (
    (GeneratorType, "gi_frame"), (CoroutineType, "cr_frame"), (AsyncGeneratorType, "ag_frame"),
)  # fmt: skip
RUNNING = tuple([kind for kind, _ in _FRAMES])
"""What waits in a call of its own."""


class Unseen:
    """Finds what holds some objects, but for nnrepl's own records and for what variables of running calls hold
    themselves.

    Args:
        things: The objects.
        frames: The program's calls that are running.
        waiting: Calls that wait, whose variables have been looked at.
    """

    def __init__(self, things: Iterable[Any], frames: Iterable[FrameType], waiting: Iterable[FrameType] = ()) -> None:
        self._things = list(things)
        self._own: dict[int, Any] = {id(self._things): self._things}
        self._variables: dict[int, Any] = {}
        for frame in frames:
            self._variables.update({id(thing): thing for thing in self._locals(frame)})
        for frame in waiting:
            self._locals(frame)
        running: FrameType | None = sys._getframe(1)
        while running is not None:
            if _is_own_name(running.f_globals.get("__name__")):
                self._note(self._locals(running))
            running = running.f_back

    def _locals(self, frame: FrameType) -> list[Any]:
        # Up to Python 3.12 the variables are a dict of the frame's, which the collector finds instead of the frame.
        variables = frame.f_locals
        self._own[id(variables)] = variables
        return list(variables.values())

    def _note(self, held: list[Any]) -> None:
        """Note what a function of nnrepl's holds."""
        pending = [(thing, _NESTED) for thing in held]
        while pending:
            thing, left = pending.pop()
            if isinstance(thing, _CONTAINERS):
                self._own[id(thing)] = thing
                if left and len(thing) <= _MANY:
                    parts = thing.values() if isinstance(thing, dict) else thing
                    pending += [(part, left - 1) for part in parts]

    def holders(self, *, stacks: bool) -> list[Any]:
        """Return what holds them.

        Args:
            stacks: Whether what only a stack holds is meant as well.
        """
        collector.wake()
        levels = [self._holding(self._things, [])]
        while levels[-1] and len(levels) < _LEVELS:
            levels.append(self._holding(levels[-1], levels))
        above: dict[int, list[bool]] = {}  # for each thing: whether what holds it are records
        for level, holding in zip(reversed(levels[:-1]), reversed(levels[1:])):
            records = {id(thing): self._is_record(thing, above.get(id(thing), ())) for thing in holding}
            above = {id(thing): [] for thing in level}
            for thing in holding:
                for part in gc.get_referents(thing):
                    if id(part) in above and id(thing) not in self._own:
                        above[id(part)].append(records[id(thing)])
        found = [thing for thing in levels[0] if not self._is_record(thing, above[id(thing)])]
        # A container that a variable holds has been seen to before.
        found = [thing for thing in found if id(thing) not in self._variables or not isinstance(thing, _CONTAINERS)]
        return [thing for thing in found if stacks or above[id(thing)] or id(thing) in self._variables]

    def _holding(self, things: list[Any], levels: list[list[Any]]) -> list[Any]:
        asked = [thing for thing in things if not self._is_record(thing, ())]
        own = {id(asked), id(things), id(levels), *map(id, levels)}
        return [thing for thing in gc.get_referrers(*asked) if id(thing) not in own] if asked else []

    def _is_record(self, thing: Any, above: Iterable[bool]) -> bool:
        """Whether something is nnrepl's own, or is held by what is alone. Records look at what variables hold, too."""
        if id(thing) in self._own or _is_own(thing):
            return True
        return bool(above) and all(above) and id(thing) not in self._variables


def _is_own(thing: Any) -> bool:
    if _is_own_name(type(thing).__module__):
        return True
    if isinstance(thing, FunctionType):
        return _is_own_name(thing.__globals__.get("__name__"))
    if isinstance(thing, MethodType):
        return _is_own(thing.__self__) or _is_own(thing.__func__)
    if isinstance(thing, (ModuleType, dict)):
        return _is_own_name((vars(thing) if isinstance(thing, ModuleType) else thing).get("__name__"))
    frame = frame_of(thing)
    return frame is not None and _is_own_name(frame.f_globals.get("__name__"))


def _is_own_name(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == "nnrepl"


def frame_of(thing: Any) -> FrameType | None:
    """Return the frame in which a generator or coroutine waits, or that something is; None if it is neither."""
    if isinstance(thing, FrameType):
        return thing
    frame: FrameType | None = next((getattr(thing, name) for kind, name in _FRAMES if isinstance(thing, kind)), None)
    return frame


def lies_in(frame: FrameType, cell: CellType) -> bool:
    """Whether a variable of a call lies in a cell."""
    held, probe = contents_of(cell), object()
    for name in (*frame.f_code.co_cellvars, *frame.f_code.co_freevars):
        if namespace(frame).get(name) is held:
            set_variables(frame, {name: probe})
            found = contents_of(cell) is probe
            set_variables(frame, {name: held})
            if found:
                return True
    return False


def is_of_context(thing: Any) -> bool:
    """Whether something is a part of a context."""
    return type(thing).__name__ in _IN_CONTEXT


def exchange_in_contexts(other: Callable[[Any], Any], *, waiting: bool) -> list[Any]:
    """Let context variables hold what `other` gives for what they hold. Returns what they held instead.

    Args:
        waiting: Whether those of contexts in which nothing runs now are meant: else those of the one that runs.
    """
    gone = []
    contexts = [thing for thing in gc.get_objects() if type(thing) is contextvars.Context] if waiting else [None]
    for context in contexts:
        for variable, held in list((contextvars.copy_context() if context is None else context).items()):
            if other(held) is held:
                continue
            gone.append(held)
            if context is None:
                variable.set(other(held))
            else:
                with suppress(RuntimeError):  # it has been entered, further out
                    context.run(variable.set, other(held))
    return gone


def said_of(thing: Any) -> str:
    """Return what something is that holds a tensor, and cannot be given another, in words."""
    kind = type(thing).__name__
    if is_of_context(thing):
        return "a context variable, in a context that another part of the program is in,"
    if is_iterator(thing):
        return f"an iterator ({kind}) that a loop goes through"
    return "a closure" if isinstance(thing, CellType) else f"a {kind}"
