"""Lasting: arrays of NumPy's, and objects of libraries, that variables held, kept alive for who looks at them later.

A program's data lie in variables of its functions. When a step is opened the program runs again up to it, and those
functions end there: without this the data set, or the tokenizer, of a step that the user looks at would be gone. Only
what does nothing when it goes is held, so that the program cannot tell; a file is closed, a progress bar writes a line.
"""

from __future__ import annotations

import gc
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import mlx.core as mx

from nnrepl.tape.kept_array import is_array


class Lasting:
    """Holds arrays and objects, those that were noted last.

    Attributes:
        budget: How many bytes those may have that nobody else holds: a share of the history's.
    """

    MOST = 2**28

    def __init__(self, budget: int = MOST) -> None:
        self.budget = budget
        self._held: dict[int, tuple[Any, int]] = {}
        self._refused: set[int] = set()
        self._bytes = 0

    def __contains__(self, thing: Any) -> bool:
        return id(thing) in self._held

    def keep(self, thing: Any) -> None:
        """Hold an array, or an object that does nothing when it goes; let go of those that were noted first, where all
        are more than the budget."""
        key = id(thing)
        if key in self._held:
            self._held[key] = self._held.pop(key)
            return
        size = None if key in self._refused else _size(thing)
        if size is None:
            self._refused.add(key)
            if len(self._refused) > _REMEMBERED:  # by numbers of objects that are gone, most of them
                self._refused.clear()
            return
        self._held[key] = thing, size
        self._bytes += size
        if self._bytes > self.budget:
            self._thin()

    def _thin(self) -> None:
        """Let go of a quarter. What the program still holds takes no room of its own, and it may be asked for when the
        program has let go of it: it stays, as if it were noted now."""
        enough, staying = self.budget * 3 // 4, []
        for key in list(self._held):
            if self._bytes <= enough:
                break
            thing, size = self._held.pop(key)
            self._bytes -= size
            if sys.getrefcount(thing) > _OURS:
                staying.append(thing)
        for thing in staying:
            self._held[id(thing)] = thing, 0


_OURS = 2
"""An object that only a variable here holds has so many references: that one, and the look at it."""
_REMEMBERED = 1024
_AN_OBJECT, _PARTS = 2**20, 256
"""What an object is taken for that does not tell its size, in bytes; so many parts of one are looked at."""
_ENDS = ("__del__", "__dlpack__", "__exit__", "__next__", "close", "cleanup", "join", "shutdown", "stop", "terminate")
"""By these an object shows that its end is something that happens, or that it holds numbers of an unknown size which
may lie on a device (a tensor of another framework's)."""
_UNKNOWN = (FunctionType, mx.array)
_NUMBERS_AND_TEXTS = frozenset((int, float, bool, complex, str, bytes, type(None)))
_CONTAINERS = frozenset((dict, list, tuple, set, frozenset))
"""Most of what an object refers to; the end of one is nothing by itself."""
_SHARED = (type, ModuleType, BuiltinFunctionType)


def _size(thing: Any) -> int | None:
    """Return about how many bytes an object holds; None where its end may be something that the program, or the
    memory of a device, can tell."""
    total, pending, seen = 0, [thing], {id(thing)}
    while pending:
        one = pending.pop()
        kind = type(one)
        if is_array(one):
            base = one.base
            total += int(one.nbytes if base is None else getattr(base, "nbytes", one.nbytes))
            continue
        if kind is FunctionType and one.__closure__ is None:
            continue
        if kind in _NUMBERS_AND_TEXTS:
            continue
        if kind not in _CONTAINERS and (kind in _UNKNOWN or any(hasattr(kind, name) for name in _ENDS)):
            return None
        total += sys.getsizeof(one)
        for part in gc.get_referents(one):
            if id(part) not in seen and not isinstance(part, _SHARED):
                seen.add(id(part))
                pending.append(part)
        if len(seen) > _PARTS:
            return None
    return total if is_array(thing) else total + _AN_OBJECT


lasting = Lasting()
"""One of the whole process: what is noted of a run that has ended stands on the tapes of others."""
