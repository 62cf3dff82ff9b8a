"""Cuts: where MLX lets go of its graph, in a gradient call whose function evaluates tensors.

While a function is differentiated MLX marks what depends on its arguments, and evaluating keeps the graph of what is
marked. A nested `grad`, `vjp` or `jvp` takes the marks away, from all that its function was made of: what is evaluated
after that (`.item()`, a `print`, NumPy) loses its graph, and the gradient ends there. What a VJP makes is marked. An
argument of the outer function that has lost its mark is taken for a leftover by the next nested call, and no gradient
reaches it through that. Mathematically all of this is wrong, but it is what MLX gives to the program.
Source: `make_tracer`, `vjp`, `jvp` and `eval_impl` in mlx/transforms.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from nnrepl.record.anatomy import is_node, made_of
from nnrepl.tape import Inside, Mark, Notes, Op, Pass, Tape, Value

if TYPE_CHECKING:
    from nnrepl.record.opaque import OpaqueCall

_UNMARKING = frozenset(("grad", "value_and_grad", "vjp", "jvp"))


def note_cuts(tape: Tape, pass_: Pass, tells: Callable[[Value], bool]) -> None:
    """Note where the graph of a pass is cut when its backward pass begins.

    Args:
        tells: Whether a value that has its numbers tells by that that the program has evaluated it, by other means than
            MLX's own. Of the others it is noted, for all timelines.
    """
    ops = [op for op in tape.ops[pass_.start :] if op.pass_ is pass_]
    calls = _unmarking(ops, tape.notes)
    if not calls:
        return
    graph = _Graph(pass_, calls, tape.notes, pass_.wrt)
    graph.run(ops, [mark for mark in tape.marks if mark.position >= pass_.start])
    graph.forgive(tape.notes.glimpsed)
    tape.notes.looked.update(value for op in ops for value in op.outputs if tells(value) and graph.is_news(value))
    graph.evaluate([value for op in ops for value in op.outputs if value in tape.notes.looked])


def would_trace(tape: Tape, pass_: Pass, wrt: Iterable[Value], values: Iterable[Value], deeply: bool) -> bool:
    """Whether MLX takes one of some values for a tracer now, while the function of a pass runs.

    Args:
        wrt: What is differentiated, as the ops of the pass have it.
        deeply: Whether also one that such a value is still to be computed from.
    """
    ops = [op for op in tape.ops[pass_.start :] if op.pass_ is pass_]
    notes = replace(tape.notes, cut=set(tape.notes.cut), forced=set(), unlinked={})
    graph = _Graph(pass_, _unmarking(ops, notes), notes, wrt)
    graph.run(ops, [mark for mark in tape.marks if mark.position >= pass_.start])
    return graph.traces(values, deeply)


def _unmarking(ops: Iterable[Op], notes: Notes) -> dict[Op, Inside]:
    """Return the calls among some ops that take marks away, and what happened inside of them."""
    return {op: inside for op in ops if (inside := notes.calls.get(op)) and inside.transform in _UNMARKING}


class _Graph:
    """MLX's graph of a pass, op by op, with its marks."""

    def __init__(self, pass_: Pass, calls: dict[Op, Inside], notes: Notes, wrt: Iterable[Value]) -> None:
        self._notes = notes
        self._pass = pass_
        self._calls = calls
        self._marked = set(wrt)
        self._evaluated: set[Value] = set()
        self._by_us: set[Value] = set()

    def run(self, ops: Iterable[Op], evaluations: Iterable[Mark]) -> None:
        """Note all that the function has done: its ops, and what it evaluated between them."""
        marks = iter(evaluations)
        mark = next(marks, None)
        for op in ops:
            while mark is not None and mark.position <= op.position:
                self.evaluate(mark.values)
                mark = next(marks, None)
            self.add(op)
        while mark is not None:
            self.evaluate(mark.values)
            mark = next(marks, None)

    def traces(self, values: Iterable[Value], deeply: bool) -> bool:
        """Whether one of some values is marked, or what it is still to be computed from."""
        if not deeply:
            return not self._marked.isdisjoint(values)
        return any(
            value in self._marked and value not in self._evaluated and (value.op is None or not value.evaluated)
            for value in self._before(values)
        )

    def add(self, op: Op) -> None:
        """Note that one more op has been made."""
        self.evaluate(self._notes.read.get(op, ()))
        inside = self._calls.get(op)
        if inside is None:
            if not self._marked.isdisjoint(op.inputs):
                self._marked.update(value for value in op.outputs if not self._marked.isdisjoint(made_of(value)))
            return
        captured = op.args[2]
        taken = [value for value in op.inputs if value not in captured]
        leftovers = [value for value in taken if value in self._pass.wrt and value not in self._marked]
        if leftovers:
            self._notes.unlinked[op] = frozenset(leftovers)
        tangents = taken[len(inside.leaves) :]
        own, count = _own(op, inside), _results(op)
        by_mlx = inside.transform != "jvp" or not self._marked.isdisjoint(tangents)
        made = op.outputs[own:count] if by_mlx else ()
        # What the function has left elsewhere (in an array that it changed, in a list) is marked as an op's result is,
        # unless it is one of those of which the function's results were made.
        left = op.outputs[count:] if not self._marked.isdisjoint(op.inputs) else ()
        recipe = op.operation.run.recipe  # type: ignore[attr-defined]
        reached = _reached(self._notes, op, inside)
        inner = {} if recipe is None else dict(zip(left, recipe.kept))
        for value in self._before(reached):
            self._marked.discard(value)
        self._marked.update(made, [value for value in left if inner.get(value) not in reached])

    def evaluate(self, values: Iterable[Value]) -> None:
        """Evaluate some values: of what they were made, what is not marked loses its graph."""
        for value in self._before(values):
            self._evaluated.add(value)
            # What another pass has made (a loss that is printed after it) has its gradients already, and keeps them
            # where that pass runs again: the notes are shared by all timelines.
            if value.op is None or value.op.pass_ is not self._pass:
                continue
            if value.op in self._calls:
                self._notes.forced.add(value)
            if value not in self._marked:
                self._notes.cut.add(value)

    def forgive(self, values: Iterable[Value]) -> None:
        """Note what nnrepl has evaluated, and not the program: MLX's graph would have it still."""
        self._by_us = self._before(values)

    def is_news(self, value: Value) -> bool:
        """Whether a value has its numbers though nothing is known to have evaluated it."""
        op, array = value.op, value.held
        if (
            op is None
            or array is None
            or value in self._evaluated
            or value in self._by_us
            or op.operation.kind == "data"
            or not value.evaluated
        ):
            return False
        return not any(taken.held is not None and is_node(array, taken.held) for taken in op.inputs)

    def _before(self, values: Iterable[Value]) -> set[Value]:
        """Return some values of the pass and all that MLX's graph still knows that they were made of."""
        seen: set[Value] = set()
        pending = list(values)
        while pending:
            value = pending.pop()
            if value in seen or value in self._notes.cut:
                continue
            seen.add(value)
            if value.op is not None and value.op.pass_ is self._pass:
                pending.extend(made_of(value))
        return seen


def _reached(notes: Notes, call: Op, inside: Inside) -> set[Value]:
    """Return what MLX takes the marks from when a nested call has ended, those within it included: all that the results
    of its function were made of."""
    found = _made_of(notes, call, inside) if inside.transform in _UNMARKING else set()
    for op in inside.ops:
        within = notes.calls.get(op)
        if within is not None and within.within is inside:
            found |= _reached(notes, op, within)
    return found


def _made_of(notes: Notes, call: Op, inside: Inside) -> set[Value]:
    """Return what the results of a function were made of, further out than the call as well."""
    seen = set[Value]()
    own = _own(call, inside)
    made = [value for value, slot in inside.results if slot < own]
    pending = [*made, *([] if inside.loss is None else [inside.loss])]
    while pending:
        value = pending.pop()
        if value in seen or value in inside.leaves:
            continue
        seen.add(value)
        if value.op is not None and value.op.inner:
            pending.extend(made_of(value))
        elif value in notes.entered and value.origin is not None:  # of a call around: `stop_gradient` of what went in
            pending.append(value.origin)
    return seen


def _own(op: Op, inside: Inside) -> int:
    """How many of its outputs are results of its function; those after them MLX has made by itself."""
    count = _results(op)
    return count // 2 if inside.transform == "jvp" else count - len(inside.wrt)


def _results(op: Op) -> int:
    """How many of its outputs a call gives back: the others are what its function has left elsewhere."""
    run: OpaqueCall = op.operation.run  # type: ignore[assignment]
    return len(op.outputs) - len(run.changed) - len(run.marks)
