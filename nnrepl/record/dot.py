"""Graph: MLX's own lazy graph, as `mx.export_to_dot` draws it. Reading it evaluates nothing.

Two Python objects may be one node of it: a cast to the dtype that an array has already gives back the same node.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import mlx.core as mx

from nnrepl.classes import dataclass
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


def parse_dot(dot: str) -> list[Primitive]:
    """Return the primitives of a graph that MLX wrote in the DOT language."""
    found: list[tuple[str, str, list[str], list[str]]] = []
    for line in dot.split("\n"):
        first = line[:1]
        if first == '"':  # "A" -> 12
            found[-1][2].append(line[1 : line.index('"', 1)])
        elif "0" <= first <= "9":  # 12 -> "B"
            found[-1][3].append(line[line.index('"') + 1 : -1])
        elif line[2:3].isdigit():  # { 12 [label ="Exp", shape=rectangle]; }
            found.append((line[2 : line.index(" ", 2)], line.split('"', 2)[1], [], []))
    return [Primitive(node, label, tuple(takes), tuple(makes)) for node, label, takes, makes in found]


def read_graph(arrays: Sequence[mx.array]) -> tuple[list[Primitive], list[str]]:
    """MLX's lazy graph behind some arrays: its primitives, and for each array the name of its node.

    MLX draws a node under a name of its own choice. So behind the arrays we put one primitive of ours, which takes a
    mark and all of them: what it takes are then the names of their nodes, in order.
    """
    if not arrays:
        return [], []
    mark = construct(0.0)
    dot = io.StringIO()
    _export_to_dot(dot, _depends(mark, list(arrays)), **{_MARK: mark})
    drawn = parse_dot(dot.getvalue())
    ours = next(part for part in drawn if part.inputs[:1] == (_MARK,))
    return [part for part in drawn if part is not ours], list(ours.inputs[1:])


_MARK = "the mark"
