"""Keepers: how each kind of mutable thing is remembered, and put back in place."""

from __future__ import annotations

import ast
import ctypes
import functools
import io
import itertools
import random
import sys
import types
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

Restore = Callable[[], None]
Current = Callable[[Any], Any]
"""What stands for a thing that was held: itself, or a fresh copy of an iterator as it was."""


class CannotKeep(Exception):
    """This cannot be put back; the message says what it is ("a generator")."""


def keep_dict(thing: dict[Any, Any], current: Current) -> Restore:
    """Remember what a dict holds; where its keys are the same still, only what changed is put back."""
    before = dict(dict.items(thing))
    # Their own methods: a subclass may do something when an item is set, which is none of the program's doings now.
    kind: Any = OrderedDict if isinstance(thing, OrderedDict) else dict

    def restore() -> None:
        now = dict(dict.items(thing))
        if list(now) != list(before):  # a dict goes through its keys in the order in which they came
            kind.clear(thing)
            now = {}
        for key, value in before.items():
            wanted = current(value)
            if key not in now or now[key] is not wanted:
                kind.__setitem__(thing, key, wanted)

    return restore


def keep_names(variables: dict[str, Any], names: list[str] | None, current: Current) -> Restore:
    """Remember variables of a namespace, which is never cleared: what changed is put back, and (where all of it is
    remembered) what came new is taken away."""
    chosen = [name for name in (variables if names is None else names) if name in variables]
    before = {name: variables[name] for name in chosen}

    def restore() -> None:
        for name in [name for name in variables if name not in before] if names is None else ():
            # Those Python sets by itself (`__warningregistry__`).
            if not name.startswith("__"):
                del variables[name]
        for name, value in before.items():
            wanted = current(value)
            if name not in variables or variables[name] is not wanted:
                variables[name] = wanted

    return restore


def keep_sequence(thing: Any, current: Current) -> Restore:
    """Remember what a list or a deque holds."""
    before = list(thing)

    def restore() -> None:
        wanted = [current(item) for item in before]
        if len(thing) != len(wanted) or any([a is not b for a, b in zip(thing, wanted)]):
            thing.clear()
            thing.extend(wanted)

    return restore


def keep_flat(thing: Any) -> Restore:
    """Remember a bytearray, or an array of Python's `array`."""
    before = thing[:]

    def restore() -> None:
        thing[:] = before

    return restore


def keep_set(thing: set[Any]) -> Restore:
    """Remember what a set holds."""
    before = set(thing)

    def restore() -> None:
        if thing != before:
            thing.clear()
            thing.update(before)

    return restore


def keep_cell(cell: types.CellType, current: Current) -> Restore:
    """Remember what a closure's variable is. Raises ValueError if it is not set."""
    before = cell.cell_contents

    def restore() -> None:
        cell.cell_contents = current(before)

    return restore


def keep_slot(thing: Any, slot: str, current: Current) -> Restore:
    """Remember an attribute that lies in a slot."""
    missing = object()
    before = getattr(thing, slot, missing)

    def restore() -> None:
        if before is not missing:
            # Not its own `__setattr__`: that of a frozen dataclass refuses.
            object.__setattr__(thing, slot, current(before))
        elif hasattr(thing, slot):
            object.__delattr__(thing, slot)

    return restore


def keep_class(cls: type, current: Current) -> Restore:
    """Remember the attributes of a class."""
    before = {name: value for name, value in vars(cls).items() if name not in MACHINERY}

    def restore() -> None:
        # By `type`'s own methods: a metaclass may refuse (that of an Enum does), or do more.
        for name in [name for name in vars(cls) if name not in before and name not in MACHINERY]:
            type.__delattr__(cls, name)
        for name, value in before.items():
            wanted = current(value)
            # No attribute is `before`: it stands for one that is gone.
            if vars(cls).get(name, before) is not wanted:
                type.__setattr__(cls, name, wanted)

    return restore


MACHINERY = frozenset(
    "__dict__ __weakref__ __doc__ __module__ __abstractmethods__ _abc_impl __annotations__ __static_attributes__ "
    "__firstlineno__ __type_params__ __parameters__ __orig_bases__ __match_args__ __slots__".split()
)

_copies: dict[int, tuple[weakref.ref[Any], Any]] = {}
"""The last copy of each NumPy array that was remembered: most never change."""


def keep_defaults(function: types.FunctionType) -> Restore:
    """Remember the defaults of a function."""
    defaults, named = function.__defaults__, dict(function.__kwdefaults__ or {})

    def restore() -> None:
        if function.__defaults__ is not defaults:
            function.__defaults__ = defaults
        for name, part in named.items():
            if (now := function.__kwdefaults__ or {}).get(name) is not part:
                function.__kwdefaults__ = {**now, name: part}

    return restore


def keep_partial(thing: Any) -> Restore:
    """Remember the arguments of a `functools.partial`."""
    args, keywords = thing.args, thing.keywords

    def restore() -> None:
        if thing.args is not args or thing.keywords is not keywords:
            thing.__setstate__((thing.func, args, keywords, thing.__dict__ or None))

    return restore


def keep_ndarray(array: Any) -> Restore:
    """Remember the numbers of a NumPy array."""
    known = _copies.get(id(array))
    before = known[1] if known is not None and known[0]() is array and _same_numbers(known[1], array) else None
    if before is None:
        before, key = array.copy(), id(array)
        try:
            _copies[key] = (weakref.ref(array, lambda _: _copies.pop(key, None)), before)
        except TypeError:
            pass

    def restore() -> None:
        if array.shape == before.shape and array.flags.writeable and not _same_numbers(before, array):
            array[...] = before

    return restore


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def _same_numbers(a: Any, b: Any) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.dtype.hasobject:
        return False
    # Bits, not numbers: to NumPy NaN is no NaN, and 0.0 is -0.0.
    if a.flags.c_contiguous and b.flags.c_contiguous:
        return bool(_memcmp(a.ctypes.data, b.ctypes.data, a.nbytes) == 0)
    return bool(a.tobytes() == b.tobytes())


def is_ndarray(thing: Any) -> bool:
    """Whether a thing is a NumPy array, asked without importing NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(thing, numpy.ndarray)


# -- random states -----------------------------------------------------------------------------------------


def keep_generator_of_numbers(thing: Any) -> Restore | None:
    """Remember the state of a generator of random numbers, of Python's or of NumPy's; None for anything else.

    Raises:
        CannotKeep: If it has none (it draws from the system).
    """
    if not isinstance(thing, random.Random) and type(thing).__module__.partition(".")[0] != "numpy":
        return None
    if isinstance(thing, random.Random):
        try:
            state = thing.getstate()
        except NotImplementedError:
            raise CannotKeep("random numbers of the system") from None
        return lambda: thing.setstate(state)
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(thing, numpy.random.Generator):
        return keep_generator_of_numbers(thing.bit_generator)
    if isinstance(thing, numpy.random.BitGenerator):
        bits = thing.state

        def restore() -> None:
            thing.state = bits

        return restore
    if isinstance(thing, numpy.random.RandomState):
        legacy = thing.get_state(legacy=False)
        return lambda: thing.set_state(legacy)
    return None


def state_of_generator(thing: Any) -> Any:
    """Where a generator of random numbers stands, to be compared; None for anything else."""
    if isinstance(thing, random.Random):
        return None if isinstance(thing, random.SystemRandom) else thing.getstate()
    numpy = sys.modules.get("numpy")
    if numpy is None or type(thing).__module__.partition(".")[0] != "numpy":
        return None
    if isinstance(thing, numpy.random.Generator):
        return repr(thing.bit_generator.state)
    if isinstance(thing, numpy.random.BitGenerator):
        return repr(thing.state)
    return repr(thing.get_state()) if isinstance(thing, numpy.random.RandomState) else None


Cache: Any = type(functools.lru_cache(len))
"""What a function is that Python keeps the results of: see `nnrepl.replay.caches`."""


# -- iterators and files -----------------------------------------------------------------------------------


def is_iterator(thing: Any) -> bool:
    """Whether a thing is an iterator that is made in C: where it stands cannot be read off its attributes."""
    step = getattr(type(thing), "__next__", None)
    return step is not None and not isinstance(step, types.FunctionType)


def copy_iterator(thing: Any) -> Any:
    """Return an iterator that gives what `thing` would give, which stays where it is.

    Raises:
        CannotKeep: If Python cannot copy it.
    """
    kind = type(thing).__name__
    if isinstance(thing, types.GeneratorType):
        raise CannotKeep("a generator")
    if type(thing) is itertools.count:
        return _count_from(thing)
    try:
        reduced = unwarned(thing.__reduce__)
        if not isinstance(reduced, tuple) or len(reduced) < 2 or reduced[0] in BY_TYPE:
            raise CannotKeep(f"an iterator ({kind})")
        make, given = reduced[:2]
        if make is iter and not _tells_its_place(given):
            raise CannotKeep(f"an iterator ({kind})")
        made = make(*_with_copies(given))
        if len(reduced) > 2 and reduced[2] is not None:
            unwarned(made.__setstate__, _own_lists(_with_copies(reduced[2])))
    except CannotKeep:
        raise
    except Exception:  # a library's own, which may go wrong in any way
        raise CannotKeep(f"an iterator ({kind})") from None
    return made


BY_TYPE = sys.modules["copyreg"].__newobj__, sys.modules["copyreg"]._reconstructor
"""What makes an object by its type: it knows no place to stand at."""


def unwarned(ask: Callable[..., Any], *given: Any) -> Any:
    """Return what Python answers where an iterator is copied, without its warnings: it is not the program that asks."""
    # Python 3.12 and 3.13 warn of what 3.14 no longer does for `itertools`. Not by `catch_warnings`: that has each
    # warning shown again which the program has had.
    filters = warnings.filters
    warnings.filters = [("ignore", None, Warning, None, 0)]
    try:
        return ask(*given)
    finally:
        warnings.filters = filters


def _count_from(thing: itertools.count[Any]) -> itertools.count[Any]:
    """Return a count that goes on from where another stands, which is told by how it is written: since Python 3.14
    none of `itertools` says it otherwise. Raises CannotKeep if its numbers are none of Python's own."""
    numbers = repr(thing)[len("count(") : -1].split(", ")
    try:
        return itertools.count(*map(ast.literal_eval, numbers))
    except (ValueError, SyntaxError, TypeError):
        raise CannotKeep("an iterator (count)") from None


def _tells_its_place(given: tuple[Any, ...]) -> bool:
    """Whether what `iter` is given has its place where it can be seen: not in an object made in C that a function of
    its own moves on (`re.finditer`, a socket)."""
    owner = getattr(given[0], "__self__", None) if isinstance(given[0], types.BuiltinFunctionType) else None
    return owner is None or isinstance(owner, (types.ModuleType, list, dict, set, deque, io.IOBase))


def _with_copies(part: Any) -> Any:
    """Return what an iterator is made of, with copies of the iterators in it."""
    if type(part) is tuple:
        return tuple([_with_copies(item) for item in part])
    return copy_iterator(part) if is_iterator(part) else part


def _own_lists(state: Any) -> Any:
    """Return the state of an iterator with lists of its own: what `itertools.cycle` has given so far is in one, to
    which it adds; what others walk along is none of their state."""
    return tuple([list(part) if type(part) is list else part for part in state]) if type(state) is tuple else state


def keep_file(file: io.IOBase) -> Restore:
    """Remember where an open file stands.

    Raises:
        CannotKeep: If it does not stand anywhere (a pipe), or what is written to it goes to its end anyway.
    """
    if file.closed:
        return lambda: None
    name = f"the file {getattr(file, 'name', '')}".rstrip()
    if "a" in str(getattr(file, "mode", "")):
        raise CannotKeep(name)
    try:
        at = file.tell()
    except (OSError, ValueError):
        raise CannotKeep(name) from None

    def restore() -> None:
        if not file.closed:
            file.seek(at)

    return restore
