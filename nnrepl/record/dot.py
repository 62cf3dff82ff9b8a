"""Graph: MLX's own lazy graph, as `mx.export_to_dot` draws it. Reading it evaluates nothing.

Two Python objects may be one node of it: a cast to the dtype that an array has already gives back the same node.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from nnrepl.record.data import construct
from nnrepl.record.strays import raw

_export_to_dot, _depends = mx.export_to_dot, raw(mx.depends)


@dataclass(slots=True, eq=False)
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
    """Return the primitives of a graph that MLX wrote in the DOT language."""
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

    MLX draws a node under a name of its own choice. So after each array we put a primitive of ours, which takes a mark
    and that array: what it takes is then the name of the node.
    """
    mark = construct(0.0)
    dot = io.StringIO()
    _export_to_dot(dot, [_depends(mark, array) for array in arrays], **{_MARK: mark})
    drawn = parse_dot(dot.getvalue())
    ours = [part.inputs[0] == _MARK if part.inputs else False for part in drawn]
    nodes = [part.inputs[1] for part, marked in zip(drawn, ours) if marked]
    return [part for part, marked in zip(drawn, ours) if not marked], nodes


_MARK = "the mark"
