"""Patches: what is replaced in MLX meanwhile, and put back afterwards.

Calling the class (`mx.array([1, 2])`) goes past `__init__` through the type's vectorcall slot, so that slot is cleared
meanwhile and Python takes the ordinary way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import partial
from operator import is_
from typing import Any

Replaced = tuple[Any, Mapping[str, Any], str, Any, Any]
"""What holds it, its names, which of them, what stood there, what stands there now."""


class Patches:
    """What was replaced, so that it can be put back in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Replaced | Callable[[], None]] = []

    def set(self, holder: Any, attribute: str, replacement: Any) -> None:
        own = vars(holder)
        self.set_all([(holder, own, attribute, own.get(attribute, _MISSING), replacement)])

    def set_all(self, rows: list[Replaced]) -> None:
        """Replace what is known to stand there. Hundreds are, at every stop: so without a call each."""
        self._undo += rows  # before: Ctrl-C may come between two of them
        for holder, _, attribute, _, replacement in rows:
            setattr(holder, attribute, replacement)

    def set_together(self, names: dict[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Replace names of a module of which it is known what stands there: all of them in one step of Python."""
        self._undo.append(partial(_put_back, names, before, now))
        names.update(now)

    def clear_vectorcall(self, cls: type) -> None:
        slot = _vectorcall_slot(cls)
        before = slot.value
        slot.value = None

        def restore() -> None:
            slot.value = before

        self._undo.append(restore)

    def undo_by(self, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    def undo(self) -> None:
        while self._undo:
            done = self._undo.pop()
            if not isinstance(done, tuple):
                done()
                continue
            holder, own, attribute, before, replacement = done
            if own.get(attribute) is not replacement:
                continue  # the program has put something of its own in its place
            if before is _MISSING:
                delattr(holder, attribute)
            else:
                setattr(holder, attribute, before)


_MISSING = object()


def stand(names: Mapping[str, Any], things: Mapping[str, Any]) -> bool:
    """Whether each of these things stands under its name."""
    return all(map(is_, map(names.get, things), things.values()))


def _put_back(names: dict[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if stand(names, now):
        names.update(before)
        return
    for name, thing in now.items():
        if names.get(name) is thing:  # else the program has put something of its own in its place
            names[name] = before[name]


def _vectorcall_slot(cls: type) -> ctypes.c_void_p:
    """Return the pointer through which calling `cls` bypasses `__init__`.

    Its offset stands in the metaclass (`tp_vectorcall_offset`, the fifth field after the object header in
    CPython's PyTypeObject since 3.8), so this holds for stable-ABI builds as well.
    """
    header = object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t)
    field = id(type(cls)) + header + 4 * ctypes.sizeof(ctypes.c_void_p)
    return ctypes.c_void_p.from_address(id(cls) + ctypes.c_ssize_t.from_address(field).value)
