"""Programs: how the odd programs of the corpus are written down.

Each is a function under one of three decorators, and gets arrays of random normal numbers of the given shapes:

    @differentiated((4, 3), (3,))     a loss; nnrepl differentiates it with respect to all its arguments
    @called((4, 3))                   a function that is just called; it may take gradients by itself
    @built                            a function that builds everything and returns the `Call` to be made
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from tests.corpus.checks import Call

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the corpus.

    Attributes:
        make: Builds the call, anew each time.
        module: The module that it was written down in.
    """

    make: Callable[[], Call]
    module: str


PROGRAMS: dict[str, Program] = {}


def differentiated(*shapes: tuple[int, ...], dtype: mx.Dtype = mx.float32) -> Callable[[Function], Function]:
    """Write down a loss, to be differentiated with respect to all its arguments."""

    def register(fn: Function) -> Function:
        wrt = 0 if len(shapes) == 1 else list(range(len(shapes)))
        return _add(fn, lambda: Call(fn, arrays(shapes, dtype), wrt))

    return register


def called(*shapes: tuple[int, ...], dtype: mx.Dtype = mx.float32) -> Callable[[Function], Function]:
    """Write down a function that is just called."""

    def register(fn: Function) -> Function:
        return _add(fn, lambda: Call(fn, arrays(shapes, dtype)))

    return register


def built(make: Callable[[], Call]) -> Callable[[], Call]:
    """Write down a function that builds a call."""
    return _add(make, make)


def _add(fn: Function, make: Callable[[], Call]) -> Function:
    name = fn.__name__.strip("_")
    assert name not in PROGRAMS, f"there are two programs called {name}"
    PROGRAMS[name] = Program(make, fn.__module__.rpartition(".")[2])
    return fn


def arrays(shapes: tuple[tuple[int, ...], ...], dtype: mx.Dtype) -> list[mx.array]:
    """Random normal arrays, the same ones every time."""
    mx.random.seed(3)
    made = [mx.random.normal(shape).astype(dtype) for shape in shapes]
    mx.eval(made)
    return made
