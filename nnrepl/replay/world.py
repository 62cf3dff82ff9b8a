"""World: the state that a function can reach, kept at a restart point and put back in place.

Arrays are only a part of it. A function may count its calls, append to a list, fill a key-value cache, set an
attribute, draw from a generator: a second run must meet what the first one met. So everything that can be reached
from the function (arguments, closure, defaults, the global variables it names, and from there on attributes, also
those of classes, lists, dicts and sets) is noted by reference and filled again in place, so that every other
reference to it sees the same. What Python and installed packages have of their own is left alone.
"""

from __future__ import annotations

import functools
import gc
import io
import random
import sys
import types
import weakref
from array import array as flat_array
from collections import deque
from collections.abc import Iterable
from typing import Any

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record.objects import refill
from nnrepl.record.quiet import set_random_state
from nnrepl.record.titles import inner_function
from nnrepl.replay import keepers
from nnrepl.replay.keepers import CannotKeep, Restore

_copy = mx.array.__copy__
_RANDOM_STATE: Any = mx.random.state
_LIMIT = 200_000
_ATOMS = (
    str, bytes, int, float, complex, bool, type(None), types.BuiltinFunctionType,
    types.CodeType, types.FrameType, types.TracebackType, range, slice, mx.Dtype, mx.Device, mx.Stream,
)  # fmt: skip
_FLAT = frozenset((str, bytes, int, float, complex, bool, type(None)))
_Pending = list[tuple[Any, str]]


class World:
    """A snapshot of everything reachable from some roots, and of the random states.

    Args:
        roots: Functions, arguments, modules, ...
        arrays: Whether the contents of tensors are kept as well.

    Attributes:
        lost: What cannot be put back, in words.
        holding: All that can be reached.
    """

    def __init__(self, roots: Iterable[Any], *, arrays: bool = True) -> None:
        self._arrays = arrays
        self.lost: list[str] = []
        self._kept: list[Restore] = []
        self._seen: set[int] = set()
        self.holding: list[Any] = []
        self._variables: list[tuple[dict[str, Any], list[str]]] = []
        self._iterators = _Iterators()
        self._random = RandomStates()
        pending: _Pending = [(root, "") for root in roots]
        # A stack, no recursion: a linked list of the program's may be longer than Python's stack.
        while pending and len(self._seen) < _LIMIT:
            self._visit(*pending.pop(), pending)
        if pending:
            self.lost.append(f"what lies beyond {_LIMIT:,} objects")

    def restore(self) -> None:
        """Put everything back, in place."""
        self._iterators.begin()
        for restore in self._kept:
            restore()
        self._random.restore()

    def contents(self) -> list[Any]:
        """Return what everything holds at present, but for numbers in tensors and random states: to be compared."""
        variables = [tuple([id(where.get(name)) for name in names]) for where, names in self._variables]
        return [*variables, *[_content(thing) for thing in self.holding]]

    def tensors(self) -> dict[int, mx.array]:
        """Return the tensors that lists, dicts and objects hold at present, by the `id` under which `contents` has
        them."""
        held = [item for thing in self.holding for item in _items(thing) if isinstance(item, mx.array)]
        return {id(array): array for array in held}

    # -- walking -----------------------------------------------------------------------------------------

    def _visit(self, thing: Any, name: str, pending: _Pending) -> None:
        if isinstance(thing, _ATOMS) or id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        self.holding.append(thing)  # an id is only good as long as its object lives
        try:
            self._keep(thing, name, pending)
        except CannotKeep as what:
            said = f"{name} ({what})" if name else str(what)
            self.lost.append(said)

    def _keep(self, thing: Any, name: str, pending: _Pending) -> None:
        kept = self._kept
        if isinstance(thing, mx.array):
            if self._arrays:
                before = _copy(thing)
                kept.append(lambda: refill(thing, before))
        elif isinstance(thing, (dict, list, deque, set, tuple, frozenset)):
            self._container(thing, pending)
        elif isinstance(thing, (types.FunctionType, types.MethodType, types.CellType, type, types.ModuleType)):
            self._code(thing, name, pending)
        elif keepers.is_ndarray(thing):
            kept.append(keepers.keep_ndarray(thing))
        elif isinstance(thing, keepers.Cache):
            from nnrepl.replay import caches

            kept.append(caches.keep_cache(thing))
            pending += [(thing.__wrapped__, name), (caches.results_of(thing), name)]
        elif isinstance(thing, (bytearray, flat_array)):
            kept.append(keepers.keep_flat(thing))
        elif isinstance(thing, weakref.ref):
            pending.append((thing(), name))
        elif isinstance(thing, io.IOBase):
            if thing not in _standard_streams():
                kept.append(keepers.keep_file(thing))
        elif keepers.is_iterator(thing):
            # A generator that has ended gives nothing more, wherever it stands.
            if not (isinstance(thing, types.GeneratorType) and thing.gi_frame is None):
                self._iterators.keep(thing)
        else:
            self._object(thing, pending)

    def _container(self, thing: Any, pending: _Pending) -> None:
        if isinstance(thing, dict):
            # A namespace is never cleared, or imports and threads would break: only changed names are put back.
            if "__builtins__" in thing or "__spec__" in thing:  # a module's, or what exec() made
                self._namespace(thing, pending)
                return
            self._kept.append(keepers.keep_dict(thing, self._iterators.current))
            pending.extend([(item, key if type(key) is str else "") for key, item in dict.items(thing)])
        else:
            if isinstance(thing, set):
                self._kept.append(keepers.keep_set(thing))
            elif isinstance(thing, (list, deque)):
                self._kept.append(keepers.keep_sequence(thing, self._iterators.current))
            elif any([keepers.is_iterator(item) for item in thing]):
                # A tuple cannot be given the copy that stands where this one stood.
                raise CannotKeep("an iterator in a tuple")
            if not set(map(type, thing)) <= _FLAT:
                pending.extend([(item, "") for item in thing])
        if type(thing) not in (tuple, frozenset):
            self._attributes(thing, pending)

    def _code(self, thing: Any, name: str, pending: _Pending) -> None:
        if isinstance(thing, types.CellType):
            try:
                self._kept.append(keepers.keep_cell(thing, self._iterators.current))
            except ValueError:
                return
            pending.append((thing.cell_contents, name))
        elif isinstance(thing, types.MethodType):
            pending += [(thing.__func__, name), (thing.__self__, name)]
        elif isinstance(thing, types.FunctionType):
            self._function(thing, pending)
        elif isinstance(thing, types.ModuleType):
            if not is_foreign(thing.__name__, getattr(thing, "__file__", None)):
                self._namespace(vars(thing), pending)
        elif not is_foreign(thing.__module__, getattr(sys.modules.get(thing.__module__), "__file__", None)):
            self._class(thing, pending)

    def _function(self, function: types.FunctionType, pending: _Pending) -> None:
        pending += zip(function.__closure__ or (), function.__code__.co_freevars)
        if function.__defaults__ or function.__kwdefaults__:
            self._kept.append(keepers.keep_defaults(function))
            defaults = *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()
            pending += [(part, "") for part in defaults]
        pending.append((function.__dict__, ""))
        variables = function.__globals__
        if is_foreign(str(variables.get("__name__", "")), variables.get("__file__")):
            return
        names = [name for name in _names(function.__code__) if name in variables]
        self._kept.append(keepers.keep_names(variables, names, self._iterators.current))
        self._variables.append((variables, names))
        pending += [(variables[name], name) for name in names]

    def _namespace(self, variables: dict[str, Any], pending: _Pending) -> None:
        """Keep a module's variables, all of them, if it is the program's own."""
        if is_foreign(str(variables.get("__name__", "")), variables.get("__file__")):
            return
        self._seen.add(id(variables))
        self._kept.append(keepers.keep_names(variables, None, self._iterators.current))
        pending += [(item, name) for name, item in variables.items() if not name.startswith("__")]

    def _class(self, cls: type, pending: _Pending) -> None:
        self._kept.append(keepers.keep_class(cls, self._iterators.current))
        for name, part in vars(cls).items():
            inner = getattr(part, "fget", None) or getattr(part, "__func__", None) or part
            if not isinstance(inner, (types.GetSetDescriptorType, types.MemberDescriptorType)):
                pending.append((inner, name))
        pending += [(base, "") for base in (*cls.__bases__, type(cls))]

    def _object(self, thing: Any, pending: _Pending) -> None:
        kind = type(thing)
        # Else everything that was ever recorded would be kept at each restart point, and put back, the tape included.
        if kind.__module__.partition(".")[0] == "nnrepl":
            pending.append((getattr(thing, "fun", None), ""))  # a transform's function: the records are no world
            return
        restore = keepers.keep_generator_of_numbers(thing)
        if restore is not None:
            self._kept.append(restore)
            return
        inner = inner_function(thing)
        if inner is not thing:
            pending.append((inner, ""))
        if isinstance(thing, functools.partial):
            self._kept.append(keepers.keep_partial(thing))
        for attribute in ("func", "args", "keywords") if kind.__name__ == "partial" else ("__wrapped__", "fun"):
            pending.append((getattr(thing, "__dict__", {}).get(attribute) or _part(thing, kind, attribute), ""))
        if getattr(thing, "__dict__", None) is None and not slots_of(kind):
            # Made in C, as an `mx.custom_function` is: what it holds, its functions, only the collector shows.
            pending += [(part, "") for part in gc.get_referents(thing) if not isinstance(part, type)]
        pending.append((kind, ""))
        self._attributes(thing, pending)

    def _attributes(self, thing: Any, pending: _Pending) -> None:
        attributes = getattr(thing, "__dict__", None)
        if isinstance(attributes, dict):
            pending.append((attributes, ""))
        for slot in slots_of(type(thing)):
            self._kept.append(keepers.keep_slot(thing, slot, self._iterators.current))
            pending.append((getattr(thing, slot, None), slot))
        if type(thing).__module__ != "builtins":
            pending.append((type(thing), ""))


class _Iterators:
    """The iterators of a world, where they stood. What puts a holder back holds this and not the world: in a circle
    with it the tensors of every restart point would stay, for the collector is kept from walking what is recorded.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}
        self._fresh: dict[int, Any] = {}

    def keep(self, thing: Any) -> None:
        """Keep an iterator as it stands."""
        self._kept[id(thing)] = keepers.copy_iterator(thing)

    def begin(self) -> None:
        """Note that everything is about to be put back."""
        # Every holder of one iterator must get one and the same copy: two loops over it share where it stands.
        self._fresh.clear()

    def current(self, thing: Any) -> Any:
        """Return what a holder of `thing` gets back: an iterator is one that stands where it stood."""
        key = id(thing)
        kept = self._kept.get(key)
        if kept is None:
            return thing
        if key not in self._fresh:
            self._fresh[key] = keepers.copy_iterator(kept)
        return self._fresh[key]


def _content(thing: Any) -> Any:
    """Return what one thing holds, by identity."""
    if isinstance(thing, dict):
        return tuple([(id(key) if type(key) is not str else key, id(item)) for key, item in dict.items(thing)])
    if isinstance(thing, (list, deque, set)):
        return tuple(map(id, thing))
    if isinstance(thing, types.CellType):
        return id(contents_of(thing))
    if isinstance(thing, keepers.Cache):
        from nnrepl.replay import caches

        return [(id(key), id(result)) for key, result in caches.entries_of(thing) or ()]
    if isinstance(thing, type):
        return tuple([(name, id(part)) for name, part in vars(thing).items() if name not in keepers.MACHINERY])
    if keepers.is_ndarray(thing):
        return thing.tobytes() if thing.nbytes <= _COMPARED and not thing.dtype.hasobject else None
    if isinstance(thing, (bytearray, flat_array)):
        return bytes(thing)
    numbers = keepers.state_of_generator(thing)
    if numbers is not None:
        return numbers
    return tuple([id(getattr(thing, slot, None)) for slot in slots_of(type(thing))])


_COMPARED = 2**20


def _items(thing: Any) -> Iterable[Any]:
    """Return what one thing holds that `_content` tells by identity."""
    if isinstance(thing, dict):
        return dict.values(thing)
    if isinstance(thing, (list, deque)):
        return thing
    if isinstance(thing, types.CellType):
        return (contents_of(thing),)
    return () if isinstance(thing, type) else [getattr(thing, slot, None) for slot in slots_of(type(thing))]


def contents_of(cell: types.CellType) -> Any:
    """Return what a closure's variable is; None if it is not set."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _part(thing: Any, kind: type, attribute: str) -> Any:
    return getattr(thing, attribute, None) if kind.__name__ == "partial" else None


class RandomStates:
    """The random states of MLX (of this thread), of Python's `random`, and of NumPy: if it is not loaded yet, the one
    that it will have when it is. A program that does not seed it draws from what its import has drawn, and a run again
    imports nothing.
    """

    _first: Any = None

    def __init__(self) -> None:
        self._mlx = _RANDOM_STATE[0]
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")
        self._at_import = numpy is None
        self._own = None if numpy is None else numpy.random.get_state()

    @classmethod
    def numpy_begins(cls, module: types.ModuleType) -> None:
        """Note that `numpy.random` has been imported just now."""
        cls._first = module.get_state()

    @property
    def _numpy(self) -> Any:
        return self._first if self._at_import else self._own

    @property
    def moved(self) -> bool:
        """Whether one of them is no longer what it was."""
        # MLX puts a new key into the list at each draw (`PyKeySequence` in mlx/python/src/random.cpp): identity tells.
        if _RANDOM_STATE[0] is not self._mlx or random.getstate() != self._python:
            return True
        return self._numpy is not None and repr(sys.modules["numpy"].random.get_state()) != repr(self._numpy)

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


def slots_of(cls: type) -> list[str]:
    """Return the attributes of an object that lie in slots."""
    slots = _SLOTS.get(cls)
    if slots is None:
        slots = _SLOTS[cls] = _slots_of(cls)
    return slots


_SLOTS: weakref.WeakKeyDictionary[type, list[str]] = weakref.WeakKeyDictionary()
"""Those of each class. The program's classes lead to all that it holds: they may go."""


def _slots_of(cls: type) -> list[str]:
    found: list[str] = []
    for base in cls.__mro__:
        declared = base.__dict__.get("__slots__", ())
        names = [declared] if isinstance(declared, str) else list(declared)
        private = f"_{base.__name__.lstrip('_')}"
        found += [private + name if name.startswith("__") and not name.endswith("__") else name for name in names]
    return [slot for slot in found if slot not in ("__dict__", "__weakref__")]


def _standard_streams() -> tuple[Any, ...]:
    return sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__


def is_foreign(module: str, file: Any) -> bool:
    """Whether a module is none of the program's: built in, of Python, of an installed package, or nnrepl itself."""
    if module.partition(".")[0] in ("nnrepl", "builtins", _BINDINGS) or module in sys.builtin_module_names:
        return True
    if file is not None:
        return is_library(str(file))
    if module == "__main__" or getattr(sys.modules.get(module), "__spec__", None) is not None:
        return module != "__main__"
    # `mlx.core.fast` has no file: it is made in that of `mlx.core`.
    package = sys.modules.get(module.rpartition(".")[0])
    return package is not None and is_foreign(package.__name__, getattr(package, "__file__", None))


_BINDINGS = type(mx.add).__module__
"""Where the types of MLX's functions come from: a module that nobody can import."""


def is_outside(thing: Any) -> bool:
    """Whether a thing is a module or a class that is none of the program's: what is set in it is not put back."""
    if isinstance(thing, types.ModuleType):
        return is_foreign(thing.__name__, getattr(thing, "__file__", None))
    if isinstance(thing, type):
        return is_foreign(thing.__module__, getattr(sys.modules.get(thing.__module__), "__file__", None))
    return False
