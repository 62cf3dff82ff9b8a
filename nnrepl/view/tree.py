"""Tree: lists and dicts that hold tensors, one line for each tensor."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.view.tensor import WHOLE, dtype_text, shape_text, tensor, tensor_line

MOST = 100
"""So many tensors of a tree are shown."""
_SUMMED = 1 << 24
"""Trees of more elements than this show shapes only: nobody asked for all the numbers of a model."""


def leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return the ends of nested lists, tuples and dicts, with their paths."""
    items: Any
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return [(path, tree)]
    return [leaf for key, part in items for leaf in leaves(part, f"{path}.{key}" if path else str(key))]


def _parts(tree: Any, path: str) -> list[tuple[str, Any]]:
    """Return the same of what may be a list or tuple itself, which no key names: its parts are called as in Python,
    `read()[0]`, and what lies in a dict by its path."""
    if not isinstance(tree, (list, tuple)):
        return leaves(tree, path)
    return [leaf for number, part in enumerate(tree) for leaf in _parts(part, f"{path}[{number}]")]


def tensor_tree(tree: Any, whole: str = "") -> RenderableType | None:
    """Return a tree that holds tensors, one line each; None for anything else (it has a `repr` of its own).

    Args:
        whole: What the tree is called, so that parts which have a number only are not called by that alone.
    """
    if type(tree) not in (dict, list, tuple):
        return None
    found = leaves(tree) if isinstance(tree, dict) else _parts(tree, whole)
    arrays = [part for _, part in found if isinstance(part, mx.array)]
    if not arrays:
        return None
    light = sum(array.size for array in arrays) <= _SUMMED
    lines: list[RenderableType] = [_line(path, part, light) for path, part in found[:MOST]]
    if len(found) > MOST:
        lines.append(Text(f"... {len(found) - MOST} more", style="dim"))
    return Group(*lines)


def _line(path: str, part: Any, light: bool) -> RenderableType:
    if not isinstance(part, mx.array):
        return Text(path, style="value.name").append(f" = {part!r}")
    if not light:
        return Text(path, style="value.name").append(
            f" {shape_text(part.shape)} {dtype_text(part.dtype)}", style="value.shape"
        )
    return tensor(path, part) if part.size <= min(WHOLE, 12) else tensor_line(path, part)
