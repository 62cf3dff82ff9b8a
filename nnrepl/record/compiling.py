"""Compiling: what MLX's compiler does at present: whether it compiles at all, by what it tells calls apart, and what it
has traced before."""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.batches import same_bits
from nnrepl.record.catalog import Callee
from nnrepl.record.data import construct
from nnrepl.record.quiet import set_random_state
from nnrepl.record.recorder import RECORD, Recorder
from nnrepl.record.strays import invoke

_RANDOM_STATE: Any = mx.random.state
_array = mx.array
Remember = Callable[[tuple[Any, ...]], Callable[[], None] | None]
"""Keeps what can be reached from some things; returns what puts it back, None if not all can be."""
_compile, _copy, _negative = mx.compile, mx.array.__copy__, mx.negative


def compiling() -> bool:
    """Whether MLX compiles at present: a compiled function does not run its Python body twice."""
    runs: list[mx.array] = []

    def body(array: mx.array) -> mx.array:
        runs.append(array)
        return _negative(array)

    probe = _compile(body)
    # `MLX_DISABLE_COMPILE` and `mx.disable_compile` leave no trace that could be asked for: so a function is compiled.
    for _ in range(3):  # MLX runs the very first compiled function of a process twice
        probe(construct(0.0))
    return len(runs) < 3


def switch(recorder: Recorder, callee: Callee) -> Callable[..., None]:
    """Follow `mx.disable_compile()`, `mx.enable_compile()` and `mx.random.seed(n)`."""
    original = callee.original

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            return
        if callee.attribute == "seed":
            recorder.seeded(("seed", *args, *kwargs.values()))
        else:
            recorder.compiling = callee.attribute == "enable_compile"

    return wrapper


# -- by what MLX tells calls apart -------------------------------------------------------------------------

# It traces one call of each kind: of the same shapes and dtypes, and with the same list of numbers for all else that
# goes in. That list has no lengths in it, a bool is an int there, and a float its bits (`PyCompiledFun::call_impl` in
# mlx/python/src/transforms.cpp): so two calls may be one to MLX where Python would not say so, `f([a, b])` and
# `f([a], b)`.
_ARRAY, _SEQUENCE, _DICT, _NONE = object(), object(), object(), object()
"""What stands in the list for these. MLX has large primes there, which nothing else comes to either."""
_UNSIGNED = 2**64 - 1


def call_signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what tells apart calls of a compiled function that MLX traces separately, as far as arguments tell."""
    if not kwargs:
        kinds = []
        for arg in args:
            if type(arg) is not _array:
                break
            kinds.append((arg.shape, arg.dtype))
        else:  # as mostly
            return len(args), tuple(kinds)
    return _constants(args, kwargs), tuple([(array.shape, array.dtype) for array in trees.arrays((args, kwargs))])


def call_key(
    args: tuple[Any, ...], kwargs: dict[str, Any], kinds: Iterable[tuple[Any, mx.Dtype]], shapeless: bool
) -> Any:
    """Return what tells apart calls that MLX traces separately.

    Args:
        kinds: Shapes and dtypes of what goes in.
    """
    constants = len(args) if are_arrays(args, kwargs) else _constants(args, kwargs)
    return constants, tuple([(len(shape) if shapeless else shape, dtype) for shape, dtype in kinds])


def are_arrays(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is given arrays by position and nothing else."""
    return not kwargs and all([type(arg) is mx.array for arg in args])


def can_be_told(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether MLX takes all that a call is given."""
    return are_arrays(args, kwargs) or all(map(_is_taken, trees.leaves((args, kwargs))))


def _is_taken(leaf: Any) -> bool:
    if isinstance(leaf, int):
        return -(2**63) <= leaf < 2**63
    return leaf is None or isinstance(leaf, (mx.array, str, float))


def _constants(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    found: list[Any] = []
    _gather(args, found)
    _gather(kwargs, found)
    return tuple(found)


def _gather(tree: Any, found: list[Any]) -> None:
    """Add what stands for a tree to the list, in MLX's order of questions: a bool is an int, a Module a dict."""
    if isinstance(tree, (list, tuple)):
        found.append(_SEQUENCE)
        for item in tree:
            _gather(item, found)
    elif isinstance(tree, dict):
        found.append(_DICT)
        for name, item in dict.items(tree):
            found.append(hash(name) & _UNSIGNED)
            _gather(item, found)
    elif isinstance(tree, mx.array):
        found.append(_ARRAY)
    elif isinstance(tree, str):
        found.append(hash(tree) & _UNSIGNED)
    elif isinstance(tree, int):
        found.append(int(tree) & _UNSIGNED)
    elif isinstance(tree, float):
        found.append(int.from_bytes(struct.pack("<d", tree), "little"))
    else:
        found.append(_NONE)


# -- what it has traced before -----------------------------------------------------------------------------


class _Python(BaseException):
    """A line of Python was about to run."""


def runs_without_python(made: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], captured: Any) -> bool:
    """Whether MLX calls what it has compiled without running any Python: it has traced it before, for such arguments.
    Nothing has happened then that could be told.

    Args:
        captured: The inputs and the outputs that are captured, as trees; they are given back.
    """
    before, runs = sys.gettrace(), False

    def refuse(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal runs
        runs = True
        raise _Python

    with _given_back(captured):
        sys.settrace(refuse)
        try:
            made(*args, **kwargs)
        except _Python:
            pass
        except Exception:  # whatever MLX says of such arguments it says where they are given to it
            runs = True
        finally:
            sys.settrace(before)
    return not runs


def does_as_its_source(
    made: Callable[..., Any],
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    captured: Any,
    remember: Remember,
) -> bool:
    """Whether what MLX has compiled gives the bits that its Python gives now, on such arguments. Both are computed, and
    everything is as it was.

    Args:
        captured: The inputs and the outputs that are captured, as trees; they are given back.
        remember: Keeps what some things hold.
    """
    from nnrepl.record.as_before import given_back

    told = []
    for one in (made, fun):
        restore = remember((fun, args, kwargs, captured))
        if restore is None:
            return False
        with _given_back(captured), given_back():
            try:
                result = invoke(one, args, kwargs)
                told.append([_copy(array) for tree in (result, captured) for array in trees.arrays(tree)])
            except Exception:  # one of them raises: they do not do the same
                return False
            finally:
                restore()
    kinds = [[(array.shape, array.dtype) for array in arrays] for arrays in told]
    return kinds[0] == kinds[1] and all([same_bits(a, b).item() for a, b in zip(*told)])


@contextmanager
def _given_back(captured: Any) -> Iterator[None]:
    """Let what is captured, and the random state, be what they were. MLX leaves its placeholders in what is captured
    where the function raises."""
    state = _RANDOM_STATE[0]
    held = [array for array in trees.arrays(captured) if array is not state]
    try:
        yield
    finally:
        given = iter(held)
        trees.fill(captured, lambda _: next(given))
        if _RANDOM_STATE[0] is not state:
            set_random_state(state)
