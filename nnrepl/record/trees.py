"""Trees: nested lists, tuples and dicts of arrays, walked the way MLX's transforms walk them.

Source: `tree_map`, `tree_visit` and `tree_fill` in mlx/python/src/trees.cpp. A Module is a dict. Lists and dicts are
filled in place and stay the same objects; tuples are made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import mlx.core as mx

_RANDOM_STATE: Any = mx.random.state
_array = mx.array


def leaves(tree: Any) -> list[Any]:
    """Return everything in a tree that is not a list, tuple or dict, in order."""
    found: list[Any] = []
    _gather(tree, found)
    return found


def _gather(tree: Any, found: list[Any]) -> None:
    # No generators inside of each other: this is done with all parameters in each recorded call.
    if tree is _RANDOM_STATE:
        found.append(tree[0])
    elif isinstance(tree, (list, tuple, dict)):
        for item in dict.values(tree) if isinstance(tree, dict) else tree:
            if type(item) is _array:
                found.append(item)
            else:
                _gather(item, found)
    else:
        found.append(tree)


def arrays(tree: Any) -> list[mx.array]:
    """Return the arrays of a tree, in order."""
    return [leaf for leaf in leaves(tree) if type(leaf) is _array or isinstance(leaf, _array)]


def paths(tree: Any, prefix: str = "") -> Iterator[tuple[str, mx.array]]:
    """Yield the arrays of a tree with their dotted paths."""
    if isinstance(tree, mx.array):
        yield prefix, tree
    elif isinstance(tree, (list, tuple)):
        for key, item in enumerate(tree):
            yield from paths(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, dict):
        for name, item in dict.items(tree):
            yield from paths(item, f"{prefix}.{name}" if prefix else str(name))


def fill(tree: Any, replace: Callable[[mx.array], mx.array]) -> Any:
    """Replace the arrays of a tree in place (tuples anew). Returns the tree."""
    if tree is _RANDOM_STATE:
        return tree
    if isinstance(tree, list):
        for at in range(len(tree)):
            tree[at] = fill(tree[at], replace)
        return tree
    if isinstance(tree, tuple):
        return _tuple(tree, [fill(item, replace) for item in tree])
    if isinstance(tree, dict):
        for key in list(dict.keys(tree)):
            tree[key] = fill(tree[key], replace)
        return tree
    return replace(tree) if isinstance(tree, mx.array) else tree


def rebuild(tree: Any, replace: Callable[[mx.array], Any]) -> Any:
    """Return a new tree of the same structure with the arrays replaced; every dict becomes a plain dict."""
    if isinstance(tree, list):
        return [rebuild(item, replace) for item in tree]
    if isinstance(tree, tuple):
        return _tuple(tree, [rebuild(item, replace) for item in tree])
    if isinstance(tree, dict):
        return {key: rebuild(item, replace) for key, item in dict.items(tree)}
    return replace(tree) if isinstance(tree, mx.array) else tree


def like(model: Any, tree: Any) -> Any:
    """Return a tree of plain dicts with the dicts of `model`: Modules, with the arrays of the tree."""
    if isinstance(model, (list, tuple)):
        items = [like(one, item) for one, item in zip(model, tree)]
        return items if isinstance(model, list) else _tuple(model, items)
    if not isinstance(model, dict):
        return tree
    found = {} if type(model) is dict else copy(model)
    for key, item in tree.items():
        dict.__setitem__(found, key, like(dict.get(model, key), item))
    return found


def without_arrays(tree: Any) -> Any:
    """Return a tree with None in the place of each array: copies of its Modules and other dicts."""
    return like(tree, rebuild(tree, lambda _: None))


def _tuple(like: tuple[Any, ...], items: list[Any]) -> Any:
    if type(like) is tuple:
        return tuple(items)
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)
