"""Graph: ops and what flows between them, drawn in the terminal with one lane for each tensor under way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.tape import Op, Tape, Value
from nnrepl.view.one_op import flow_text
from nnrepl.view.tensor import shape_text


@dataclass(eq=False, slots=True)
class GraphNode:
    """One op, or a stretch of ops of one module.

    Attributes:
        ops: The ops, in order.
        inputs: What flows in from other nodes and leaves: in the backward pass, the gradients.
        outputs: What it makes.
    """

    ops: list[Op]
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    @property
    def first(self) -> Op:
        """Its first op."""
        return self.ops[0]

    @property
    def title(self) -> str:
        """`#3 maximum`, or `blocks.0.attention: #5 to #16`."""
        if len(self.ops) == 1:
            return f"{self.first.label} {self.first.name}"
        return f"{_group(self.first)}: {self.first.label} to {self.ops[-1].label}"


def _group(op: Op) -> str:
    """Under what an op is folded: its module, or in an update its parameter."""
    return op.module or op.source.function or op.phase


def nodes_of(ops: Iterable[Op], fold: bool = False) -> list[GraphNode]:
    """Ops as nodes; folded, neighbours of one module and phase are one node."""
    nodes: list[GraphNode] = []
    for op in ops:
        last = nodes[-1].first if nodes else None
        if fold and last is not None and last.phase == op.phase and _group(last) == _group(op):
            nodes[-1].ops.append(op)
        else:
            nodes.append(GraphNode([op]))
    for node in nodes:
        own = {value for op in node.ops for value in op.outputs}
        taken = [value for op in node.ops for value in flowing(op)]
        node.inputs = [value for value in dict.fromkeys(taken) if value not in own]
        node.outputs = [value for op in node.ops for value in op.outputs]
    return nodes


def flowing(op: Op) -> list[Value]:
    """Return what flows into an op: of a backward op only the gradients, its forward op holds the rest."""
    gradients = [value for value in op.inputs if value.gradient_of is not None]
    return gradients if op.of is not None and gradients else list(op.inputs)


def neighbourhood(tape: Tape, op: Op) -> list[Op]:
    """Return the ops from which an op gets something, directly or over one other, and those that get something from
    it."""
    found = {op}
    edge = [op]
    for _ in range(2):
        edge = [value.op for near in edge for value in flowing(near) if value.op is not None and value.op not in found]
        found.update(edge)
    edge = [op]
    for _ in range(2):
        edge = [
            user for near in edge for value in near.outputs for user in tape.consumers(value) if value in flowing(user)
        ]
        edge = [user for user in dict.fromkeys(edge) if user not in found]
        found.update(edge)
    return sorted(found, key=lambda one: one.position)


class Lanes:
    """The drawing: one row for each node, from top to bottom as they ran.

    Args:
        nodes: What to draw.
        cursor: The position of the op that comes next; its row is marked.
    """

    def __init__(self, nodes: list[GraphNode], cursor: int) -> None:
        self._nodes = nodes
        self._cursor = cursor

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = list(self.rows())
        width = min(max((len(lanes) for lanes, _ in rows), default=0), options.max_width // 2)
        for lanes, node in rows:
            here = any(op.position == self._cursor for op in node.ops)
            row = Text("▶ " if here else "  ", style="source.current", no_wrap=True, overflow="ellipsis")
            shown = lanes if len(lanes) <= width else lanes[: max(width - 1, 0)] + "…"
            row.append(shown.ljust(width), style="gradient" if node.first.of is not None else "dim")
            row.append("  ")
            row.append_text(_label(node, options.max_width - row.cell_len))
            row.truncate(options.max_width, overflow="ellipsis")
            yield row

    def rows(self) -> Iterable[tuple[str, GraphNode]]:
        """Each node with the lanes to the left of it."""
        last_use = {value: at for at, node in enumerate(self._nodes) for value in node.inputs}
        lanes: list[Value | None] = []
        for at, node in enumerate(self._nodes):
            used = [column for column, value in enumerate(lanes) if value is not None and value in node.inputs]
            ending = [column for column in used if last_use[_held(lanes, column)] == at]
            for column in ending:
                lanes[column] = None
            alive = [value for value in dict.fromkeys(node.outputs) if last_use.get(value, 0) > at]
            own = ending[0] if ending else _free(lanes)
            opened = []
            for number, value in enumerate(alive):
                column = own if number == 0 else _free(lanes, own)
                lanes[column] = value
                opened += [column] if number else []
            yield _row(lanes, own, used, ending, opened), node
            while lanes and lanes[-1] is None:
                lanes.pop()


def _held(lanes: list[Value | None], column: int) -> Value:
    value = lanes[column]
    assert value is not None
    return value


def _free(lanes: list[Value | None], but: int = -1) -> int:
    """Return a lane that is not taken, a new one if need be."""
    for column, value in enumerate(lanes):
        if value is None and column != but:
            return column
    lanes.append(None)
    return len(lanes) - 1


def _row(lanes: list[Value | None], own: int, used: list[int], ending: list[int], opened: list[int]) -> str:
    """One row: the node's dot, what comes into it and leaves it sideways, and what passes by."""
    touched = [own, *used, *opened]
    low, high = min(touched), max(touched)
    cells = []
    for column in range(max(len(lanes), high + 1)):
        within = low < column < high
        if column == own:
            cell = "●"
        elif column in opened:
            cell = "╮" if column > own else "╭"
        elif column in ending:
            cell = ("┴" if within else "╯") if column > own else ("┴" if within else "╰")
        elif column in used:
            cell = ("┼" if within else "┤") if column > own else ("┼" if within else "├")
        elif column < len(lanes) and lanes[column] is not None:
            cell = "│"
        else:
            cell = "─" if within else " "
        cells.append(cell + ("─" if low <= column < high else " "))
    return "".join(cells).rstrip()


def _label(node: GraphNode, room: int) -> Text:
    op = node.first
    text = Text()
    if len(node.ops) == 1:
        text.append(f"{op.label} ", style="op.number").append(op.name + "  ", style="op.name")
        return text.append_text(flow_text(op, room - text.cell_len))
    text.append(_group(op), style="op.name")
    text.append(f"  {len(node.ops)} ops, {op.label} to {node.ops[-1].label}", style="op.number")
    value = node.ops[-1].outputs[-1] if node.ops[-1].outputs else None
    if value is not None:
        text.append("  →  ").append(shape_text(value.shape), style="value.shape")
    return text
