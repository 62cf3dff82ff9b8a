"""Graph: MLX's own lazy graph, as `mx.export_to_dot` draws it. Reading it evaluates nothing.

Two Python objects may be one node of it: a cast to the dtype that an array has already gives back the same node.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

_export_to_dot = mx.export_to_dot


@dataclass(frozen=True, slots=True)
class Primitive:
    """One primitive of MLX's graph: its node, its name, and the arrays that go in and come out."""

    node: str
    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_LINE = re.compile(
    r'^\{ (?P<node>\d+) \[label ="(?P<label>[^"]*)"|^"(?P<taken>[^"]+)" -> \d+$|^\d+ -> "(?P<made>[^"]+)"$',
    re.MULTILINE,
)


def parse_dot(dot: str) -> list[Primitive]:
    """The primitives of a graph that MLX wrote in the DOT language."""
    nodes: list[tuple[str, str, list[str], list[str]]] = []
    for line in _LINE.finditer(dot):
        if line["node"]:
            nodes.append((line["node"], line["label"], [], []))
        elif line["taken"]:
            nodes[-1][2].append(line["taken"])
        else:
            nodes[-1][3].append(line["made"])
    return [Primitive(node, label, tuple(takes), tuple(makes)) for node, label, takes, makes in nodes]


def read_graph(arrays: Sequence[mx.array]) -> tuple[list[Primitive], list[str]]:
    """MLX's lazy graph behind some arrays: its primitives, and for each array the name of its node.

    MLX draws every node under one name, the last that it was given. The graph is drawn again under the names that
    have not been seen yet, until all have been: the drawings differ in nothing but the names.
    """
    names = [f"v{number}" for number in range(len(arrays))]
    dot = _draw(arrays, {})
    first = _QUOTED.findall(dot)
    nodes: dict[str, str] = {}
    left = dict(zip(names, arrays))
    while left:
        chosen = dict(list(left.items())[:_NAMES_AT_ONCE])
        again = _QUOTED.findall(_draw(arrays, chosen))
        nodes.update((new, old) for old, new in zip(first, again, strict=True) if new in chosen)
        left = {name: array for name, array in left.items() if name not in nodes}
    return parse_dot(dot), [nodes[name] for name in names]


_QUOTED = re.compile(r'"([^"]+)"')
_NAMES_AT_ONCE = 1000
"""MLX's functions take 1,024 keyword arguments at most."""


def _draw(arrays: Sequence[mx.array], names: dict[str, mx.array]) -> str:
    dot = io.StringIO()
    _export_to_dot(dot, list(arrays), **names)
    return dot.getvalue()
