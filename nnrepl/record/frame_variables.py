"""Variables: which variables of some code are looked at, and how they are read from a frame."""

from __future__ import annotations

import ctypes
import dis
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from types import CodeType, FrameType, FunctionType
from typing import Any

from nnrepl.installed import is_library
from nnrepl.tape import UNBOUND

OPTIMIZED = 0x1  # inspect.CO_OPTIMIZED: the locals live in fast slots, so `f_locals` is a copy
_CACHED_LOCALS = sys.version_info < (3, 13)
_UNSET = repeat(UNBOUND)
_variables: dict[CodeType, tuple[tuple[str, ...], bool]] = {}


def variables_of(code: CodeType) -> tuple[str, ...]:
    """Return the variables that are looked at: those that the code of a function has, or that the code of a module
    sets."""
    return looked_at(code)[0]


def lies_within(inner: CodeType, outer: CodeType) -> bool:
    """Whether a function stands in the source of another: what stands in it sees the variables of that."""
    return bool(outer.co_flags & OPTIMIZED) and any([const is inner for const in outer.co_consts])


def around(codes: Sequence[CodeType], at: int) -> Iterator[int]:
    """Yield which of some calls, outermost first, are of functions in whose source that of one of them stands."""
    code = codes[at]
    for outer in range(at - 1, -1, -1):
        if lies_within(code, codes[outer]):
            code = codes[outer]
            yield outer


def recall_variables(code: CodeType, names: tuple[str, ...]) -> None:
    """Say which variables of some code were looked at, where its instructions cannot be asked any more."""
    _variables[code] = names, is_library(code.co_filename)


def looked_at(code: CodeType) -> tuple[tuple[str, ...], bool]:
    """Return the variables of some code that are looked at, and whether it is a library's."""
    known = _variables.get(code)
    if known is None:
        if code.co_filename.endswith(_PLUMBING):
            names: tuple[str, ...] = ()
        elif not code.co_flags & OPTIMIZED:
            names = (*_stored(code, "STORE_NAME"), *code.co_varnames)  # these are of comprehensions, from 3.12 on
        elif _CACHED_LOCALS and not _READERS.isdisjoint(code.co_names) and _asks_for_locals(code):
            names = ()  # reading them would change the dict that the program may have got from `locals()`
        else:
            names = (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
        names = tuple(dict.fromkeys(name for name in names if name.isidentifier()))
        known = _variables[code] = names, is_library(code.co_filename)
    return known


_PLUMBING = ("/mlx/nn/utils.py", "/mlx/utils.py")
"""What only hands on: whole trees of parameters go through it, and nobody asks for its variables."""
_READERS = frozenset(("locals", "vars", "exec", "eval"))


def _asks_for_locals(code: CodeType) -> bool:
    """Whether a function may keep the dict of its variables: by `locals()` it gets that of its frame. Where it looks
    something up there and lets go of it (`"loss" in locals()`), no reading of it shows."""
    steps = [step for step in dis.get_instructions(code) if step.opname != "PRECALL"]
    for at, step in enumerate(steps):
        if step.opname == "LOAD_GLOBAL" and step.argval in _READERS:
            calls = at + 1 < len(steps) and steps[at + 1].opname == "CALL" and not steps[at + 1].arg
            if step.argval == "vars" and not calls:
                continue  # `vars(args)` is about something else
            if step.argval in ("exec", "eval") or not calls or not _looks_up(steps[at + 2 : at + 4]):
                return True
    return False


def _looks_up(steps: list[dis.Instruction]) -> bool:
    """Whether the next instructions look something up in a dict, and leave nothing of it behind."""
    names = [step.opname for step in steps]
    if names[:1] in (["LOAD_METHOD"], ["LOAD_ATTR"]):
        return steps[0].argval in ("get", "copy")
    return names[:1] in (["CONTAINS_OP"], ["DICT_MERGE"], ["DICT_UPDATE"]) or names[1:] == ["BINARY_SUBSCR"]


def _stored(code: CodeType, how: str) -> list[str]:
    """Return the names that code sets by an instruction, and those that functions in it set as global ones."""
    found = [step.argval for step in dis.get_instructions(code) if step.opname in (how, "STORE_GLOBAL")]
    for part in code.co_consts:
        if isinstance(part, CodeType):
            found += _stored(part, "STORE_GLOBAL")
    return found


@lru_cache(1024)
def sets_globals(code: CodeType) -> bool:
    """Whether a function in some code sets global variables."""
    return any(_stored(part, "STORE_GLOBAL") for part in code.co_consts if isinstance(part, CodeType))


_FOLLOWED = 64
"""So many names at most are followed: they are looked up with each call."""
_shared: dict[CodeType, tuple[str, ...]] = {}


def shared_names(frame: FrameType) -> tuple[str, ...]:
    """Return the names by which the function of a frame, and those of its module that it calls, read global variables.
    A function that makes no op (`def note(loss): history.append(loss)`) is never looked at itself; what it changes has
    changed where the function goes on that has called it."""
    code = frame.f_code
    known = _shared.get(code)
    if known is None:
        known = _shared[code] = _reached(code, frame.f_globals)
    return known


def _reached(code: CodeType, variables: dict[str, Any]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    pending, seen = [code], {code}
    while pending and len(names) < _FOLLOWED:
        looked = pending.pop(0)
        own = dict.fromkeys(looked.co_names)
        parts = [part for part in looked.co_consts if isinstance(part, CodeType)]  # lambdas and comprehensions in it
        for name in own:
            thing = variables.get(name) if name not in names else None
            if type(thing) is FunctionType and thing.__globals__ is variables:
                parts.append(thing.__code__)
        names.update(own)
        pending += [part for part in parts if part not in seen]
        seen.update(parts)
    return tuple(names)


def namespace(frame: FrameType) -> Any:
    """Return the variables of a frame by name. While a comprehension runs in the code of a module, `f_locals` is a copy
    on Python 3.12, and from 3.13 on it has the comprehension's own alone: there the module's are its global ones."""
    found = frame.f_locals
    code = frame.f_code
    if code.co_flags & OPTIMIZED or not code.co_varnames or code.co_name != "<module>":
        return found
    return frame.f_globals


_DANGLES = (3, 13) <= sys.version_info < (3, 13, 6)
GENERATOR = 0x20 | 0x80 | 0x200  # inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR


def read(frame: FrameType, names: tuple[str, ...], optimized: bool) -> list[Any]:
    """Return what variables of a frame hold."""
    variables: Any = frame.f_locals
    if not optimized:
        if (space := namespace(frame)) is not variables:
            return [variables.get(name, space.get(name, UNBOUND)) for name in names]
        return list(map(variables.get, names, _UNSET))
    if not _CACHED_LOCALS:
        variables = dict(variables)
    values = list(map(variables.get, names, _UNSET))
    # Three: the frame, our variable, and the question itself. One more is the program's, which has called `locals()`.
    if _CACHED_LOCALS and sys.getrefcount(variables) <= 3:
        # Before 3.13 the frame keeps this copy of its locals, and with it every array in it, alive.
        variables.clear()
    return values


def may_dangle(code: CodeType) -> bool:
    """Whether a frame of some code must not be asked for its variables once it does not run: the generator may be gone,
    and up to Python 3.13.5 the frame then reads what was freed (CPython's gh-125723)."""
    return _DANGLES and bool(code.co_flags & GENERATOR)


_firsts: dict[int, tuple[str, CodeType]] = {}
"""What the first argument of some code is called, "" where there is none that is looked at; and the code, which lives
as long as its identity stands for it."""


def first_argument(frame: FrameType) -> Any:
    """Return the first argument of the function that runs in `frame`, None if it takes none."""
    code = frame.f_code
    known = _firsts.get(id(code))  # to hash code takes long, and this is asked at every call
    if known is None:
        asked = code.co_argcount and code.co_flags & OPTIMIZED and looked_at(code)[0]
        known = _firsts[id(code)] = code.co_varnames[0] if asked else "", code
    if not known[0]:
        return None
    variables = frame.f_locals
    argument = variables.get(known[0])
    if _CACHED_LOCALS and sys.getrefcount(variables) <= 3:
        variables.clear()
    return argument


def set_variables(frame: FrameType, given: dict[str, Any]) -> None:
    """Give variables of a running call other things."""
    variables = namespace(frame)
    variables.update(given)
    if variables is not frame.f_globals and _CACHED_LOCALS:
        # Up to Python 3.12 `f_locals` is a copy, which this writes back; 0: what is not in it keeps what it holds.
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
