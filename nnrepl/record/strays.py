"""Strays: MLX's functions that a program took hold of before recording began.

An `nn.AvgPool1d` keeps `mx.mean` in the instance, a table keeps `mx.exp`, a partial keeps `mx.multiply`. No module
attribute leads there, so the call itself is caught, on the type of MLX's functions (nanobind's `nb_func`). That type
is immutable and its calls go past `__call__`; two of its flags say so, and are cleared meanwhile.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

import mlx.core as mx

_getframe = sys._getframe

FUNCTION: Any = type(mx.add)
"""The type of MLX's functions."""

TRANSFORMED: Any = type(mx.compile(lambda: None))
"""The type of what `mx.compile` and its siblings return (`mlx.core._gc_func`)."""
_CALL = vars(TRANSFORMED)["__call__"]

_FLAGS_BEFORE = 18
"""How many pointer-sized fields lie between the object header and `tp_flags` in CPython's PyTypeObject."""
_IMMUTABLE, _VECTORCALL = 1 << 8, 1 << 11


def raw(function: Any) -> Any:
    """Return a callable for one of MLX's functions that goes straight to MLX, also while calls are caught."""
    return function.__call__ if type(function) is FUNCTION else function


def native(transformed: Any) -> Callable[..., Any]:
    """Return a callable for what one of MLX's transforms returned that goes straight to MLX."""
    return functools.partial(_CALL, transformed)


def invoke(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function of the program's (which may be one of MLX's) on its behalf."""
    return function(*args, **kwargs)


_INVOKE: CodeType = invoke.__code__


def catch(wrappers: dict[int, Callable[..., Any]]) -> Callable[[], None]:
    """Let every call of one of MLX's functions go to its wrapper, unless nnrepl itself calls.

    Args:
        wrappers: The wrappers by the `id` of what they stand for.

    Returns:
        What ends it.
    """
    flags = _flags_of(FUNCTION)
    if flags is None:
        return lambda: None
    before = vars(FUNCTION)["__call__"]
    # `invoke` is nnrepl's, and calls on the program's behalf: what it calls is caught.
    own: dict[CodeType, bool] = {_INVOKE: False}

    def __call__(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        wrapper = wrappers.get(id(self))
        if wrapper is not None:
            frame = _getframe(1)
            ours = own.get(frame.f_code)
            if ours is None:
                ours = own[frame.f_code] = str(frame.f_globals.get("__name__")).startswith("nnrepl.")
            if not ours:
                return wrapper(*args, **kwargs)
        return before(self, *args, **kwargs)

    held = flags.value & (_IMMUTABLE | _VECTORCALL)
    flags.value &= ~_IMMUTABLE
    # From Python 3.12 on the assignment clears the other flag by itself; in 3.11 calls would go past `__call__` still.
    FUNCTION.__call__ = __call__
    flags.value &= ~_VECTORCALL

    def undo() -> None:
        FUNCTION.__call__ = before
        flags.value |= held

    return undo


def catch_transformed(call: Callable[[Any], Any]) -> Callable[[], None]:
    """Let every call of what one of MLX's transforms returned go to another function. Up to mlx 0.32.3 its type lets
    calls go past `__call__` as that of functions does.

    Args:
        call: Gives the new `__call__` for the old one.

    Returns:
        What ends it.
    """
    flags = _flags_of(TRANSFORMED)
    held = 0 if flags is None else flags.value & _VECTORCALL
    TRANSFORMED.__call__ = call(_CALL)
    if flags is not None:
        flags.value &= ~_VECTORCALL

    def undo() -> None:
        TRANSFORMED.__call__ = _CALL
        if flags is not None:
            flags.value |= held

    return undo


def _flags_of(cls: type) -> ctypes.c_ulong | None:
    """Return the `tp_flags` of a type; None where they do not lie where they should."""
    header = object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t)
    flags = ctypes.c_ulong.from_address(id(cls) + header + _FLAGS_BEFORE * ctypes.sizeof(ctypes.c_void_p))
    return flags if flags.value == cls.__flags__ else None
