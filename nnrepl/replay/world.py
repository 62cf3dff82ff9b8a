"""World: the state that a function can reach, kept at a restart point and put back in place.

Arrays are only a part of it. A function may count its calls, append to a list, fill a key-value cache, set an
attribute: a second run must meet what the first one met. So everything that can be reached from the function
(arguments, closure, defaults, the global variables it names, and from there on attributes, lists, dicts and
sets) is noted by reference and filled again in place, so that every other reference to it sees the same.
"""

from __future__ import annotations

import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from nnrepl.record.objects import refill
from nnrepl.record.opaque import inner_function, set_random_state

_copy = mx.array.__copy__
_RANDOM_STATE: Any = mx.random.state
_LIMIT = 200_000
_ATOMS = (
    str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType,
    types.CodeType, types.FrameType, types.TracebackType, range, slice, mx.Dtype, mx.Device, mx.Stream,
)  # fmt: skip


@dataclass(slots=True)
class _Kept:
    """One thing and what puts it back."""

    thing: Any
    restore: Callable[[], None]


class World:
    """A snapshot of everything reachable from some roots, and of the random states.

    Args:
        roots: Functions, arguments, modules, ...
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._kept: list[_Kept] = []
        self._seen: set[int] = set()
        self._holding: list[Any] = []
        self._random = RandomStates()
        pending = list(roots)
        while pending and len(self._seen) < _LIMIT:
            self._visit(pending.pop(), pending)

    def restore(self) -> None:
        """Put everything back, in place."""
        for kept in self._kept:
            kept.restore()
        self._random.restore()

    # -- walking -----------------------------------------------------------------------------------------

    def _visit(self, thing: Any, pending: list[Any]) -> None:
        if isinstance(thing, _ATOMS) or id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        self._holding.append(thing)  # an id is only good as long as its object lives
        if isinstance(thing, mx.array):
            self._keep_array(thing)
        elif isinstance(thing, dict):
            self._keep_dict(thing, pending)
        elif isinstance(thing, (list, deque)):
            self._keep_sequence(thing, pending)
        elif isinstance(thing, set):
            before = set(thing)
            self._keep(thing, lambda: _refill_set(thing, before))
        elif isinstance(thing, (tuple, frozenset)):
            pending.extend(thing)
        elif isinstance(thing, types.FunctionType):
            self._function(thing, pending)
        elif isinstance(thing, types.MethodType):
            pending.extend((thing.__func__, thing.__self__))
        elif isinstance(thing, types.CellType):
            self._keep_cell(thing, pending)
        elif _is_ndarray(thing):
            before_array = thing.copy()
            self._keep(thing, lambda: _refill_ndarray(thing, before_array))
        else:
            self._keep_others(thing, pending)
        if isinstance(thing, (dict, list, set, deque)):
            self._keep_attributes(thing, pending)

    def _keep(self, thing: Any, restore: Callable[[], None]) -> None:
        self._kept.append(_Kept(thing, restore))

    def _keep_array(self, array: mx.array) -> None:
        before = _copy(array)
        self._keep(array, lambda: refill(array, before))

    def _keep_dict(self, thing: dict[Any, Any], pending: list[Any]) -> None:
        before = dict(dict.items(thing))
        pending.extend(before.values())

        def restore() -> None:
            dict.clear(thing)
            dict.update(thing, before)

        self._keep(thing, restore)

    def _keep_sequence(self, thing: Any, pending: list[Any]) -> None:
        before = list(thing)
        pending.extend(before)

        def restore() -> None:
            thing.clear()
            thing.extend(before)

        self._keep(thing, restore)

    def _keep_cell(self, cell: types.CellType, pending: list[Any]) -> None:
        try:
            before = cell.cell_contents
        except ValueError:
            return

        def restore() -> None:
            cell.cell_contents = before

        pending.append(before)
        self._keep(cell, restore)

    def _function(self, function: types.FunctionType, pending: list[Any]) -> None:
        pending.extend(function.__closure__ or ())
        pending.extend(function.__defaults__ or ())
        pending.extend((function.__kwdefaults__ or {}).values())
        pending.append(function.__dict__)
        if is_library(str(function.__globals__.get("__file__", ""))):
            return
        self._globals(function.__code__, function.__globals__, pending)

    def _globals(self, code: types.CodeType, variables: dict[str, Any], pending: list[Any]) -> None:
        """The global variables that a function names, its inner functions included."""
        names = [name for name in _names(code) if name in variables]
        before = {name: variables[name] for name in names}
        pending.extend(before.values())

        def restore() -> None:
            variables.update(before)

        self._keep(variables, restore)

    def _keep_attributes(self, thing: Any, pending: list[Any]) -> None:
        attributes = getattr(thing, "__dict__", None)
        if isinstance(attributes, dict):
            self._visit(attributes, pending)
        for slot in _slots(type(thing)):
            self._keep_slot(thing, slot, pending)

    def _keep_slot(self, thing: Any, slot: str, pending: list[Any]) -> None:
        try:
            before = getattr(thing, slot)
        except AttributeError:
            return
        pending.append(before)

        def restore() -> None:
            object.__setattr__(thing, slot, before)

        self._keep(thing, restore)

    def _keep_others(self, thing: Any, pending: list[Any]) -> None:
        inner = inner_function(thing)
        if inner is not thing:
            pending.append(inner)
        for attribute in ("func", "args", "keywords", "__wrapped__", "fun"):  # partials, transforms, wrappers
            part = getattr(thing, "__dict__", {}).get(attribute) if attribute in ("__wrapped__", "fun") else None
            if part is None and type(thing).__name__ == "partial":
                part = getattr(thing, attribute, None)
            if part is not None:
                pending.append(part)
        for base in type(thing).__mro__:
            call = vars(base).get("__call__")
            if isinstance(call, types.FunctionType):
                pending.append(call)
        self._keep_attributes(thing, pending)


class RandomStates:
    """The random states of MLX (of this thread), of Python's `random`, and of NumPy if it is loaded."""

    def __init__(self) -> None:
        self._mlx = _RANDOM_STATE[0]
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    def restore(self) -> None:
        """Put them back."""
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
        if _RANDOM_STATE[0] is not self._mlx:
            set_random_state(self._mlx)


def _names(code: types.CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _slots(cls: type) -> list[str]:
    found: list[str] = []
    for base in cls.__mro__:
        declared = base.__dict__.get("__slots__", ())
        found.extend([declared] if isinstance(declared, str) else declared)
    return [slot for slot in found if slot not in ("__dict__", "__weakref__")]


def is_library(file: str) -> bool:
    """Whether a file belongs to Python or to an installed package: its functions keep no state of the program's."""
    return "site-packages" in file or file.startswith(sys.base_prefix)


def _is_ndarray(thing: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(thing, numpy.ndarray)


def _refill_ndarray(array: Any, before: Any) -> None:
    if array.shape == before.shape and array.flags.writeable:
        array[...] = before


def _refill_set(thing: set[Any], before: set[Any]) -> None:
    thing.clear()
    thing.update(before)
