"""Region: several ops whose gradients MLX adds to one value by turns.

An op that uses a value more than once inside (a nested `grad`, mostly) may have other ops between its uses, which use
the value as well. MLX then adds a part of the one, a part of the other, and again one of the first; floating-point
sums depend on that. So the sum is taken from MLX in one go: the VJP of all these ops together, with respect to that
value, which starts from its gradient so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.strays import raw
from nnrepl.record.vjp import Rule, shielded
from nnrepl.tape import Op, Operation, Value

if TYPE_CHECKING:
    from nnrepl.record.anatomy import Group

_vjp, _eval, _stop_gradient = raw(mx.vjp), raw(mx.eval), raw(mx.stop_gradient)


class SweepUnit:
    """What is differentiated in one go: an op, or one group of its outputs.

    Attributes:
        inputs: The op's distinct inputs; the numbers of a group are places in it.
        wanted: Those that depend on the leaves.
        left: How often each input of which others take turns with it is still to be reached.
        parts: What the node has to add to the gradients of its inputs, until it is added.
    """

    __slots__ = ("group", "inputs", "left", "op", "parts", "wanted")

    def __init__(self, op: Op, group: Group, inputs: tuple[Value, ...], wanted: tuple[int, ...]) -> None:
        self.op = op
        self.group = group
        self.inputs = inputs
        self.wanted = wanted
        self.parts: dict[int, list[Value]] | None = None
        self.left: dict[int, int] = {}

    def rule(self, wanted: tuple[int, ...], outputs: tuple[int, ...], continued: tuple[int, ...] = ()) -> Rule:
        """How to differentiate it."""
        return Rule(self.op, self.inputs, wanted, outputs, continued)


Step = tuple[SweepUnit, tuple[int, ...] | None]


@dataclass(frozen=True, eq=False, slots=True)
class Region:
    """How to differentiate several ops together: the constant part of a backward op's arguments.

    Attributes:
        value: With respect to what.
        ops: The ops, in order, and which of their results belong to it.
        outputs: Those results that have gradients.
        given: What the ops take besides `value` and each other's results.
        continued: Whether `value` has a gradient so far.
    """

    value: Value
    ops: tuple[tuple[Op, tuple[int, ...]], ...]
    outputs: tuple[Value, ...]
    given: tuple[Value, ...]
    continued: bool

    @property
    def op(self) -> Op:
        """The op to which the sum belongs: the last one."""
        return self.ops[-1][0]

    def shape_key(self) -> Any:
        """Return what makes two regions the same in a re-run, apart from the tensors."""
        return self.value, self.ops, self.outputs, self.continued


def run_region(region: Region, *arrays: mx.array) -> mx.array:
    """Return the gradient of `region.value`: `arrays` are the gradients of `region.outputs`, its gradient so far if it
    is continued, itself, and what else is given."""
    count = len(region.outputs)
    far, (array, *given) = list(arrays[count : count + region.continued]), arrays[count + region.continued :]
    known = dict(zip(region.given, given))
    forced = {op: [k for k in slots if op.outputs[k] in op.tape.notes.forced] for op, slots in region.ops}

    def forward(value: mx.array) -> list[mx.array]:
        if not any(forced.values()):
            value = shielded(value)
        now = {**known, region.value: value}
        for op, slots in region.ops:
            results = op.once(lambda taken: now[_of(taken, now)])
            # The program evaluated these in the midst of its own trace. MLX lets go of how an evaluated array was made
            # unless it is marked as a tracer at that moment (`array::detach` in `eval_impl`, mlx/transforms.cpp), and
            # which ones are depends on what nested transforms have unmarked: so it is evaluated again, at this place.
            if forced[op]:
                _eval([results[k] for k in forced[op]])
            cut = op.tape.notes.cut
            made = [(op.outputs[k], results[k]) for k in slots]
            now.update((output, _stop_gradient(array) if output in cut else array) for output, array in made)
        # With the value as the first output, its gradient so far is the first cotangent, and lies in MLX's `cotan_map`
        # before any part does: MLX adds to it (`add(cotan_it->second, vjps[i])`), in the order of its own tape.
        return [value] * region.continued + [now[output] for output in region.outputs]

    gradient: mx.array = _vjp(forward, [array], [*far, *arrays[:count]])[1][0]
    return gradient


def _of(value: Value, known: dict[Value, mx.array]) -> Value:
    return value if value in known else value.canonical


ACCUMULATE_TOGETHER = Operation("accumulate", run_region, "accumulate", kind="accumulate")


def find_regions(order: Sequence[Step]) -> dict[tuple[SweepUnit, Value], list[SweepUnit]]:
    """For each op and value where the parts of others come between its own parts, all of those ops in order.

    Args:
        order: MLX's walk: for each node the taps on its inputs, and (None) its end.
    """
    regions: dict[tuple[SweepUnit, Value], list[SweepUnit]] = {}
    taken: set[tuple[SweepUnit, Value]] = set()
    ends = {node: at for at, (node, taps) in enumerate(order) if taps is None}
    begun: set[tuple[SweepUnit, int]] = set()
    for at, (node, taps) in enumerate(order):
        for slot in taps or ():
            value = node.inputs[slot]
            # Only where other primitives are visited between two that tap this input can parts of others come between.
            if slot not in node.group.split or slot not in node.wanted or (node, slot) in begun:
                continue
            begun.add((node, slot))
            inside = [other for other, end in order[at : ends[node]] if end is None]
            members = _that_depend(inside, value)
            if any(value in other.inputs for other in members) and not any(map(_is_composite, members)):
                regions[node, value] = [*members, node]
                taken.update((other, value) for other in members)
    return {key: members for key, members in regions.items() if key not in taken}


def _that_depend(nodes: Iterable[SweepUnit], value: Value) -> list[SweepUnit]:
    """Those that take a value, or what others of them made of it."""
    made = {value}
    found = []
    for node in nodes:
        if any(node.inputs[slot] in made for slot in node.wanted):
            found.append(node)
            made.update(node.op.outputs[slot] for slot in node.group.outputs)
    return found


def _is_composite(node: SweepUnit) -> bool:
    return node.op.operation.kind in ("custom", "checkpoint")


def region_of(
    members: Sequence[SweepUnit], value: Value, so_far: dict[Value, Value], last: dict[Value, Value]
) -> tuple[Region, tuple[Value, ...]]:
    """Return the region of some nodes, and the gradients that it starts from.

    Args:
        members: The nodes, the last of which has been reached just now.
        so_far: The gradients of all values.
        last: The gradients of the results of the last node, which are in `so_far` no more.
    """
    ops = tuple((node.op, node.group.outputs) for node in members)
    inside = [op.outputs[slot] for op, slots in ops for slot in slots]
    found = {**last, **{output: so_far[output] for output in inside if output in so_far}}
    given = dict.fromkeys(taken.canonical for op, _ in ops for taken in op.inputs)
    outside = tuple(taken for taken in given if taken not in inside and taken is not value)
    region = Region(value, ops, tuple(found), outside, value in so_far)
    return region, tuple(found.values())
