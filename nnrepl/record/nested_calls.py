"""Inside: what happens in a call that MLX runs by itself, written down while it runs.

MLX hands tracers to the function of a `vmap`, a `jvp` or a nested `grad`, and the function runs once, as it would
without nnrepl. Its ops are put on the tape before the op of the call, on leaves that stand for what went in. What MLX
does by itself after that, the backward pass of a `grad` or the tangents of a `jvp`, is worked out from them without
running anything: a gradient has the shape of what it is the gradient of. No array of the call is kept: tracers of a
`vmap` have no numbers, and the rest can be computed from what went in. So all of this is known, and nothing computed,
until somebody looks.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record import trees
from nnrepl.record.anatomy import stand_in
from nnrepl.record.data import construct
from nnrepl.record.intake import RECORDING
from nnrepl.record.later_runs import LaterRuns
from nnrepl.record.leavings import call_around
from nnrepl.record.recipe import TransformRecipe
from nnrepl.record.recorder import RECORD, Recorder
from nnrepl.record.region import Region
from nnrepl.record.runs_twice import TwiceRun
from nnrepl.record.sweep import Sweep, seed
from nnrepl.record.vjp import Rule, run_vjp
from nnrepl.tape import GRADIENT_PASS, Inside, Leaf, Op, Pass, Value, arrays_of, sketch_of
from nnrepl.tape.passes import GRADIENTS


@dataclass(frozen=True, slots=True)
class Given:
    """What goes into a call that MLX runs by itself.

    Attributes:
        transform: Which of MLX's transforms it is.
        primals: The arrays that its function gets, in order.
        labels: What they are called.
        wanted: Of which of them gradients are taken.
        axes: Along which axis of each a `vmap` takes its samples; None: each sample gets all of it.
        others: The tangents of a `jvp`, the cotangents of a `vjp`.
        out_axes: As `mx.vmap` takes it.
    """

    transform: str
    primals: tuple[Value, ...]
    labels: tuple[str, ...]
    wanted: tuple[bool, ...]
    axes: tuple[int | None, ...]
    others: tuple[Value, ...] = ()
    out_axes: Any = 0


def given_of(
    recorder: Recorder,
    transform: str,
    parameters: Sequence[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wanted: tuple[Sequence[int], Sequence[str]] | None = None,
    in_axes: Any = None,
    others: Any = (),
    out_axes: Any = 0,
) -> Given | None:
    """Return what goes into a call with these arguments; None if some of it has not been recorded.

    Args:
        parameters: What the function calls its positional arguments; none where it has no lines of its own.
        wanted: By which of them, by number and by name, a gradient is taken; None: by all.
        in_axes: As `mx.vmap` takes it.
        others: The tangents or cotangents.
        out_axes: As `mx.vmap` takes it.
    """
    numbers, names = (range(len(args)), ()) if wanted is None else wanted
    labels: list[str] = []
    chosen: list[bool] = []
    for number, arg in enumerate(args):
        # The parameter tree of nn.value_and_grad's inner function has the model's own paths.
        prefix = "" if not parameters or parameters[number] == "params" else parameters[number]
        for path, _ in trees.paths(arg):
            labels.append(".".join(filter(None, (prefix, path))))
            chosen.append(number in numbers)
    for name, arg in kwargs.items():
        for path, _ in trees.paths(arg):
            labels.append(".".join(filter(None, (name, path))))
            chosen.append(name in names)
    # Of a single argument they are the axes of that (`py_vmap` in mlx/python/src/transforms.cpp), not of a tuple.
    axes = [*_axes(in_axes, args[0] if len(args) == 1 else args), *_axes(None, kwargs)]
    primals = [recorder.live.get(id(array)) for array in trees.arrays((args, kwargs))]
    rest = [recorder.live.get(id(array)) for array in trees.arrays(others)]
    if any([value is None for value in (*primals, *rest)]) or len(axes) != len(primals):
        return None
    known = tuple([value for value in primals if value is not None])
    # It may be counted from the end.
    axes = [None if axis is None else axis % len(value.shape) for axis, value in zip(axes, known)]
    if not parameters and args:
        labels = [value.name for value in known]
    marks = tuple(labels), tuple(chosen), tuple(axes)
    return Given(transform, known, *marks, tuple([value for value in rest if value]), out_axes)


def _axes(axes: Any, tree: Any) -> Iterator[int | None]:
    """Yield the axis of each array of a tree, for `in_axes` that may stop further up in it."""
    if isinstance(tree, mx.array):
        one = axes[0] if isinstance(axes, tuple) and len(axes) == 1 else axes  # `in_axes=(0,)`
        yield one if isinstance(one, int) else None
    elif isinstance(tree, (list, tuple)):
        for at, item in enumerate(tree):
            yield from _axes(axes[at] if isinstance(axes, (list, tuple)) and at < len(axes) else axes, item)
    elif isinstance(tree, dict):
        for key, item in dict.items(tree):
            yield from _axes(axes.get(key) if isinstance(axes, dict) else axes, item)


def _out_axes(axes: Any, result: Any) -> dict[int, int]:
    """Return along which axis of each result of a `vmap` its samples lie, where that is not the first.

    Args:
        axes: As `mx.vmap` takes them.
        result: What the function has returned for one sample.
    """
    # MLX has -1 for None, and repeats what is one for all along the last axis (`vmap_replace` in mlx/transforms.cpp).
    found = zip(_axes(axes, result), arrays_of(result))
    return {
        slot: array.ndim if axis is None else axis % (array.ndim + 1)
        for slot, (axis, array) in enumerate(found)
        if axis != 0
    }


class InsideRecording:
    """Writes down one run of the function of a call that MLX runs by itself.

    Args:
        given: What went into the call.
        title: What the function is called.
        frame: The program's frame that makes the call.

    Attributes:
        part: What it is put in.
        leaves: What stands for the arrays that went in, in order.
        own: All that came in while the function ran.
        changed: The arrays that are not the function's own and that it changed in place, by `id`, and what they held.
        left: What those hold when the function has run.
        evaluated: What the program evaluated in it, and after which position.
        recipe: How to do the same on other arrays; None where not all of that is known.
        later: Writes down the further runs of the functions in it that MLX runs more than once.
        typed: Whether a line of the user's has run in it.
    """

    def __init__(self, recorder: Recorder, given: Given, title: str, frame: FrameType) -> None:
        self.recorder = recorder
        self.given = given
        self._title = title
        self._frame = frame
        self._within = recorder.pass_
        around = recorder.inside
        self._around = around if isinstance(around, InsideRecording) else None
        self._start = len(recorder.tape)
        self.leaves: list[Leaf] = []
        self.own: set[Value] = set()
        self.changed: dict[int, tuple[mx.array, Value]] = {}
        self.left: list[tuple[mx.array, Value]] = []
        self.evaluated: list[tuple[int, tuple[Value, ...]]] = []
        self.recipe: TransformRecipe | None = None
        self.later: list[InsideRecording] = []
        self._outputs: list[Value] = []
        self._begun = self._ended = self.typed = False

    # -- while the function runs -----------------------------------------------------------------------------

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function on what MLX has handed over. A second run (a checkpoint's) is written on another sheet."""
        recorder, handed = self.recorder, trees.arrays((args, kwargs))
        if self.recipe is not None and self.recipe.later is not None:
            return self.recipe.later.record(args, kwargs)
        if self._begun or self._within is None or len(handed) < len(self.given.primals):
            return function(*args, **kwargs)
        self._begun = True
        self._enter(handed)
        mode, intake, pass_ = recorder.mode, recorder.intake, recorder.pass_
        # A run along a tape copies what that has of an inside as a whole (`InsideFollowed`), and does not come here;
        # where it goes on from there, what happens inside is not looked for on it.
        recorder.mode, recorder.intake, recorder.pass_, recorder.inside = RECORD, RECORDING, self.pass_, self
        block, blocks = TwiceRun(self._start, by_mlx=True), recorder.blocks
        recorder.blocks = [*blocks, block] if self.given.transform == "checkpoint" else blocks
        try:
            result = function(*args, **kwargs)
            self._outputs = [recorder.value_of(array, self._frame) for array in arrays_of(result)]
            self.recipe = self._recipe(result)
            if self.given.transform == "checkpoint":
                self.recipe.later = LaterRuns(self, function, self.recipe, block.later)
            if self.pass_.size:
                self.pass_.out_axes = _out_axes(self.given.out_axes, result)
            self._ended = True
            return result
        finally:
            recorder.mode, recorder.intake, recorder.pass_, recorder.inside = mode, intake, pass_, self._around
            recorder.blocks = blocks

    def _enter(self, handed: Sequence[mx.array]) -> None:
        recorder, given = self.recorder, self.given
        within = self._within
        assert within is not None
        kind = GRADIENT_PASS if given.transform in GRADIENTS else within.kind
        pass_ = self.pass_ = Inside(recorder.tape, within.number, kind, self._title, self._start, self._start)
        # Where its backward pass begins is known when the function has run: until then all of it is forward.
        pass_.transform, pass_.within, pass_.backward = given.transform, within, sys.maxsize
        pass_.scope, pass_.lasti, pass_.gives_loss = recorder.stack.scope, self._frame.f_lasti, ""
        for array, value, label, axis in zip(handed, given.primals, given.labels, given.axes):
            leaf = recorder.leaf(array, "input", label or None, value)
            self.leaves.append(leaf)
            self.own.add(leaf)
            # `vmap_trace` (mlx/transforms.cpp) hands over tracers without the mapped axis: what is recorded is one
            # sample, of the shape that the function sees, and `_spread` gives it that of all when the call is over.
            if axis is not None:
                pass_.axes[leaf] = axis
                pass_.size = value.shape[axis]
        pass_.leaves = tuple(self.leaves)
        if given.transform == "checkpoint":
            around = call_around(pass_)
            pass_.number_of_run, around.runs = around.runs, around.runs + 1
        recorder.tape.notes.entered.update(dict.fromkeys(self.leaves, pass_))
        pass_.wrt = tuple([leaf for leaf, wanted in zip(self.leaves, given.wanted) if wanted])

    def anew(self, around: InsideRecording | None) -> InsideRecording:
        """Return what writes down a further run of the function.

        Args:
            around: What has written down the call that MLX is making.
        """
        written = InsideRecording(self.recorder, self.given, self._title, sys._getframe())
        written._around = around
        return written

    def running(self) -> InsideRecording | None:
        """Return what has written down the innermost of the calls around it that MLX is still making."""
        around = self._around
        while around is not None and not around.pass_.open:
            around = around._around
        return around

    def over(self) -> None:
        """Note that the run is over; the call goes on."""
        self.pass_.end = len(self.recorder.tape)
        self.pass_.open = False

    def touch(self, value: Value, array: mx.array) -> None:
        """Note that the function takes a value: one that was there before, it has captured."""
        if not self.is_mine(value):
            self.recorder.captured.setdefault(value, array)

    def change(self, value: Value, array: mx.array) -> None:
        """Note that the function changes an array in place that holds a value: it may be one that was there before."""
        if not self.is_mine(value):
            self.changed.setdefault(id(array), (array, value))

    def evaluate(self, arrays: Sequence[mx.array]) -> None:
        """Note that the program evaluates arrays in the function."""
        live = self.recorder.live
        self.read(tuple([live[id(array)] for array in arrays if id(array) in live]))

    def read(self, values: tuple[Value, ...]) -> None:
        """Note that values are evaluated in the function."""
        self.evaluated.append((len(self.recorder.tape), values))

    def note_reads(self, call: Op) -> None:
        """Note with the op of the call what of the values from outside was evaluated in the function."""
        seen: set[Value] = set()
        pending = [value for _, values in self.evaluated for value in values]
        while pending:
            value = pending.pop()
            if value not in seen:
                seen.add(value)
                if self.is_mine(value):
                    origins = () if value.origin is None else (value.origin,)
                    pending.extend(origins if value.op is None else value.op.inputs)
        if seen:
            read = self.recorder.tape.notes.read[call] = tuple([value for value in seen if not self.is_mine(value)])
            if self._around is not None:
                self._around.read(read)

    def is_mine(self, value: Value) -> bool:
        """Whether a value went in, or was made inside."""
        if value.op is None or not self._begun:
            return value in self.own
        pass_: Pass | None = value.op.pass_
        while pass_ is not None and pass_ is not self.pass_:
            pass_ = pass_.within
        return pass_ is not None

    def _recipe(self, result: Any) -> TransformRecipe:
        """How to do again what the function has done by now."""
        tape = self.recorder.tape
        ops = [op for op in tape.ops[self._start :] if op.pass_ is self.pass_ and op.error is None]
        before = [(sum(op.position < at for op in ops), values) for at, values in self.evaluated]
        return TransformRecipe(self.leaves, ops, before, TransformRecipe.structure(result), self._outputs)

    # -- when the call is over -------------------------------------------------------------------------------

    def close(self, error: BaseException | None) -> Inside | None:
        """Work out what MLX has done by itself, and let go of the arrays. Returns what is on the tape now; None if
        nothing was written down.

        Args:
            error: What the call raised.
        """
        if not self._begun:
            return None
        recorder, pass_ = self.recorder, self.pass_
        recorder.stand(self._frame)  # what the variables of the function hold at its end is noted
        before, recorder.inside = recorder.inside, self
        outer, recorder.pass_ = recorder.pass_, pass_
        intake, recorder.intake = recorder.intake, RECORDING
        try:
            if self._ended and error is None:
                left = [(array, recorder.live[key]) for key, (array, _) in self.changed.items()]
                self.left = [(array, value) for array, value in left if not self.pass_.differs(value)]
                recorder.tape.notes.carried.update(value for _, value in self.left if value.tape is not recorder.tape)
                self._follow()
        finally:
            recorder.inside, recorder.pass_, recorder.intake = before, outer, intake
        pass_.end = len(recorder.tape)
        pass_.backward = min(pass_.backward, pass_.end)
        pass_.open = False
        self.let_go()
        for run in self.later:
            run.let_go()
        if error is not None:
            self._lose()
        return pass_ if len(pass_) else None

    def _follow(self) -> None:
        """Note what MLX did after the function's own ops."""
        pass_, given, outputs = self.pass_, self.given, self._outputs
        made: Sequence[Value | None] = outputs
        if given.transform in GRADIENTS and outputs:
            roots = self._roots()
            pass_.loss, pass_.backward = outputs[0], len(self.recorder.tape)
            pass_.roots = tuple(
                [(root, seed(self.recorder, root, start, at)) for at, (root, start) in enumerate(roots)]
            )
            found = _StructureOnly(self.recorder, pass_, self._start, pass_.wrt).run(pass_.roots)
            gradients = [found.get(leaf) for leaf in pass_.wrt]
            pass_.given = tuple([value for value in gradients if value is not None])
            made = gradients if given.transform == "grad" else [*outputs, *gradients]
        elif given.transform == "jvp":
            start: dict[Value, Value] = dict(zip(self.leaves, given.others))
            from nnrepl.record.tangents import sweep_forward  # jvp is rare

            found = sweep_forward(self.recorder, pass_, self._start, start)
            made = [*outputs, *(found.get(value) for value in outputs)]
        pass_.results = tuple([(value, slot) for slot, value in enumerate(made) if value is not None])

    def _roots(self) -> list[tuple[Value, mx.array]]:
        """Return what is differentiated, each with what the backward pass starts from."""
        if self.given.transform != "vjp":
            return [(self._outputs[0], construct(1.0, mx.float32))]
        # MLX leaves those that let no gradient pass out when it pairs outputs with cotangents.
        passing = [value for value in self._outputs if value.op is None or value.op.name != "stop_gradient"]
        return list(zip(passing, [value.array for value in self.given.others]))

    def let_go(self) -> None:
        """Hold no array of what happened inside, and say of what lies in a `vmap` that it differs from sample to
        sample."""
        pass_, notes = self.pass_, self.recorder.tape.notes
        made = [value for op in pass_.ops if op.pass_ is pass_ for value in op.outputs]
        # Weakly: what the program has put away is known again where it turns up, what it has dropped goes.
        there = [(weakref.ref(value.held), value) for value in (*self.leaves, *made) if value.held is not None]
        there += self._other_handles()
        for leaf in self.leaves:
            self._forget(leaf)
        for op in pass_.ops:
            differs = False
            for value in op.inputs if pass_.size else ():
                self._follow_origins(value)
                differs = differs or value in pass_.axes
            if differs:
                notes.mapped[op] = (pass_, *notes.mapped.get(op, ()))
            for value in op.outputs:
                self._forget(value)
                if differs:
                    self._spread(value, 0)
        for leaf in self.leaves:
            if leaf in pass_.axes:
                self._spread(leaf, pass_.axes[leaf])
        self.recorder.leavings.keep(there)

    def _other_handles(self) -> list[tuple[weakref.ref[mx.array], Value]]:
        """Forget other objects of the program's for what went in or was made inside. Returns them."""
        recorder, found, leaves = self.recorder, [], set(self.leaves)
        for key, guard in recorder.guards.copy().items():  # some may die meanwhile
            value, array = recorder.live.get(key), guard()
            if array is None or value is None:
                continue
            if value in leaves or (value.op is not None and value.op.pass_ is self.pass_):
                found.append((weakref.ref(array), value))
                del recorder.guards[key], recorder.live[key]
        return found

    def _follow_origins(self, value: Value) -> None:
        """Note that what a call within this one has taken differs from sample to sample as what it was there does."""
        axes, taken = self.pass_.axes, []
        origin: Value | None = value
        while origin is not None and origin not in axes:
            taken.append(origin)
            origin = origin.origin
        for leaf in taken if origin is not None else ():
            self._spread(leaf, axes[origin])  # type: ignore[index]

    def _lose(self) -> None:
        """Note that the call has failed: MLX may be unable to do for all samples what the function did for one."""
        for op in self.pass_.ops:
            if op in self.recorder.tape.notes.mapped:
                op.__class__ = _lost(type(op))
                for value in op.outputs:
                    value.__class__ = _lost(type(value))

    def _forget(self, value: Value) -> None:
        array, live = value.held, self.recorder.live
        if array is None:
            return
        if live.get(id(array)) is value:
            self.recorder.guards.pop(id(array), None)
            del live[id(array)]
        self.recorder.tape.notes.sketches[value] = sketch_of(array)
        value.held = None

    def _spread(self, value: Value, axis: int) -> None:
        """Note that a value lies there for all samples, along an axis."""
        pass_, sketches = self.pass_, self.recorder.tape.notes.sketches
        pass_.axes[value] = axis
        shape, dtype = sketches[value]
        sketches[value] = ((*shape[:axis], pass_.size, *shape[axis:]), dtype)


def _lost(kind: Any) -> Any:
    """Return a kind of op or value of which no numbers can be had."""
    if kind not in _LOST:  # a class, since ops and values have no slot for what is so rare
        refusal = "its call failed before MLX computed it"
        _LOST[kind] = type(f"Lost{kind.__name__}", (kind,), {"__slots__": (), "refusal": refusal})
    return _LOST[kind]


_LOST: dict[Any, Any] = {}


class _StructureOnly(Sweep):
    """A backward pass that computes nothing: MLX has taken it by itself, and only which VJPs it consists of is to be
    known. Each gradient has the shape and the dtype of what it is the gradient of."""

    def _guarded(self, forward: Op, run: Any, rule: Rule | Region, arrays: list[mx.array], op: Op | None = None) -> Any:
        if isinstance(rule, Region):
            return stand_in(rule.value.shape, rule.value.dtype)
        wanted = [rule.inputs[slot] for slot in rule.wanted]
        made = [stand_in(value.shape, value.dtype) for value in wanted]
        return made if run is run_vjp else made[0]
