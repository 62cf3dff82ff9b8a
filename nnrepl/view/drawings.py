"""Drawings: a graph of ops written down for other programs, as DOT, Mermaid or SVG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from html import escape
from itertools import pairwise

from nnrepl.classes import dataclass
from nnrepl.tape import Value
from nnrepl.view.lanes import GraphNode
from nnrepl.view.tensor import shape_text

_COLOURS = {"setup": "#777777", "forward": "#2563a8", "backward": "#a8327d", "update": "#2e7d32"}
_LEAF = "#555555"


@dataclass(eq=False, slots=True)
class Box:
    """A node of a drawing.

    Attributes:
        key: A name for files.
        lines: What stands in it.
        colour: Of its border.
        leaf: Whether it is a parameter, an input, a constant.
        layer, place: Where the layout puts it; a box without lines only leads an edge past others.
        x: Its middle.
    """

    key: str
    lines: list[str]
    colour: str
    leaf: bool = False
    layer: int = 0
    place: float = 0.0
    x: float = 0.0

    @property
    def width(self) -> float:
        """How wide it is drawn, in pixels."""
        return max((len(line) for line in self.lines), default=0) * _LETTER + 20 if self.lines else 12.0


@dataclass(slots=True)
class Drawing:
    """Boxes, and edges with what flows along them."""

    boxes: list[Box] = field(default_factory=list)
    edges: list[tuple[Box, Box, str]] = field(default_factory=list)


def drawing_of(nodes: list[GraphNode]) -> Drawing:
    """Return what nodes look like: one box for each, and one for each leaf that they take."""
    drawn = Drawing()
    makers: dict[Value, Box] = {}
    for node in nodes:
        made = node.outputs if len(node.ops) == 1 else node.outputs[-1:]
        lines = [node.title] + (
            [", ".join(map(_value_text, made[:3])) + (", …" if len(made) > 3 else "")] if made else []
        )
        box = Box(f"op{len(drawn.boxes)}", lines, _COLOURS[node.first.phase])
        for value in node.inputs:
            of = value.gradient_of
            if value not in makers and of is not None and of in makers:
                makers[value] = makers[of]  # where the backward pass starts
            elif value not in makers:
                makers[value] = Box(f"leaf{len(drawn.boxes)}", [value.name, shape_text(value.shape)], _LEAF, leaf=True)
                drawn.boxes.append(makers[value])
            drawn.edges.append((makers[value], box, shape_text(value.shape)))
        drawn.boxes.append(box)
        makers.update(dict.fromkeys(node.outputs, box))
    return drawn


def _value_text(value: Value) -> str:
    named = "" if value.name.startswith("#") else f"{value.name} "
    return f"{named}{shape_text(value.shape)}"


def dot(drawn: Drawing) -> str:
    """Return the drawing for Graphviz."""
    lines = ["digraph nnrepl {", '  node [shape=box, fontname="Helvetica", fontsize=10];', "  edge [fontsize=8];"]
    for box in drawn.boxes:
        label = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in box.lines)
        shape = ", shape=ellipse" if box.leaf else ""
        lines.append(f'  {box.key} [label="{label}", color="{box.colour}"{shape}];')
    lines += [f'  {start.key} -> {end.key} [label="{label}"];' for start, end, label in drawn.edges]
    return "\n".join([*lines, "}", ""])


def mermaid(drawn: Drawing) -> str:
    """Return the drawing for Mermaid."""
    lines = ["flowchart TD"]
    for box in drawn.boxes:
        label = "<br>".join(line.replace("#", "#35;").replace('"', "#quot;") for line in box.lines)
        left, right = ('(["', '"])') if box.leaf else ('["', '"]')
        lines.append(f"  {box.key}{left}{label}{right}")
        lines.append(f"  style {box.key} stroke:{box.colour}")
    lines += [f'  {start.key} -->|"{label}"| {end.key}' for start, end, label in drawn.edges]
    return "\n".join([*lines, ""])


# -- SVG -----------------------------------------------------------------------------------------------------

_LETTER, _LINE, _GAP, _ROW = 6.6, 14.0, 24.0, 74.0
_HEIGHT = 2 * _LINE + 10


def svg(drawn: Drawing) -> str:
    """Return the drawing as a picture: in layers, from what comes in at the top to what comes out at the bottom."""
    chains = _layers(drawn)
    rows = _rows(chains, drawn)
    width = _places(rows)
    height = len(rows) * _ROW + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Menlo, Consolas, monospace" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#888"/></marker></defs>',
    ]
    parts += [_curve(chain) for chain in chains]
    parts += [_box(box) for box in drawn.boxes]
    return "\n".join([*parts, "</svg>", ""])


def _layers(drawn: Drawing) -> list[list[Box]]:
    """Give every box its layer, below all that it takes from; each edge becomes a chain with a box in each layer."""
    users: dict[Box, list[Box]] = {}
    for start, end, _ in drawn.edges:
        users.setdefault(start, []).append(end)
    for box in drawn.boxes:  # in order of execution: what it takes from has its layer already
        for user in users.get(box, ()):
            user.layer = max(user.layer, box.layer + 1)
    for box in drawn.boxes:
        if box.leaf:
            box.layer = min((user.layer for user in users.get(box, ())), default=1) - 1
    chains = []
    for start, end, _ in drawn.edges:
        between = [Box("", [], "", layer=layer) for layer in range(start.layer + 1, end.layer)]
        chains.append([start, *between, end])
    return chains


def _rows(chains: list[list[Box]], drawn: Drawing) -> list[list[Box]]:
    """Return the boxes of each layer, ordered so that few edges cross: each towards the middle of its neighbours."""
    boxes = dict.fromkeys([*drawn.boxes, *(box for chain in chains for box in chain)])
    rows: list[list[Box]] = [[] for _ in range(max((box.layer for box in boxes), default=0) + 1)]
    above: dict[Box, list[Box]] = {}
    below: dict[Box, list[Box]] = {}
    for chain in chains:
        for upper, lower in pairwise(chain):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    for box in boxes:
        rows[box.layer].append(box)
    for sweep in range(8):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            row.sort(key=_middle(near, {box: at / max(len(row), 1) for at, box in enumerate(row)}))
            for at, box in enumerate(row):
                box.place = (at + 0.5) / len(row)
    return rows


def _middle(near: dict[Box, list[Box]], now: dict[Box, float]) -> Callable[[Box], float]:
    def middle(box: Box) -> float:
        places = [other.place for other in near.get(box, ())]
        return sum(places) / len(places) if places else now[box]

    return middle


def _places(rows: list[list[Box]]) -> float:
    """Set the boxes side by side, each row centred; returns the width of the whole."""
    widths = [sum(box.width for box in row) + _GAP * (len(row) + 1) for row in rows]
    whole = max(widths, default=0.0)
    for row, width in zip(rows, widths):
        x = (whole - width) / 2 + _GAP
        for box in row:
            box.x = x + box.width / 2
            x += box.width + _GAP
    return whole


def _top(box: Box) -> float:
    return 20 + box.layer * _ROW


def _curve(chain: list[Box]) -> str:
    """Return an edge, from the bottom of a box by way of its chain to the top of another."""
    points: list[tuple[float, float]] = [(chain[0].x, _top(chain[0]) + _HEIGHT)]
    for box in chain[1:-1]:
        points += [(box.x, _top(box)), (box.x, _top(box) + _HEIGHT)]
    points.append((chain[-1].x, _top(chain[-1])))
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    return f'<path d="{path}" fill="none" stroke="#888" marker-end="url(#tip)"/>'


def _box(box: Box) -> str:
    left, top = box.x - box.width / 2, _top(box)
    round_ = _HEIGHT / 2 if box.leaf else 4
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{_HEIGHT:.1f}" rx="{round_:.0f}" '
        f'fill="white" stroke="{box.colour}"/>'
    ]
    for number, line in enumerate(box.lines):
        y = top + _LINE * (number + 1) + (_LINE / 2 if len(box.lines) == 1 else 0)
        parts.append(
            f'<text x="{box.x:.1f}" y="{y:.1f}" text-anchor="middle" fill="{box.colour}">'
            f"{escape(line, quote=False)}</text>"
        )
    return "".join(parts)


FORMATS: dict[str, Callable[[Drawing], str]] = {".dot": dot, ".mmd": mermaid, ".svg": svg}
