"""Reach: which tensors a program holds, in an order that is the same whenever it stands at the same place.

Only tensors matter here. What else it holds (counters, caches, lists) a run makes anew; it is walked through, and its
kinds say whether two walks have come by the same.
"""

from __future__ import annotations

import gc
import sys
import types
import weakref
from array import array as flat_array
from collections import deque
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.frame_variables import OPTIMIZED, looked_at, read
from nnrepl.record.native import levels_of
from nnrepl.replay.world import is_foreign, slots_of

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_RANDOM_STATE: Any = mx.random.state
_LIMIT = 100_000
_PASSED_OVER = frozenset((
    str, bytes, bytearray, int, float, complex, bool, type(None), type(Ellipsis), type(NotImplemented), range, slice,
    types.BuiltinFunctionType, types.CodeType, types.FrameType, types.TracebackType, types.MethodDescriptorType,
    types.WrapperDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType, flat_array, weakref.ref,
    mx.Dtype, mx.Device, mx.Stream,
))  # fmt: skip
_BUILTIN = frozenset(("builtins", "collections", "functools", "itertools", "types", "_collections"))
"""Modules of Python's own whose objects hold what a program puts into them."""


class CannotReach(Exception):
    """Not all that the program holds can be walked through in a fixed order; the message says why."""


class Reach:
    """The tensors that a program holds where it stands.

    Attributes:
        arrays: They, in order.
        kinds: Of what kinds all is that was come by: equal for two walks over the same.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.arrays: list[mx.array] = []
        levels = levels_of(recorder)
        making = None if levels is None else levels.making  # it holds what the call is given
        pending: list[Any] = [_RANDOM_STATE[0], making]
        for frame in _frames(recorder):
            pending += _held(frame)
        seen: set[int] = set()
        kinds: list[str] = []
        for thing in pending:  # it grows meanwhile
            kind = type(thing)
            if kind in _PASSED_OVER or id(thing) in seen:
                continue
            seen.add(id(thing))
            kinds.append(kind.__qualname__)
            if kind is mx.array:
                self.arrays.append(thing)
                continue
            try:
                pending += _within(thing, kind)
            except Exception as error:  # the program's own code may be asked: a property, a class without a module
                raise CannotReach(f"a {kind.__name__} does not tell what it holds") from error
            if len(pending) > _LIMIT:
                raise CannotReach("it holds too many objects")
        self.kinds = hash(tuple(kinds))


def _frames(recorder: Recorder) -> Iterator[FrameType]:
    """Yield the frames of the program's calls, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not recorder.stack.base:
        if not str(frame.f_globals.get("__name__")).startswith("nnrepl."):
            yield frame
        frame = frame.f_back


def _held(frame: FrameType) -> list[Any]:
    """Return what the variables of a frame hold."""
    code = frame.f_code
    if not code.co_flags & OPTIMIZED:
        return [frame.f_locals, frame.f_globals] if not _is_foreign(frame.f_globals) else [frame.f_locals]
    names, _ = looked_at(code)
    shared = [] if _is_foreign(frame.f_globals) else [frame.f_globals]
    return read(frame, names, True) + shared


def _is_foreign(variables: dict[str, Any]) -> bool:
    return is_foreign(str(variables.get("__name__", "")), variables.get("__file__"))


_WAYS: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
"""How objects of each kind are walked through. The program's classes lead to all that it holds: they may go."""


def _way(kind: type) -> str:
    """How objects of a kind are walked through."""
    way = _WAYS.get(kind)
    if way is None:
        way = _WAYS[kind] = _found_way(kind)
    return way


def _found_way(kind: type) -> str:
    module = kind.__module__.partition(".")[0]
    if issubclass(kind, (set, frozenset)):
        return "set"
    if kind in (dict, list, tuple, deque, types.CellType, types.MethodType):
        return "held"
    if issubclass(kind, types.FunctionType):
        return "function"
    if issubclass(kind, types.ModuleType):
        return "module"
    if issubclass(kind, type):
        return "class"
    if module == "nnrepl":
        return "ours"
    if issubclass(kind, BaseException):
        return "over"
    if module in _BUILTIN:
        return "held"
    if module in sys.stdlib_module_names and module not in ("__main__", "argparse"):
        return "over"
    return "object"


def _within(thing: Any, kind: type) -> list[Any]:
    """Return what a thing holds."""
    match _way(kind):
        case "held":
            return gc.get_referents(thing)
        case "set":
            if any(type(item) not in _PASSED_OVER for item in thing):
                raise CannotReach("a set of objects has no order")
            return []
        case "function":
            parts = [*(thing.__closure__ or ()), thing.__defaults__, thing.__kwdefaults__]
            return parts if _is_foreign(thing.__globals__) else [*parts, thing.__globals__, thing.__dict__]
        case "module":
            return [] if _is_foreign(vars(thing)) else [vars(thing)]
        case "class":
            file = getattr(sys.modules.get(thing.__module__), "__file__", None)
            return [] if is_foreign(thing.__module__, file) else [*vars(thing).values(), *thing.__bases__]
        case "ours":
            return [getattr(thing, "fun", None)]
        case "object":
            return _of_object(thing, kind)
    return []


def _of_object(thing: Any, kind: type) -> list[Any]:
    """Return what an object has: its items, its attributes, those in slots, its class."""
    attributes, slots = getattr(thing, "__dict__", None), slots_of(kind)
    if not isinstance(attributes, dict) and not slots:
        return [part for part in gc.get_referents(thing) if not isinstance(part, type)]
    found: list[Any] = []
    if isinstance(thing, dict):
        found += [*dict.keys(thing), *dict.values(thing)]
    elif isinstance(thing, (list, tuple)):
        found += list.__iter__(thing) if isinstance(thing, list) else tuple.__iter__(thing)
    elif isinstance(thing, deque):
        found += deque.__iter__(thing)
    # What Python holds of attributes is a dict or not, as somebody has asked for it or not: its kind tells nothing.
    found += attributes.values() if isinstance(attributes, dict) else ()
    found += [getattr(thing, slot, None) for slot in slots]
    return [*found, kind]
