"""Compile key: by what MLX tells apart the calls of a compiled function, of which it traces one of each kind.

That are the shapes and dtypes of the arrays, and one list of numbers for all else that goes in: which containers, keys,
texts and numbers. Two calls of one key are one to MLX, even where Python would not say so: the list has no lengths in
it, a bool is an int there, and a float is its bits (`PyCompiledFun::call_impl` in mlx/python/src/transforms.cpp).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import mlx.core as mx

from nnrepl.record import trees

_ARRAY, _SEQUENCE, _DICT, _NONE = object(), object(), object(), object()
"""What stands in the list for these. MLX has large primes there, which nothing else comes to either."""
_UNSIGNED = 2**64 - 1


def signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what tells apart calls of a compiled function that MLX traces separately, as far as arguments tell."""
    if are_arrays(args, kwargs):  # as mostly
        return len(args), tuple([(array.shape, array.dtype) for array in args])
    return _constants(args, kwargs), tuple([(array.shape, array.dtype) for array in trees.arrays((args, kwargs))])


def key(args: tuple[Any, ...], kwargs: dict[str, Any], kinds: Iterable[tuple[Any, mx.Dtype]], shapeless: bool) -> Any:
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
