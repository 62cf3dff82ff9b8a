"""Compiling: what MLX's compiler does at present: whether it compiles at all, and what it has traced before."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
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
Remember = Callable[[tuple[Any, ...]], Callable[[], None] | None]
"""Keeps what can be reached from some things; returns what puts it back, None if not all can be."""
_compile, _negative = mx.compile, mx.negative


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


class _Python(BaseException):
    """A line of Python was about to run."""


def runs_without_python(made: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> bool:
    """Whether MLX calls what it has compiled without running any Python: it has traced it before, for such arguments.
    Nothing has happened then that could be told.

    Args:
        outputs: What is captured, and is given back.
    """
    before, runs = sys.gettrace(), False

    def refuse(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal runs
        runs = True
        raise _Python

    with _given_back(outputs):
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
    outputs: Any,
    remember: Remember,
) -> bool:
    """Whether what MLX has compiled gives the bits that its Python gives now, on such arguments. Both are computed, and
    everything is as it was.

    Args:
        outputs: What is captured, and is given back.
        remember: Keeps what some things hold.
    """
    told = []
    for one in (made, fun):
        restore = remember((fun, args, kwargs, outputs))
        if restore is None:
            return False
        with _given_back(outputs):
            try:
                result = invoke(one, args, kwargs)
                told.append([*trees.arrays(result), *trees.arrays(outputs)])
            except Exception:  # one of them raises: they do not do the same
                return False
            finally:
                restore()
    kinds = [[(array.shape, array.dtype) for array in arrays] for arrays in told]
    return kinds[0] == kinds[1] and all([same_bits(a, b).item() for a, b in zip(*told)])


@contextmanager
def _given_back(outputs: Any) -> Iterator[None]:
    """Let what is captured, and the random state, be what they were."""
    state = _RANDOM_STATE[0]
    held = [array for array in trees.arrays(outputs) if array is not state]
    try:
        yield
    finally:
        given = iter(held)
        trees.fill(outputs, lambda _: next(given))
        if _RANDOM_STATE[0] is not state:
            set_random_state(state)
