"""Custom: `mx.custom_function` and `mx.checkpoint`, functions that bring their own backward pass.

Their inner ops are recorded as they run. For the gradient the call as a whole is one op: a custom function
is differentiated by the program's own `vjp` function, a checkpoint by running its function a second time.
Source: `custom_function` and `checkpoint` in mlx/transforms.cpp.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
from collections.abc import Callable, Sequence
from copy import copy
from itertools import count
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record import aside, opaque, titles, trees
from nnrepl.record.mirror import mirrored
from nnrepl.record.quiet import quietly
from nnrepl.record.recorder import Recorder, ready
from nnrepl.record.region import SweepUnit
from nnrepl.record.renamed import as_given
from nnrepl.record.repeat import Repeatable, Repetition
from nnrepl.record.runs_twice import TwiceRun
from nnrepl.record.strays import invoke, native
from nnrepl.record.sweep import Sweep
from nnrepl.tape import DrawnKey, Op, Operation, Tape, Value

_getframe = sys._getframe
_copy = mx.array.__copy__
_zeros_like, _depends, _custom_function, _vjp, _eval = mx.zeros_like, mx.depends, mx.custom_function, mx.vjp, mx.eval
_RANDOM_STATE: Any = mx.random.state


def _pass_on(_: Composite, count: int, *arrays: mx.array) -> list[mx.array]:
    """Take the results of the ops inside for the results of a composite."""
    return [_copy(array) for array in arrays[count:]]


@dataclass(frozen=True)
class RanAgain:
    """What the backward pass of a composite ran of the program's.

    Attributes:
        ops: The ops that it recorded.
        given: The values that it began with.
        results: What it returned.
    """

    ops: list[Op]
    given: list[Value]
    results: list[Value]


class Composite(Repeatable):
    """One call of a function whose inner ops are on the tape, and which has a backward pass of its own.

    Attributes:
        fun: The program's function.
        inputs: The values that went in.
        given: The arguments, as trees.
        result: What it returned, as a tree.
        state: The random state before it, if it drew random numbers.
        ops: The inner ops.
        again: What its backward pass ran, once it has.
        block: What the user does in it, where its backward pass runs its function once more.
        repeats: How to run that on other values, where no Python of the program's is to run (what a compiled
            function has recorded is repeated).
        before: The same call on the tape, where the run follows one.
    """

    def __init__(self, recorder: Recorder, fun: Callable[..., Any]) -> None:
        self.recorder = recorder
        self.fun = fun
        self.inputs: list[Value] = []
        self.given: tuple[Any, dict[str, Any]] = ((), {})
        self.result: Any = None
        self.state: mx.array | None = None
        self.ops: list[Op] = []
        self.again: RanAgain | None = None
        self.block: TwiceRun | None = None
        self.repeats: Callable[[Sequence[Value]], list[Value]] | None = None
        self.before: Composite | None = None

    def native(self, op: Op, lookup: Callable[[Value], mx.array]) -> list[mx.array]:
        """Return the same call, made by MLX itself on the arrays that `lookup` gives."""
        raise NotImplementedError

    def run(self, kind: str, spelling: str, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """Call the function on new handles, as MLX does, and close the call with an op of its own."""
        recorder = self.recorder
        recorder.intake.enter(recorder, calling=True)

        def hand_over(array: mx.array) -> mx.array:
            value = recorder.value_of(array, frame)
            self.inputs.append(value)
            return recorder.handle(value)

        self.given = trees.rebuild((args, kwargs), hand_over)
        state, start = _RANDOM_STATE[0], len(recorder.tape)
        result = self._first(start)
        if _RANDOM_STATE[0] is not state:
            self.state = state
        recorder.intake.enter(recorder)  # the last op inside may have been changed
        self.ops = recorder.tape.ops[start:]
        inner = [recorder.value_of(array, frame) for array in trees.arrays(result)]
        operation = Operation(f"{kind} of {titles.title(self.fun)}", _pass_on, spelling, kind=kind)
        inputs = (*self.inputs, *inner)
        op = Op(operation, (self, len(self.inputs), *inputs), {}, inputs)
        twin = recorder.intake.given(recorder, op, frame)
        # New objects, as MLX returns new arrays from its CustomTransforms primitive: the function's own results, which
        # it may have kept in a list, are other values, and no gradient passes from them (`stop_gradient(out)`).
        outputs = [_copy(array) for array in trees.arrays(result)]
        if twin is None:
            recorder.finish(op, outputs, frame)
        else:
            self.inputs, self.before = list(twin.inputs[: len(self.inputs)]), twin.args[0]
            twin.args = (self, len(self.inputs), *twin.inputs)  # the one of the tape belongs to an earlier run
            outputs = [recorder.handle(value) for value in twin.outputs]
        given = iter(outputs)
        self.result = trees.rebuild(result, lambda _: next(given))
        return self.result

    def _first(self, start: int) -> Any:
        """Run the function for the first time. Returns what it gives."""
        return invoke(self.fun, self.given[0], self.given[1])

    def run_again(self, recorder: Recorder, op: Op, given: Sequence[Value], call: Callable[[], Any]) -> list[Value]:
        """Run what the backward pass runs of the program's, on `given`. Its ops belong to the backward pass of `op`."""
        start = len(recorder.tape)
        if self.repeats is not None:
            results = self.repeats(given)
        else:
            returned = trees.arrays(call())
            recorder.intake.enter(recorder)
            results = [recorder.value_of(array, _getframe(0)) for array in returned]
        self.again = RanAgain(recorder.tape.ops[start:], list(given), results)
        _belong(recorder, start, op)
        return results

    def repeated(self, repetition: Repetition) -> Composite:
        """Return the same call on the values of a repetition."""
        twin = copy(self)
        twin.inputs = list(repetition.images(self.inputs))
        made = [repetition.made[op] for op in self.ops if op in repetition.made]
        twin.ops = self.recorder.tape.ops[made[0].position :] if made else []
        keys = [part for op in twin.ops for part in (*op.args, *op.kwargs.values()) if isinstance(part, DrawnKey)]
        if keys:
            twin.state = keys[0].state
        earlier, twin.again, twin.before = self.again, None, None
        if earlier is not None:
            known = earlier
            twin.repeats = lambda given: repetition.stretch(known.ops, zip(known.given, given), known.results)
        return twin

    def repeat_backward(self, earlier: Composite, repetition: Repetition) -> None:
        """Note that the backward pass of an earlier call has been repeated: note what of it was the program's."""
        if earlier.again is not None:
            again = earlier.again
            ops = [repetition.made[op] for op in again.ops if op in repetition.made]
            self.again = RanAgain(ops, list(repetition.images(again.given)), list(repetition.images(again.results)))

    def cotangents(self, sweep: Sweep, op: Op, reached: tuple[int, ...], gradients: tuple[Value, ...]) -> list[Value]:
        """Return a gradient for every output: zeros for one that none has reached."""
        found = dict(zip(reached, gradients))
        whole = []
        for k, output in enumerate(op.outputs):
            if k not in found:
                zeros = _zeros_like(output.array)
                found[k] = sweep.recorder.leaf(zeros, "constant", "no gradient: zeros")
            whole.append(found[k])
        return whole


class Custom(Composite):
    """A call of an `mx.custom_function` with a `vjp` of the program's own."""

    def __init__(self, recorder: Recorder, fun: Callable[..., Any], vjp: Callable[..., Any]) -> None:
        super().__init__(recorder, fun)
        self.vjp = vjp

    def repeated(self, repetition: Repetition) -> Composite:
        # It is over by now: from here on its arguments are what they are outside of it.
        for value, given in as_given(self.inputs, repetition.image, titles.code_of(self.fun)):
            repetition.put(value, given)
        return super().repeated(repetition)

    def native(self, op: Op, lookup: Callable[[Value], mx.array]) -> list[mx.array]:
        custom = _custom_function(self.fun)
        custom.vjp(self.vjp)
        given = iter([lookup(value) for value in self.inputs])
        args, kwargs = trees.rebuild(self.given, lambda _: next(given))
        with quietly(self.state):
            return trees.arrays(custom(*args, **kwargs))

    def backward(
        self, sweep: Sweep, node: SweepUnit, reached: tuple[int, ...], gradients: tuple[Value, ...]
    ) -> dict[int, list[Value]]:
        """Run the program's `vjp`; its ops are backward ops."""
        op = node.op
        recorder = sweep.recorder
        # MLX hands zeros for outputs without a gradient, and the outputs themselves (`CustomTransforms::vjp` in
        # mlx/primitives.cpp).
        given = [*self.cotangents(sweep, op, reached, gradients), *op.outputs, *self.inputs]
        given = [sweep.current(value) for value in given]

        def call() -> Any:
            # What was changed behind the call is another tensor: its `vjp` gets what it took and gave.
            handles = iter([_as_it_was(recorder, value) for value in given])
            cotangent = trees.rebuild(self.result, lambda _: next(handles))
            output = trees.rebuild(self.result, lambda _: next(handles))
            args, kwargs = trees.rebuild(self.given, lambda _: next(handles))
            # One argument comes bare (`InnerVJPFunction` in mlx/python/src/transforms.cpp).
            return self.vjp(args[0] if len(args) == 1 else tuple(args), cotangent, output, **kwargs)

        # Where these are too few MLX goes on among the cotangents (`all_vjps` in `CustomTransforms::vjp`), and then in
        # what memory is behind them.
        values = [*self.run_again(recorder, op, given, call), *given[: len(op.outputs)]]
        parts: dict[int, list[Value]] = {}
        for number, taken in enumerate(self.inputs):
            if taken.canonical in sweep.active:
                if number >= len(values):
                    raise IndexError(self._too_few(len(values) - len(op.outputs)))
                parts.setdefault(node.inputs.index(taken.canonical), []).append(values[number])
        return parts

    def _too_few(self, count: int) -> str:
        given = f"gives {count} gradient{'' if count == 1 else 's'} for {len(self.inputs)} tensors"
        return f"the vjp of {titles.title(self.fun)} {given}, and MLX reads beyond them"


class Rerun(Composite):
    """A call whose backward pass runs the function again: a checkpoint, or a custom function without a
    `vjp` (MLX then differentiates its function anew)."""

    def __init__(self, recorder: Recorder, fun: Callable[..., Any], depends: bool) -> None:
        super().__init__(recorder, fun)
        self.depends = depends

    def _first(self, start: int) -> Any:
        blocks, self.block = self.recorder.blocks, TwiceRun(start)
        blocks.append(self.block)
        try:
            return super()._first(start)
        finally:
            blocks.remove(self.block)

    def native(self, op: Op, lookup: Callable[[Value], mx.array]) -> list[mx.array]:
        """Return the results of the first run; for the gradient MLX differentiates what was recorded of the second."""
        outputs = op.compute(lookup)
        if self.again is None:
            return outputs
        again = self.again

        def second(*arrays: mx.array) -> list[mx.array]:
            now = dict(zip(again.given, arrays))
            replay(again.ops, now, lookup)
            return [now[value] if value in now else lookup(value) for value in again.results]

        def backward(primals: Any, cotangents: Any, _: Any) -> Any:
            return _vjp(second, trees.arrays(primals), trees.arrays(cotangents))[1]

        custom = _custom_function(lambda *_: outputs)
        custom.vjp(backward)
        return trees.arrays(custom(*[lookup(value) for value in self.inputs]))

    def backward(
        self, sweep: Sweep, node: SweepUnit, reached: tuple[int, ...], gradients: tuple[Value, ...]
    ) -> dict[int, list[Value]]:
        """Run the function again on fresh leaves and sweep what it recorded."""
        op = node.op
        recorder = sweep.recorder
        start = len(recorder.tape)
        inputs = [sweep.current(value) for value in self.inputs]
        arrays = [recorder.handle(value) for value in inputs]
        # `depends(primals, outputs)` (`checkpoint` in mlx/transforms.cpp) keeps MLX from running the second run before
        # the first has ended, which would hold both in memory. It is an op of the graph, so it is one of the tape.
        if self.depends:
            outputs = [recorder.handle(sweep.current(value)) for value in op.outputs]
            arrays = recorder.call(_DEPENDS, (arrays, outputs), {}, _getframe(0))
            depends = recorder.tape.ops[-1]
            depends.scope, depends.lasti = op.scope, op.lasti
            _belong(recorder, start, op)
        fresh = [_copy(array) for array in arrays]
        leaves = self._leaves(recorder, fresh, inputs)
        # The function may change what it is given in place; then `fresh` no longer says which leaves these were.
        marks = [_copy(array) for array in fresh]  # the program changes only its own objects
        for mark, leaf in zip(marks, leaves):
            recorder.link(mark, leaf)

        def call() -> Any:
            given = iter(fresh)
            args, kwargs = trees.rebuild(self.given, lambda _: next(given))
            return invoke(self.fun, args, kwargs)

        lines = () if self.block is None or self.repeats is not None else self.block.lines
        depths = (0 if op.scope is None else op.scope.depth + 1, len(recorder.stack.frames()))
        with mirrored(recorder, self.ops, list(zip(self.inputs, leaves)), lines, None if self.repeats else depths):
            again = self.run_again(recorder, op, leaves, call)
        # A run that follows a tape has found out by now which leaves of the tape they are.
        leaves = [_unedited(recorder, recorder.live[id(mark)]) for mark in marks]
        assert self.again is not None
        self.again.given[:] = leaves
        inner = Sweep(recorder, sweep.pass_, start, leaves)
        found = inner.run(list(zip(again, self.cotangents(sweep, op, reached, gradients))))
        parts: dict[int, list[Value]] = {}
        for taken, leaf in zip(self.inputs, leaves):
            if taken.canonical not in sweep.active:
                continue
            gradient = found.get(leaf)
            if gradient is None:
                gradient = recorder.leaf(_zeros_like(leaf.array), "constant", "no gradient: zeros")
            parts.setdefault(node.inputs.index(taken.canonical), []).append(gradient)
        return parts

    def _leaves(self, recorder: Recorder, fresh: Sequence[mx.array], inputs: Sequence[Value]) -> list[Value]:
        """Return what the function's second run gets: the leaves of the tape, where the run follows it. A change at the
        very start of the block is made on them before any op of the program's takes one."""
        known = None if self.before is None or not recorder.intake.has_inside(recorder) else self.before.again
        if known is None or len(known.given) != len(fresh):
            return [recorder.leaf(array, "input", value.label, value) for array, value in zip(fresh, inputs)]
        for array, leaf in zip(fresh, known.given):
            recorder.link(array, leaf)
        return list(known.given)


def _as_it_was(recorder: Recorder, value: Value) -> mx.array:
    """Return a new object for a value, with the content that it has on the tape if it has been changed by now; what is
    changed further on has the content of then from the beginning."""
    tape = recorder.tape
    made = [op for op, target in tape.notes.edits.items() if target is value and op.position < len(tape)]
    if not any(tape.ops[op.position] is op for op in made):
        return recorder.handle(value)
    array = _copy(value.array)
    recorder.link(array, value)
    return array


def _unedited(recorder: Recorder, value: Value) -> Value:
    """Return the value that an edit has changed."""
    edits = recorder.tape.notes.edits
    while value.op is not None and value.op in edits:
        value = edits[value.op]
    return value


_DEPENDS = Operation("depends", _depends, "mx.depends")


def _belong(recorder: Recorder, start: int, op: Op) -> None:
    """Note that what was recorded since `start` belongs to the backward pass of `op`."""
    for inner in recorder.tape.ops[start:]:
        if inner.of is None:
            recorder.tape.notes.belonging[inner] = op


def replay(ops: Sequence[Op], now: dict[Value, mx.array], lookup: Callable[[Value], mx.array]) -> None:
    """Make ops again on other arrays.

    Args:
        ops: The ops, in order; what lies inside of a call is left out.
        now: The array that stands for a value; those that are made are added to it.
        lookup: Gives the array of any other value.
    """

    def find(value: Value) -> mx.array:
        array = now.get(value)
        return lookup(value) if array is None else array

    for op in ops:
        if op.error is None and not op.inner:
            composite = op.args[0] if op.args else None
            arrays = composite.native(op, find) if isinstance(composite, Composite) else op.compute(find)
            now.update(zip(op.outputs, arrays))
            forced = [now[output] for output in op.outputs if output in op.tape.notes.forced]
            if forced:
                _eval(forced)


def in_first_run(tape: Tape, value: Value, cursor: int | None) -> tuple[Value, int | None] | None:
    """Return what a value is that was made when a function ran for the second time, in its first run, and where the
    cursor would be there: a change stands in the function, and both runs see it. None if it was not made so."""
    forward = None if value.op is None else tape.notes.belonging.get(value.op)
    composite = forward.args[0] if forward is not None and forward.args else None
    if not isinstance(composite, Rerun) or composite.again is None or value.op is None or not composite.ops:
        return None
    second = composite.again.ops
    at = next(
        (at for at, op in enumerate(second) if op is value.op or op.outputs == value.op.outputs), len(composite.ops)
    )
    if at >= len(composite.ops):
        return None
    first = composite.ops[at]
    if cursor is not None:
        cursor = first.position + max(0, min(cursor - value.op.position, len(composite.ops) - at))
    return first.outputs[value.slot], cursor


def in_second_run(op: Op) -> bool:
    """Whether an op was made when a function ran for the second time."""
    forward = op.tape.notes.belonging.get(op)
    return forward is not None and bool(forward.args) and isinstance(forward.args[0], Rerun)


def in_own_vjp(tape: Tape, position: int | None) -> bool:
    """Whether the op at a position is made by a custom function's own `vjp`: its lines run once, whatever runs twice
    around the function."""
    op = tape.ops[position] if position is not None and position < len(tape) else None
    forward = None if op is None else tape.notes.belonging.get(op)
    return forward is not None and bool(forward.args) and isinstance(forward.args[0], Custom)


def first_run_of(tape: Tape, position: int) -> int:
    """Return the position of an op in the first run of a block, where it was made in the second; else its own."""
    op = tape.ops[position] if position < len(tape) else None
    forward = None if op is None else tape.notes.belonging.get(op)
    composite = forward.args[0] if forward is not None and forward.args else None
    if op is None or not isinstance(composite, Rerun) or composite.again is None:
        return position
    second = composite.again.ops
    at = next((at for at, one in enumerate(second) if one is op or one.outputs == op.outputs), len(composite.ops))
    return first_run_of(tape, composite.ops[at].position) if at < len(composite.ops) else position


class Checkpointed(opaque.Transform):
    """What `mx.checkpoint(fun)` returns while recording is on."""

    def call(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        if recorder.inside is not None:
            return opaque.run_transform(recorder, self, args, kwargs, frame)
        composite = Rerun(recorder, self.fun, depends=True)
        return composite.run("checkpoint", "mx.checkpoint", args, kwargs, frame)

    def aside(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leavings = recorder.leavings
        if leavings.made is None:
            return self.real(*args, **kwargs)
        numbers = count()

        @functools.wraps(self.fun, assigned=("__name__", "__doc__"), updated=())
        def fun(*given: Any, **named: Any) -> Any:
            leavings.begins((self.fun, args, kwargs), trees.arrays((given, named)), first=not next(numbers))
            return invoke(self.fun, given, named)

        return native(self.original(fun, *self.args, **self.kwargs))(*args, **kwargs)


def caller(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the replacement for calling an `mx.custom_function`."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = ready()
        if recorder is None:
            aside.pass_on((args, kwargs))
            return original(self, *args, **kwargs)
        # MLX has no attributes for these. It tells Python's collector of them: after the type the function, then its
        # transformations (`py_custom_function_tp_traverse` in mlx/python/src/transforms.cpp).
        fun, *others = gc.get_referents(self)[1:]
        known = recorder.customized.get(id(self), (self, set()))[1]
        if not others and not known:  # no transformation of its own: MLX calls the function as it is
            return invoke(fun, args, kwargs)
        if recorder.inside is not None:
            name = f"custom of {titles.title(fun)}"
            call = opaque.OpaqueCall(recorder, name, "mx.custom_function", None, functools.partial(original, self))
            return call.run(args, kwargs, _getframe(1))
        vjp = next((other for other in others if _is_vjp(other, known)), None)
        composite = Custom(recorder, fun, vjp) if vjp is not None else Rerun(recorder, fun, depends=False)
        return composite.run("custom", "mx.custom_function", args, kwargs, _getframe(1))

    return __call__


def _is_vjp(function: Any, known: set[Any]) -> bool:
    """Whether a function that MLX holds for a custom function is its `vjp`: it was set as such, or, if it
    was set before recording began, takes the three arguments that only a `vjp` does."""
    kinds = {kind for kind, set_function in known if set_function is function}
    if kinds:
        return "vjp" in kinds
    try:
        return len(inspect.signature(function).parameters) >= 3
    except (TypeError, ValueError):
        return True


def setter(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the replacement for `custom_function.vjp`, `.jvp` and `.vmap`: notes what was set as what."""

    def set_transformation(self: Any, function: Callable[..., Any]) -> Any:
        recorder = ready()
        if recorder is not None:
            recorder.customized.setdefault(id(self), (self, set()))[1].add((kind, function))
        return original(self, function)

    return set_transformation
