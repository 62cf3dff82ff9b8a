"""Sample calls of everything in MLX that nnrepl records, by the callee's name in `nnrepl.record.catalog`.

A sample is what stands between the parentheses: `calls("mx.take", Sample(f(4, 3), index(0, 2), axis=0))` stands
for `mx.take(x, i, axis=0)`. The arrays among the arguments are its inputs. For a function that is new in MLX, add
a line to the group that it belongs to.
"""

from __future__ import annotations

import copy
import functools
import itertools
import operator
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.catalog import MODULES

_seeds = itertools.count(1)


class Sample:
    """One call of a callee.

    Args:
        args, kwargs: What the callee is called with; the arrays in it are the inputs.
        via: The function to call instead of the callee itself, where that is not how people write it.
        refused: For a call that cannot run everywhere: why, and what MLX says then.
        wrt: The numbers of the inputs to differentiate by: all that are not integers, unless MLX crashes.
    """

    def __init__(
        self,
        *args: Any,
        via: Callable[..., Any] | None = None,
        refused: Refusal | None = None,
        wrt: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self._tree = (args, kwargs)
        self._via = via
        self._inputs = list({id(array): array for array in trees.arrays(self._tree)}.values())
        mx.eval(self._inputs)
        self.refused = refused
        inexact = [at for at, array in enumerate(self._inputs) if mx.issubdtype(array.dtype, mx.inexact)]
        self.wrt = inexact if wrt is None else wrt

    def inputs(self) -> list[mx.array]:
        """The arrays that go in, as new objects: a call may change them in place."""
        return [copy.copy(array) for array in self._inputs]

    def function(self, key: str) -> Callable[..., Any]:
        """The call of the callee `key` as a function of the inputs. Everything is looked up when it runs."""
        place = {id(array): at for at, array in enumerate(self._inputs)}

        def call(*inputs: mx.array) -> Any:
            args, kwargs = trees.rebuild(self._tree, lambda array: inputs[place[id(array)]])
            return (self._via or _callee(key))(*args, **kwargs)

        return call

    def spoiled(self, key: str) -> Iterator[Callable[[], Any]]:
        """The call with one of its arguments changed for what it cannot be, mostly."""
        args, kwargs = self._tree
        for wrong in ("x", mx.zeros((7, 5, 3))):
            for at in range(len(args)):
                yield functools.partial(self._via or _callee(key), *args[:at], wrong, *args[at + 1 :], **kwargs)
        for name in kwargs:
            yield functools.partial(self._via or _callee(key), *args, **{**kwargs, name: -9})


@dataclass(frozen=True)
class Refusal:
    """Why a call cannot run on some machines, and how MLX says so (a regular expression)."""

    reason: str
    message: str


def _callee(key: str) -> Callable[..., Any]:
    """What to call for a callee: a module's function, or a method, operator or property in its usual spelling."""
    holder, name = key.rsplit(".", 1)
    if holder != "array":
        return getattr(MODULES[holder], name)
    if hasattr(operator, name):
        return getattr(operator, name)
    if name.startswith("__r") and hasattr(operator, f"__{name[3:]}"):
        return lambda array, other: getattr(operator, f"__{name[3:]}")(other, array)

    def method(array: mx.array, *args: Any, **kwargs: Any) -> Any:
        found = getattr(array, name)
        return found(*args, **kwargs) if callable(found) else found

    return method


# -- arrays ----------------------------------------------------------------------------------------------------


def f(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Random floats around zero."""
    return mx.random.normal(shape, key=mx.random.key(next(_seeds))).astype(dtype)


def p(*shape: int) -> mx.array:
    """Random floats between 0.1 and 0.9."""
    return mx.random.uniform(0.1, 0.9, shape, key=mx.random.key(next(_seeds)))


def n(*shape: int) -> mx.array:
    """Random integers from 1 to 8."""
    return mx.random.randint(1, 9, shape, key=mx.random.key(next(_seeds)))


def b(*shape: int) -> mx.array:
    """Random booleans."""
    return mx.random.bernoulli(0.5, shape, key=mx.random.key(next(_seeds)))


def c(*shape: int) -> mx.array:
    """Random complex numbers."""
    return f(*shape) + 1j * f(*shape)


def index(*numbers: Any) -> mx.array:
    """These indices."""
    return mx.array(numbers)


def key() -> mx.array:
    """A key for random functions."""
    return mx.random.key(next(_seeds))


def definite(size: int = 3) -> mx.array:
    """A symmetric, positive definite matrix."""
    matrix = f(size, size)
    return matrix @ matrix.T + size * mx.eye(size)


def quantized(*shape: int, **how: Any) -> list[mx.array]:
    """The parts of a quantized matrix."""
    return list(mx.quantize(f(*shape), **how))


x, w, square = f(2, 3), f(3, 3), f(3, 3)
ints, bools = n(2, 3), b(2, 3)
odd = mx.array([0.5, float("nan"), float("inf"), float("-inf"), -0.0])
affine = {"group_size": 32, "bits": 4}

_files = tempfile.TemporaryDirectory()
_npy, _safetensors, _mlxfn = (str(Path(_files.name) / name) for name in ("x.npy", "x.safetensors", "f.mlxfn"))
mx.save(_npy, x)
mx.save_safetensors(_safetensors, {"a": x, "b": w})
mx.export_function(_mlxfn, lambda a, b: mx.sin(a) @ b, x, w)


SAMPLES: dict[str, list[Sample]] = {}
"""Every sample, by the callee's name."""


def calls(names: str, *samples: Sample) -> None:
    """Add samples of one callee, or the same ones for several."""
    for name in names.split():
        SAMPLES.setdefault(name, []).extend(samples)
