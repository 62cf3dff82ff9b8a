"""Sweep: the backward pass, one vector-Jacobian product of one op at a time.

This is micrograd's loop: order the ops, seed the loss with 1, walk backwards, and let every op add to the
gradients of its inputs. Two things make the result MLX's own, bit for bit: the order (MLX's, see
`nnrepl.record.anatomy`) and that MLX does the adding where one op adds several parts to one input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.anatomy import Group, anatomy
from nnrepl.tape import BACKWARD, Op, Operation, Pass, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_vjp, _add, _astype = mx.vjp, mx.add, mx.astype


class Node:
    """What is differentiated in one go: an op, or one group of its outputs."""

    __slots__ = ("group", "index", "inputs", "op", "parts")

    def __init__(self, op: Op, group: Group, inputs: tuple[Value, ...], index: dict[Value, int]) -> None:
        self.op = op
        self.group = group
        self.inputs = inputs
        self.index = index
        self.parts: dict[int, list[Value]] = {}


class Rule:
    """How to take the VJP of one node: the constant part of a backward op's arguments.

    Attributes:
        node: What is differentiated.
        wanted: The inputs whose gradients are asked for.
        outputs: The outputs that have gradients.
        continued: Of the wanted inputs, those whose gradient so far MLX continues.
    """

    __slots__ = ("continued", "node", "outputs", "wanted")

    def __init__(
        self, node: Node, wanted: tuple[int, ...], outputs: tuple[int, ...], continued: tuple[int, ...] = ()
    ) -> None:
        self.node = node
        self.wanted = wanted
        self.outputs = outputs
        self.continued = continued


def run_vjp(rule: Rule, *arrays: mx.array) -> list[mx.array]:
    """The VJP of one op: gradients of its outputs in, gradients of its wanted inputs out.

    `arrays` are the gradients of `rule.outputs`, the gradients so far of `rule.continued`, and the op's
    inputs. Where a gradient is continued, the input is made an output as well and its gradient so far the
    cotangent: MLX then adds the op's parts to it one by one, as it would in one graph.
    """
    node = rule.node
    given, far = len(rule.outputs), len(rule.continued)
    fixed = list(arrays[given + far :])
    index = node.index

    def lookup(value: Value) -> mx.array:
        return fixed[index[value]]

    def forward(*inputs: mx.array) -> list[mx.array]:
        for slot, array in zip(rule.wanted, inputs):
            fixed[slot] = array
        results = node.op.compute(lookup)
        return [fixed[slot] for slot in rule.continued] + [results[k] for k in rule.outputs]

    primals = [fixed[slot] for slot in rule.wanted]
    cotangents = [*arrays[given : given + far], *arrays[:given]]
    gradients: list[mx.array] = _vjp(forward, primals, cotangents)[1]
    return gradients


def _run_continued(rule: Rule, *arrays: mx.array) -> mx.array:
    return run_vjp(rule, *arrays)[0]


_ACCUMULATE = Operation("accumulate", _add, "accumulate", kind="accumulate")
_CONTINUE = Operation("accumulate", _run_continued, "accumulate", kind="accumulate")
_VJPS: dict[Operation, Operation] = {}


def vjp_operation(operation: Operation) -> Operation:
    """The operation that differentiates another."""
    known = _VJPS.get(operation)
    if known is None:
        name = f"vjp of {operation.name}"
        known = _VJPS[operation] = Operation(name, run_vjp, name, kind="vjp")
    return known


class Sweep:
    """One backward pass over a stretch of the tape.

    Args:
        recorder: Where the backward ops are written.
        part: The pass.
        start: The position of the first forward op.
        leaves: The values with respect to which gradients are wanted.
    """

    def __init__(self, recorder: Recorder, part: Pass, start: int, leaves: Sequence[Value]) -> None:
        self.recorder = recorder
        self.tape = recorder.tape
        self.part = part
        self.active: set[Value] = set(leaves)
        self.makers: dict[Value, Node] = {}
        self.so_far: dict[Value, Value] = {}
        for op in self.tape.ops[start:]:
            if op.error is None:
                self._plan(op)

    # -- before: what depends on the leaves, and how -----------------------------------------------------

    def _plan(self, op: Op) -> None:
        """If an op depends on the leaves, find out how gradients pass through it."""
        active = self.active
        if not any(value.canonical in active for value in op.inputs):
            return
        index: dict[Value, int] = {}
        inputs: dict[Value, int] = {}
        for value in op.inputs:
            index[value] = inputs.setdefault(value.canonical, len(inputs))
        distinct = tuple(inputs)
        for group in anatomy(op, tuple(index[value] for value in op.inputs), distinct):
            if group.stopped or not any(distinct[slot] in active for slot in group.inputs):
                continue
            if group.alias >= 0:
                op.outputs[group.outputs[0]].alias = distinct[group.alias]
                continue
            node = Node(op, group, distinct, index)
            for slot in group.outputs:
                self.makers[op.outputs[slot]] = node
                active.add(op.outputs[slot])

    def order(self, roots: Sequence[Value]) -> list[tuple[Node, tuple[int, ...] | None]]:
        """MLX's walk, depth first from the roots: for each node the taps on its inputs, and (None) its end."""
        walked: list[tuple[Node, tuple[int, ...] | None]] = []
        entered: set[Node] = set()
        stack: list[tuple[Node, int]] = []

        def enter(value: Value) -> None:
            node = self.makers.get(value.canonical)
            if node is not None and node not in entered:
                entered.add(node)
                stack.append((node, 0))

        for root in roots:
            enter(root)
            while stack:
                node, at = stack.pop()
                walk = node.group.walk
                while at < len(walk):
                    step = walk[at]
                    at += 1
                    if step.taps:
                        if not node.group.simple:
                            walked.append((node, step.taps))
                    elif node.inputs[step.visit].canonical in self.makers:
                        stack.append((node, at))
                        enter(node.inputs[step.visit])
                        break
                else:
                    walked.append((node, None))
        return walked

    # -- the sweep itself --------------------------------------------------------------------------------

    def run(self, roots: Sequence[tuple[Value, Value]]) -> dict[Value, Value]:
        """Sweep from some values with their gradients (cotangents). Returns the gradients that reached
        each value that was not passed through: the leaves."""
        for root, cotangent in roots:
            if root.canonical in self.active and root.canonical not in self.so_far:
                self._arrive(root.canonical, cotangent)
        for node, taps in reversed(self.order([root for root, _ in roots])):
            if taps is None:
                self._differentiate(node)
            else:
                for slot in taps:
                    self._contribute(node, slot)
        return self.so_far

    def _differentiate(self, node: Node) -> None:
        """Take the VJP of a node, if a gradient has reached it."""
        outputs = node.op.outputs
        reached = tuple(k for k in node.group.outputs if outputs[k] in self.so_far)
        if not reached:
            return
        cotangents = tuple(self.so_far.pop(outputs[k]) for k in reached)
        wanted = tuple(slot for slot in node.group.inputs if node.inputs[slot] in self.active)
        if node.op.operation.kind in ("custom", "checkpoint"):
            node.parts = node.op.args[0].backward(self, node, reached, cotangents)
            return
        self._vjp(node, wanted, reached, cotangents)
        if node.group.simple:
            for slot in wanted:
                self._contribute(node, slot)

    def _vjp(
        self, node: Node, wanted: tuple[int, ...], reached: tuple[int, ...], cotangents: tuple[Value, ...]
    ) -> None:
        group = node.group
        continued = tuple(
            slot
            for slot in wanted
            if group.uses[slot] > 1 and slot in group.early and node.inputs[slot] in self.so_far
        )
        if not continued:
            op = self._write(node, Rule(node, wanted, reached), cotangents)
            node.parts = {slot: [part] for slot, part in zip(wanted, op.outputs)}
            return
        # One call of MLX gives the op's own part for some inputs and the whole sum for the others.
        far = tuple(self.so_far[node.inputs[slot]] for slot in continued)
        joint = Rule(node, wanted, reached, continued)
        arrays = [value.array for value in (*cotangents, *far, *node.inputs)]
        built = self._guarded(node.op, run_vjp, joint, arrays)
        op = self._new(node.op, Rule(node, wanted, reached), (*cotangents, *node.inputs))
        totals: list[tuple[int, mx.array]] = []
        for k, (slot, array) in enumerate(zip(wanted, built)):
            value = Value(self.tape, op, k, None if slot in continued else array)
            value.gradient_of = node.inputs[slot]
            if slot in continued:
                value.describe_later(array.shape, array.dtype)
                totals.append((slot, array))
            else:
                self.recorder.live[id(array)] = value
                node.parts[slot] = [value]
            op.outputs = (*op.outputs, value)
        self._put(op, node.op)
        for slot, array in totals:
            self._continue(node, slot, reached, cotangents, array)

    def _contribute(self, node: Node, slot: int) -> None:
        """Add a node's part (or parts) to the gradient of one of its inputs."""
        value = node.inputs[slot]
        for part in node.parts.pop(slot, ()):
            far = self.so_far.get(value)
            op = part.op
            if far is None:
                self._arrive(value, part)
            elif node.group.uses[slot] > 1 and op is not None and _is_rule_of(op.args[0], node):
                rule = op.args[0]
                self._continue(node, slot, rule.outputs, op.inputs[: len(rule.outputs)], None)
            else:
                added = Op(self.tape, _ACCUMULATE, (far, part), {}, (far, part))
                self._accumulated(added, node, value, _add(far.array, part.array))

    def _continue(
        self,
        node: Node,
        slot: int,
        reached: tuple[int, ...],
        cotangents: tuple[Value, ...],
        array: mx.array | None,
    ) -> None:
        """Let MLX add the several parts of one op to a gradient, one by one."""
        value = node.inputs[slot]
        far = self.so_far[value]
        rule = Rule(node, (slot,), reached, (slot,))
        inputs = (*cotangents, far, *node.inputs)
        op = Op(self.tape, _CONTINUE, (rule, *inputs), {}, inputs)
        if array is None:
            array = self._guarded(node.op, _run_continued, rule, [given.array for given in inputs])
        self._accumulated(op, node, value, array)

    def _accumulated(self, op: Op, node: Node, value: Value, array: mx.array) -> None:
        total = Value(self.tape, op, 0, array)
        total.gradient_of = value
        op.outputs = (total,)
        self.recorder.live[id(array)] = total
        self._put(op, node.op)
        self._arrive(value, total)

    def _arrive(self, value: Value, gradient: Value) -> None:
        """A value has a new gradient (so far)."""
        self.so_far[value] = gradient
        self.part.grads.setdefault(value, []).append(gradient)

    # -- writing -----------------------------------------------------------------------------------------

    def _write(self, node: Node, rule: Rule, cotangents: tuple[Value, ...]) -> Op:
        """Take a VJP and put it on the tape."""
        given = (*cotangents, *node.inputs)
        op = self._new(node.op, rule, given)
        arrays = self._guarded(node.op, run_vjp, rule, [value.array for value in given], op)
        live = self.recorder.live
        outputs = []
        for k, (slot, array) in enumerate(zip(rule.wanted, arrays)):
            value = Value(self.tape, op, k, array)
            value.gradient_of = node.inputs[slot]
            live[id(array)] = value
            outputs.append(value)
        op.outputs = tuple(outputs)
        self._put(op, node.op)
        return op

    def _new(self, forward: Op, rule: Rule, inputs: tuple[Value, ...]) -> Op:
        return Op(self.tape, vjp_operation(forward.operation), (rule, *inputs), {}, inputs)

    def _guarded(
        self, forward: Op, run: Any, rule: Rule, arrays: list[mx.array], op: Op | None = None
    ) -> Any:
        """Compute a VJP; one that MLX refuses becomes the last op of the tape, with its error."""
        try:
            with self.recorder.muted():
                return run(rule, *arrays)
        except Exception as error:
            failed = op if op is not None else self._new(forward, rule, ())
            failed.error = error
            self._put(failed, forward)
            raise

    def _put(self, op: Op, forward: Op) -> None:
        """Put a backward op on the tape, at the place of its forward op."""
        op.of = forward
        op.phase = BACKWARD
        op.part = self.part
        op.scope, op.lasti = forward.scope, forward.lasti
        op.stream = forward.stream
        op.position = len(self.tape.ops)
        self.tape.ops.append(op)


def _is_rule_of(rule: Any, node: Node) -> bool:
    return type(rule) is Rule and rule.node is node


def seed(recorder: Recorder, root: Value, cotangent: mx.array, label: str) -> Value:
    """The gradient that a sweep starts from, in the dtype of what is differentiated."""
    array = _astype(cotangent, root.dtype)
    value = recorder.leaf(array, "seed", label)
    value.gradient_of = root
    return value
