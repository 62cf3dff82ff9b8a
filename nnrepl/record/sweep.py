"""Sweep: the backward pass, one vector-Jacobian product of one op at a time.

This is micrograd's loop: order the ops, seed the loss with 1, walk backwards, and let every op add to the
gradients of its inputs. Two things make the result MLX's own, bit for bit: the order (MLX's, see
`nnrepl.record.anatomy`) and that MLX does the adding where one op adds several parts to one input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.anatomy import anatomy
from nnrepl.record.passed_by import run_blocks
from nnrepl.record.recorder import MUTED
from nnrepl.record.region import ACCUMULATE_TOGETHER, Region, SweepUnit, find_regions, region_of, run_region
from nnrepl.record.strays import raw
from nnrepl.record.usual import write
from nnrepl.record.vjp import ACCUMULATE, CONTINUE, Rule, is_usual, run_continued, run_vjp, vjp_operation
from nnrepl.tape import BackwardOp, Gradient, Op, Operation, Pass, Value, sketch_of

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_NO_KWARGS: dict[str, Any] = {}
_CAST = Operation("astype", raw(mx.astype), "mx.vjp")
_add, _astype = raw(mx.add), raw(mx.astype)


class Sweep:
    """One backward pass over a stretch of the tape.

    Args:
        recorder: Where the backward ops are written.
        pass_: The pass.
        start: The position of the first forward op.
        leaves: The values with respect to which gradients are wanted.
    """

    def __init__(self, recorder: Recorder, pass_: Pass, start: int, leaves: Sequence[Value]) -> None:
        self.recorder = recorder
        self.tape = recorder.tape
        self.pass_ = pass_
        self.active: set[Value] = set(leaves)
        self.behind: set[Value] = set()
        self.makers: dict[Value, SweepUnit] = {}
        self.so_far: dict[Value, Value] = {}
        self.now: dict[Value, Value] = {}
        self._regions: dict[tuple[SweepUnit, Value], list[SweepUnit]] = {}
        self._together: set[tuple[SweepUnit, Value]] = set()
        self._sums: dict[Value, tuple[Region, tuple[Value, ...]]] = {}
        for op in self.tape.ops[start:]:
            if op.outputs and op.pass_ is pass_:  # what happened inside of a call is one op
                self._plan(op)

    # -- before: what depends on the leaves, and how -----------------------------------------------------

    def _plan(self, op: Op) -> None:
        """If an op depends on the leaves, find out how gradients pass through it. MLX's walk goes also through
        what lets none pass (`stop_gradient`), and what lies beyond it."""
        active, behind = self.active, self.behind
        aliases = self.tape.notes.aliases
        index: dict[Value, int] = {}
        inputs: dict[Value, int] = {}
        found = False
        for value in op.inputs:
            canonical = aliases.get(value, value)  # what an alias stands for is never one itself
            found = found or canonical in active or canonical in behind
            # What an op takes under two aliases is one node for MLX, and so one input.
            index[value] = inputs.setdefault(canonical, len(inputs))
        if not found:
            return
        distinct = tuple(inputs)
        cut, unlinked = self.tape.notes.cut, self.tape.notes.unlinked.get(op, ())
        for group in anatomy(op, tuple([index[value] for value in op.inputs]), distinct):
            if group.twin >= 0:  # one tensor for MLX: its gradients come together
                self.tape.notes.aliases[op.outputs[group.outputs[0]]] = op.outputs[group.twin]
                continue
            reachable = group.outputs if not cut else [slot for slot in group.outputs if op.outputs[slot] not in cut]
            if not reachable or (len(reachable) < len(group.outputs) and op not in self.tape.notes.calls):
                continue  # MLX has let go of how it was made
            wanted = tuple([slot for slot in group.inputs if distinct[slot] in active])
            if unlinked:
                wanted = tuple([slot for slot in wanted if distinct[slot] not in unlinked])
            # `recurse` in MLX's `vjp` (mlx/transforms.cpp) visits the inputs of a StopGradient, too, and marks them as
            # seen: what it meets there for the first time comes earlier in its order, so the node has to be walked.
            if group.stopped or not wanted:
                if any([distinct[step.visit] in self.makers for step in group.walk if step.visit >= 0]):
                    node = SweepUnit(op, group, distinct, ())
                    for slot in group.outputs:
                        self.makers[op.outputs[slot]] = node
                        behind.add(op.outputs[slot])
                continue
            # `reshape` to the same shape, `astype` to the same dtype hand their input back: no primitive, no VJP, and
            # what arrives at the result has arrived at the input.
            if group.alias >= 0:
                self.tape.notes.aliases[op.outputs[group.outputs[0]]] = distinct[group.alias]
                continue
            node = SweepUnit(op, group, distinct, wanted)
            for slot in group.outputs:
                self.makers[op.outputs[slot]] = node
                active.add(op.outputs[slot])

    def order(self, roots: Sequence[Value]) -> list[tuple[SweepUnit, tuple[int, ...] | None]]:
        """MLX's walk, depth first from the roots: for each node the taps on its inputs, and (None) its end."""
        walked: list[tuple[SweepUnit, tuple[int, ...] | None]] = []
        entered: set[SweepUnit] = set()
        stack: list[tuple[SweepUnit, int]] = []
        makers, aliases = self.makers, self.tape.notes.aliases

        def enter(value: Value) -> None:
            value = aliases.get(value, value)  # what an alias stands for is never one itself
            node = makers.get(value)
            if node is not None and node not in entered:
                entered.add(node)
                # The outputs have primitives in common: MLX's order inside depends on which one it comes to first.
                if node.group.variants:
                    node.group = node.group.variants.get(value.slot, node.group)
                stack.append((node, 0))

        # A stack instead of MLX's recursion (`recurse` in `vjp`, mlx/transforms.cpp): Python's would end at a chain of
        # a thousand ops. A node is left after all its inputs, as MLX's tape has it.
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
                    else:
                        value = node.inputs[step.visit]
                        if aliases.get(value, value) in makers:
                            stack.append((node, at))
                            enter(value)
                            break
                else:
                    walked.append((node, None))
        return walked

    # -- the sweep itself --------------------------------------------------------------------------------

    def run(self, roots: Sequence[tuple[Value, Value]]) -> dict[Value, Value]:
        """Sweep from some values with their gradients (cotangents). Returns the gradients that reached
        each value that was not passed through: the leaves."""
        for root, cotangent in roots:
            # `cotan_map.insert` in MLX's `vjp` keeps what is there: of a result that comes twice, one cotangent counts.
            if root.canonical in self.active and root.canonical not in self.so_far:
                self._arrive(root.canonical, cotangent)
        self.recorder.sweeps.append(self)
        try:
            order = self.order([root for root, _ in roots])
            # Looked for only where an op comes back to an input after others: few do, and it takes a walk of its own.
            self._regions = find_regions(order) if any(node.group.split for node, _ in order) else {}
            self._together = {(node, value) for (_, value), nodes in self._regions.items() for node in nodes}
            # `for (auto it = tape.rbegin(); ...)` in MLX's `vjp`: a node's VJP is taken where MLX left it, and what it
            # gives is added to each input where the primitive that taps this input stands in MLX's tape.
            for node, taps in reversed(order):
                if taps is None:
                    self._differentiate(node)
                else:
                    for slot in taps:
                        self._contribute(node, slot)
            self.recorder.intake.enter(self.recorder, due=False)
        finally:
            self.recorder.sweeps.pop()
        return self.so_far

    def _differentiate(self, node: SweepUnit) -> None:
        """Take the VJP of a node, if a gradient has reached it."""
        if self.recorder.intake.follows:
            self.recorder.intake.enter(self.recorder, due=False)
        so_far, outputs = self.so_far, node.op.outputs
        reached = tuple([k for k in node.group.outputs if outputs[k] in so_far])
        # As MLX does without cotangents (`if (!has_cotans) continue`): no VJP, not even one of zeros.
        if not reached:
            self._take_apart(node)
            return
        if node.op in self.recorder.blocks_passed:
            run_blocks(self.recorder, node.op)
        # Taken out as MLX extracts them (`cotan_map.extract`): by MLX's order all that takes this output lies behind.
        cotangents = tuple([so_far.pop(outputs[k]) for k in reached])
        if node.op.operation.kind in ("custom", "checkpoint"):
            node.parts = node.op.args[0].backward(self, node, reached, cotangents)
        elif node.group.simple:
            op = self._write(node, reached, cotangents)
            together = self._together
            for slot, part in zip(node.wanted, op.outputs):
                value = node.inputs[slot]
                if together and (node, value) in together:
                    continue
                self._contribute_part(node, value, part)
        else:
            for slot in node.group.split:
                value = node.inputs[slot]
                if (node, value) in self._regions:
                    found = dict(zip([outputs[k] for k in reached], cotangents))
                    self._sums[value] = region_of(self._regions[node, value], value, so_far, found)
            self._vjp(node, reached, cotangents)

    def _vjp(self, node: SweepUnit, reached: tuple[int, ...], cotangents: tuple[Value, ...]) -> None:
        """Take the VJP of a node in which several primitives touch the inputs."""
        group, wanted = node.group, node.wanted
        # MLX's `vjp` adds each primitive's part to the gradient so far at once: ((far + a) + b), where an op of two
        # primitives taken by itself would give far + (a + b). Their last bits differ, so such an input is continued.
        continued = tuple(
            slot
            for slot in wanted
            if group.uses[slot] > 1
            and slot in group.early
            and node.inputs[slot] in self.so_far
            and (node, node.inputs[slot]) not in self._together
        )
        if not continued:
            op = self._write(node, reached, cotangents)
            node.parts = {slot: [part] for slot, part in zip(wanted, op.outputs)}
            return
        given = (*cotangents, *self._primals(node))
        op = self._new(node.op, node.rule(wanted, reached), given)
        # A run along a tape has the results already: the sums are found again one by one, in the same order.
        if self._recalled(op, node):
            node.parts = {slot: [part] for slot, part in zip(wanted, op.outputs) if slot not in continued}
            for slot in continued:
                self._continue(node, slot, reached, cotangents, None)
            return
        # One call of MLX gives the op's own part for some inputs and the whole sum for the others.
        far = [self.so_far[node.inputs[slot]] for slot in continued]
        joint = node.rule(wanted, reached, continued)
        arrays = [value.array for value in (*cotangents, *far, *given[len(cotangents) :])]
        built = self._guarded(node.op, run_vjp, joint, arrays)
        node.parts = {}
        totals: list[tuple[int, mx.array]] = []
        for k, (slot, array) in enumerate(zip(wanted, built)):
            value = Gradient(op, k, None if slot in continued else array, node.inputs[slot])
            if slot in continued:
                # MLX has made the sum only: this part alone was never an array, and is computed when somebody looks.
                self.tape.notes.sketches[value] = sketch_of(array)
                totals.append((slot, array))
            else:
                self.recorder.live[id(array)] = value
                node.parts[slot] = [value]
            op.outputs = (*op.outputs, value)
        self._put(op, node.op)
        for (slot, array), given_far in zip(totals, far):
            self._continue(node, slot, reached, cotangents, (given_far, array))

    def _contribute(self, node: SweepUnit, slot: int) -> None:
        """Add a node's part (or parts) to the gradient of one of its inputs."""
        value = node.inputs[slot]
        if (node, value) in self._together:
            self._contribute_together(node, slot)
            return
        for part in node.parts.pop(slot, ()) if node.parts else ():
            op = part.op
            several = node.group.uses[slot] > 1 and op is not None and _is_rule_of(op.args[0], node)
            if several and value in self.so_far:
                rule = op.args[0]  # type: ignore[union-attr]
                self._continue(node, slot, rule.outputs, op.inputs[: len(rule.outputs)], None)  # type: ignore[union-attr]
            else:
                self._contribute_part(node, value, part)

    def _contribute_part(self, node: SweepUnit, value: Value, part: Value) -> None:
        """Add one part to the gradient of a value, or begin with it."""
        if self.recorder.intake.follows:
            self.recorder.intake.enter(self.recorder, due=False)
        if self.now:
            part = self.current(part)  # it may have been changed since it was made
        far = self.so_far.get(value)
        # The first part is the gradient itself: MLX inserts it (`cotan_map.insert`); adding zero would make +0 of −0.
        if far is None:
            self._arrive(value, part)
        else:
            self._add(node, value, far, part)

    def _contribute_together(self, node: SweepUnit, slot: int) -> None:
        """Note that a node that stands in a region has been reached again: at its first use of the value, all are
        added."""
        value = node.inputs[slot]
        if (node, value) not in self._regions:
            return
        # The walk is backwards: the use that is met last is the one that MLX visited first. Only then is all there.
        node.left[slot] = node.left.get(slot, node.group.uses[slot]) - 1
        if node.left[slot]:
            return
        self.recorder.intake.enter(self.recorder, due=False)
        region, cotangents = self._sums.pop(value)
        far = (self.so_far[value],) if region.continued else ()
        primals = tuple([self.current(taken) for taken in (value, *region.given)])
        inputs = (*cotangents, *far, *primals)
        op = BackwardOp(ACCUMULATE_TOGETHER, (region, *inputs), _NO_KWARGS, inputs, node.op)
        if self._recalled(op, node, value):
            self._arrive(value, op.outputs[0])
        else:
            array = self._guarded(node.op, run_region, region, [given.array for given in inputs])
            self._accumulated(op, node, value, array)

    def _take_apart(self, node: SweepUnit) -> None:
        """No gradient reaches a node: what would have been added together with its parts is added by itself."""
        for slot in node.group.split:
            for other in self._regions.pop((node, node.inputs[slot]), ()):
                self._together.discard((other, node.inputs[slot]))

    def _add(self, node: SweepUnit, value: Value, far: Value, part: Value) -> None:
        """Add one part to a gradient so far."""
        inputs = (far, part)
        op = BackwardOp(ACCUMULATE, inputs, _NO_KWARGS, inputs, node.op)
        if self._recalled(op, node, value):
            self._arrive(value, op.outputs[0])
        else:
            # The gradient so far on the left, as MLX has it: `add(cotan_it->second, vjps[i])`.
            self._accumulated(op, node, value, _add(far.array, part.array))

    def _continue(
        self,
        node: SweepUnit,
        slot: int,
        reached: tuple[int, ...],
        cotangents: tuple[Value, ...],
        built: tuple[Value, mx.array] | None,
    ) -> None:
        """Let MLX add the several parts of one op to a gradient, one by one.

        Args:
            built: A gradient so far and the sum that MLX has made with it, together with other sums.
        """
        self.recorder.intake.enter(self.recorder, due=False)
        value = node.inputs[slot]
        far = self.so_far[value]
        cotangents = tuple(map(self.current, cotangents))
        rule = node.rule((slot,), reached, (slot,))
        inputs = (*cotangents, far, *self._primals(node))
        op = BackwardOp(CONTINUE, (rule, *inputs), _NO_KWARGS, inputs, node.op)
        if self._recalled(op, node, value):
            self._arrive(value, op.outputs[0])
            return
        # The sum holds only if nobody has changed the gradient so far since MLX made it (an edit may have).
        if built is not None and built[0] is far:
            array = built[1]
        else:
            array = self._guarded(node.op, run_continued, rule, [given.array for given in inputs])
        self._accumulated(op, node, value, array)

    def _accumulated(self, op: Op, node: SweepUnit, value: Value, array: mx.array) -> None:
        total = Gradient(op, 0, array, value)
        op.outputs = (total,)
        self.recorder.live[id(array)] = total
        self._put(op, node.op)
        self._arrive(value, total)

    def _arrive(self, value: Value, gradient: Value) -> None:
        """Note that a value has a new gradient (so far)."""
        self.so_far[value] = gradient
        self.pass_.grads.setdefault(value, []).append(gradient)

    # -- writing -----------------------------------------------------------------------------------------

    def _write(self, node: SweepUnit, reached: tuple[int, ...], cotangents: tuple[Value, ...]) -> Op:
        """Take a VJP and put it on the tape."""
        if not (self.now or self.recorder.intake.follows) and is_usual(node.op, node.inputs):
            return write(self, node, reached, cotangents)
        rule = node.rule(node.wanted, reached)
        given = cotangents + self._primals(node)
        op = self._new(node.op, rule, given)
        if self._recalled(op, node):
            return op
        arrays = self._guarded(node.op, run_vjp, rule, _arrays(given), op)
        live, inputs = self.recorder.live, node.inputs
        outputs: list[Value] = []
        for slot, array in zip(rule.wanted, arrays):
            value = Gradient(op, len(outputs), array, inputs[slot])
            live[id(array)] = value
            outputs.append(value)
        op.outputs = tuple(outputs)
        self._put(op, node.op)
        return op

    def _primals(self, node: SweepUnit) -> tuple[Value, ...]:
        """Return the inputs of a node, as a user may have changed them since."""
        given = tuple(map(self.current, node.inputs)) if self.now else node.inputs
        return given if node.op.operation.kind != "opaque" else (*given, *self._taken_later(node.op))

    def _taken_later(self, call: Op) -> list[Value]:
        """Return what functions in a call that MLX runs by itself are known to take where they run once more."""
        taken = list(call.operation.run.taken_later)  # type: ignore[attr-defined]
        for sweep in self.recorder.sweeps:
            taken = [sweep.image(value) for value in taken]
        return taken

    def image(self, value: Value) -> Value:
        """Return what stands for a value now."""
        return self.current(value)

    def current(self, value: Value) -> Value:
        """Return a value, as a user may have changed it since."""
        while value in self.now:
            value = self.now[value]
        return value

    def _recalled(self, op: BackwardOp, node: SweepUnit, of: Value | None = None) -> bool:
        """Whether an op has its results already, in a run that follows a tape."""
        intake = self.recorder.intake
        if not intake.follows:
            return False
        op.pass_ = self.pass_
        targets = [of] if of is not None else [node.inputs[slot] for slot in op.args[0].wanted]
        if not intake.swept(self.recorder, op, targets):
            return False
        self._put(op, node.op)
        error = self.tape.notes.errors.get(op)
        if error is not None:
            raise error
        return True

    def exchange(self, old: Value, new: Value) -> None:
        """Note that a user has changed a value: what is computed from here on takes the new one."""
        self.now[old] = new
        # A gradient may have arrived and not been taken yet, lie in a sum that waits, or among the parts of a node.
        for of, gradient in list(self.so_far.items()):
            if gradient is old:
                self._arrive(of, new)
        self._sums = {
            value: (region, tuple([new if gradient is old else gradient for gradient in cotangents]))
            for value, (region, cotangents) in self._sums.items()
        }
        for node in self.makers.values():
            for parts in (node.parts or {}).values():
                parts[:] = [new if part is old else part for part in parts]

    def _new(self, forward: Op, rule: Rule | Region, inputs: tuple[Value, ...]) -> BackwardOp:
        operation = vjp_operation(forward.operation)
        return BackwardOp(operation, (rule, *inputs), _NO_KWARGS, inputs, forward)

    def _guarded(self, forward: Op, run: Any, rule: Rule | Region, arrays: list[mx.array], op: Op | None = None) -> Any:
        """Compute a VJP; one that MLX refuses becomes the last op of the tape, with its error."""
        recorder = self.recorder
        before, recorder.mode = recorder.mode, MUTED
        captured, recorder.captured = recorder.captured, {}
        recorder.running_back = True
        try:
            return run(rule, *arrays)
        except Exception as error:
            self.failed(op if op is not None else self._new(forward, rule, ()), forward, error)
            raise
        finally:
            recorder.mode, recorder.running_back = before, False
            taken, recorder.captured = recorder.captured, captured
            if taken:
                forward.operation.run.taken_later += tuple(taken)  # type: ignore[attr-defined]

    def failed(self, op: Op, forward: Op, error: Exception) -> None:
        """Put a backward op on the tape that MLX refuses, as the last one."""
        self.tape.notes.errors[op] = error
        self._put(op, forward)

    def _put(self, op: Op, forward: Op) -> None:
        """Put a backward op on the tape, at the place of its forward op."""
        if forward.operation.kind == "opaque" and type(op.args[0]) is Rule:
            self._complete(op, forward)
        op.pass_ = self.pass_
        op.scope, op.lasti = forward.scope, forward.lasti
        op.position = len(self.tape.ops)
        self.tape.ops.append(op)

    def _complete(self, op: Op, forward: Op) -> None:
        """Let a backward op take also what functions in its call have been found to take when it was computed."""
        rule = op.args[0]
        given = len(rule.outputs) + len(rule.continued) + len(rule.inputs)
        inputs = (*op.inputs[:given], *self._taken_later(forward))
        if len(inputs) > len(op.inputs):
            op.inputs, op.args = inputs, (rule, *inputs)


def _arrays(values: Sequence[Value]) -> list[mx.array]:
    """Return the arrays of some values, of which most are held."""
    return [value.array if value.held is None else value.held for value in values]


def _is_rule_of(rule: Any, node: SweepUnit) -> bool:
    return type(rule) is Rule and rule.op.outputs == node.op.outputs  # a re-run's op has the values of the old one


def seed(recorder: Recorder, root: Value, cotangent: mx.array, number: int) -> Value:
    """Return the gradient that a sweep starts from, in the dtype of what is differentiated: the 1 of a loss, or a
    cotangent that the program gave to `mx.vjp`."""
    # `value_and_grad` starts from a float32 1, which `vjp` casts to the dtype of the loss (mlx/transforms.cpp).
    origin = recorder.live.get(id(cotangent))
    array = _astype(cotangent, root.dtype)
    if origin is None:
        return recorder.intake.seed(recorder, number, array, root)
    if origin.dtype == root.dtype:
        return origin
    op = Op(_CAST, (origin, root.dtype), _NO_KWARGS, (origin,))
    recorder.finish(op, array, sys._getframe(1))
    return op.outputs[0]
