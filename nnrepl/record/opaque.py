"""Opaque: what MLX runs by itself is one op of the tape.

Inside an outermost transform, a nested one (`grad` in a loss, `vmap`, `jvp`, a custom kernel) is one op.
What it captures by closure is an input like any other: the wrappers notice every recorded array that is
touched while MLX runs it. Its VJP is MLX's own, over the same call with those arrays exchanged.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.anatomy import Group, of_call
from nnrepl.record.aside import notice, pass_on
from nnrepl.record.handed import Handed
from nnrepl.record.leavings import Mark, mark_of_handed
from nnrepl.record.native import Levels, noticing
from nnrepl.record.nested_calls import Given, InsideRecording, given_of
from nnrepl.record.objects import deliver, hand_out
from nnrepl.record.quiet import exchanged, quietly
from nnrepl.record.recipe import Remaking, TransformRecipe
from nnrepl.record.recorder import NATIVE, OPAQUE, RECORD, Recorder, here, ready
from nnrepl.record.strays import invoke, native
from nnrepl.record.titles import code_of, parameter_names, title
from nnrepl.tape import Inside, Op, Operation, Value, arrays_of

Describe = Callable[[tuple[Any, ...], dict[str, Any]], Given | None]
"""Says what goes into a call; None if that is not known."""

_getframe = sys._getframe
_copy = mx.array.__copy__
_RANDOM_STATE: Any = mx.random.state


class Transform:
    """What one of MLX's function transforms returns while recording is on: a callable that behaves as
    MLX's own, recorded or not.

    Args:
        original: MLX's transform.
        fun: The function that is transformed.
        args, kwargs: The transform's options.
        made: What MLX made of it already, if it did.
    """

    transforms = True

    def __init__(
        self,
        original: Callable[..., Any],
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        made: Any = None,
    ) -> None:
        self.real = native(original(fun, *args, **kwargs) if made is None else made)
        self.original = original
        self.fun = fun
        self.args = args
        self.kwargs = kwargs
        self.name: str = original.__name__
        self.__doc__ = getattr(fun, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = here()
        if recorder is not None:
            mode = recorder.mode
            if mode == RECORD:
                return self.call(recorder, args, kwargs, _getframe(1))
            if mode == NATIVE:
                levels = recorder.levels
                if isinstance(levels, Levels) and not levels.inside:
                    return self.notice(levels, args, kwargs, _getframe(1))
            elif mode == OPAQUE:
                notice(recorder, (args, kwargs))
                return self.aside(recorder, args, kwargs)
        return self.real(*args, **kwargs)

    def __repr__(self) -> str:
        assert isinstance(self.real, functools.partial), "`native` makes one"
        return repr(self.real.args[0])  # a program that prints it gets what plain Python prints

    def aside(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it inside of a call that MLX runs by itself."""
        return self.real(*args, **kwargs)

    def notice(self, levels: Levels, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """Run it where only calls are noticed."""
        levels.inside = levels.resting  # what a function makes in it may be MLX's tracers: no stretch ends there
        try:
            return self.real(*args, **kwargs)
        finally:
            levels.inside = False

    def call(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """Run it under the recorder."""
        return run_transform(recorder, self, args, kwargs, frame)

    def wanted(self) -> tuple[list[int], list[str]] | None:
        """By which arguments, by number and by name, it differentiates; None if it does not."""
        return None

    def option(self, position: int, name: str, default: Any) -> Any:
        """One of the transform's options, given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def __getattr__(self, name: str) -> Any:
        # A copy is asked for its attributes before it has any (`copy.copy`): it would look for `fun` without end.
        if name == "fun":
            raise AttributeError(name)
        return getattr(self.fun, name)


class Mapped(Transform):
    """What `mx.vmap(fun, ...)` returns while recording is on: always one opaque op."""

    def notice(self, levels: Levels, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        return _by_itself(levels, lambda: self.real(*args, **kwargs))


def _by_itself(levels: Levels, call: Callable[[], Any]) -> Any:
    """Have MLX run a call natively: a gradient that its function takes is none of the program's, but of tracers."""
    levels.inside = True
    try:
        return call()
    finally:
        levels.inside = False


def run_transform(
    recorder: Recorder, transform: Transform, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
) -> Any:
    """Return a transform that MLX runs, as one op."""

    def make(fun: Callable[..., Any]) -> Callable[..., Any]:
        return native(transform.original(fun, *transform.args, **transform.kwargs))

    def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given | None:
        names = [] if code_of(transform.fun) is None else parameter_names(transform.fun, args)
        maps = transform.name == "vmap"
        axes = transform.option(0, "in_axes", 0) if maps else None
        out = transform.option(1, "out_axes", 0) if maps else 0
        return given_of(recorder, transform.name, names, args, kwargs, transform.wanted(), axes, out_axes=out)

    name = f"{transform.name} of {title(transform.fun)}"
    call = OpaqueCall(recorder, name, f"mx.{transform.name}", make, transform.fun, given)
    return call.run(args, kwargs, frame)


def run_native(
    recorder: Recorder,
    transform: Transform,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    frame: FrameType,
    plainly: bool = False,
) -> Any:
    """Return what a transform made, as one op of which nothing is known inside.

    Args:
        plainly: Whether it does no more than to run its function.
    """
    name = f"{transform.name} of {title(transform.fun)}"
    function = transform.fun if plainly else transform.real
    return OpaqueCall(recorder, name, f"mx.{transform.name}", None, function).run(args, kwargs, frame)


def run_function(
    recorder: Recorder,
    original: Callable[..., Any],
    name: str,
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    frame: FrameType,
) -> Any:
    """`mx.vjp(fun, ...)` or `mx.jvp(fun, ...)` run by MLX, as one op."""

    def make(inner: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: original(inner, *given)

    def given(args: tuple[Any, ...], _: dict[str, Any]) -> Given | None:
        primals, others = args
        names = [] if code_of(fun) is None else parameter_names(fun, tuple(primals))
        return given_of(recorder, name, names, tuple(primals), {}, None, None, others)

    call = OpaqueCall(recorder, f"{name} of {title(fun)}", f"mx.{name}", make, fun, given)
    return call.run(args, {}, frame)


def jvp_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the replacement for `mx.jvp`: one opaque op."""

    @functools.wraps(original, assigned=("__name__", "__doc__", "__module__"), updated=())
    def jvp(fun: Callable[..., Any], primals: Any, tangents: Any) -> Any:
        levels = noticing()
        if levels is not None:
            return _by_itself(levels, lambda: original(fun, primals, tangents))
        recorder = ready()
        if recorder is None:
            pass_on((primals, tangents))
            return original(fun, primals, tangents)
        return run_function(recorder, original, "jvp", fun, (primals, tangents), _getframe(1))

    return jvp


class OpaqueCall:
    """One call of something that MLX runs by itself. Called, it makes the same call on other arrays.

    Args:
        make: Gives the transformed function for a (wrapped) inner one; None if `fun` is called as it is.
        fun: The program's function.
        given: Says what goes in, where what happens inside can be recorded.

    Attributes:
        operation: The operation of its op.
        touched: The recorded values that the function took besides its arguments, and the objects that held them.
        state: The random state before it, if it drew random numbers.
        groups: How gradients pass through it, known where they are asked for.
        recipe: How to make it again without a line of the program's; None where that is not known.
        marks: What of the arrays made inside the program has taken outside since: further results, behind those.
        changed: The arrays from outside that it changed in place: what they hold then is part of what it returns.
        model: What it was given, as trees: the modules and other dicts of the program's, without arrays. It is empty
            where the recipe is known.
        taken_later: What functions in it take besides where they run once more in the sweep of the pass around.
    """

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        spelling: str,
        make: Callable[[Callable[..., Any]], Callable[..., Any]] | None,
        fun: Callable[..., Any],
        given: Describe | None = None,
    ) -> None:
        self.recorder = recorder
        self.make = make
        self.fun = fun
        self.given = given
        self.operation = Operation(name, self, spelling, kind="opaque")
        self.touched: dict[Value, mx.array] = {}
        self.state: Any = None
        self.groups: tuple[Group, ...] = ()
        self.recipe: TransformRecipe | None = None
        self.changed: list[mx.array] = []
        self.marks: list[Mark | None] = []
        self.model: tuple[Any, Any] = ((), {})
        self.taken_later: tuple[Value, ...] = ()

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """Make the program's call."""
        recorder, intake = self.recorder, self.recorder.intake
        intake.enter(recorder)
        inputs: list[Value] = []
        template = recorder.scan(args, inputs, frame)
        names = recorder.scan(kwargs, inputs, frame)
        given, handed = trees.arrays((args, kwargs)), Handed(recorder, (args, kwargs))
        captured, overwrites = recorder.captured, recorder.overwrites
        recorder.captured, recorder.overwrites = {}, {}
        draws, state = recorder.draws, _RANDOM_STATE[0]
        inside = self._inside(args, kwargs, inputs, frame)
        function = self.fun if self.make is None else self.make(self._relinking(handed, inside))
        error: Exception | None = None
        # MLX calls the function on tracers, which mean nothing once the call is over: its ops are not put on the tape.
        recorder.mode, recorder.forced = OPAQUE, False
        before = recorder.leavings.follow() if intake.has_inside(recorder) else None
        try:
            result = function(*args, **kwargs)
        except Exception as raised:
            error = raised
        finally:
            recorder.mode = RECORD
            touched, recorder.captured = recorder.captured, captured
            changed, recorder.overwrites = recorder.overwrites, overwrites
            made, blocks = ({}, {}) if before is None else recorder.leavings.followed(before)
        pass_ = None if inside is None else inside.close(error)
        self._drawn(state, draws)
        extra, left = self._takes(touched, inside), self._changes(changed, inside)
        self.model = self.model if self.recipe is not None else trees.without_arrays((args, kwargs))
        op = Op(self.operation, (template, names, extra), {}, (*inputs, *extra))
        pass_ = self._followed(frame) if inside is None else pass_
        calls = recorder.tape.notes.calls
        calls.update({} if pass_ is None else {op: pass_})
        if inside is not None:
            self._settle(op, inside, error)
        if error is not None:
            recorder.fail(op, error, frame)
            raise error
        handed.link(made)
        twin = intake.given(recorder, op, frame)
        if twin is not None:
            calls.update({} if pass_ is None else {twin: pass_})
            recorder.blocks_passed.update({twin: blocks} if blocks else {})
            return self._leave_again(twin, left, len(arrays_of(result)), made)
        recorder.finish(op, result, frame)
        self._leave(op, left, inside, frame)
        if recorder.differentiating or recorder.inside is not None:
            self.groups = of_call(op, recorder.forced, self._taken(inputs, given, left))
        return result

    def _settle(self, op: Op, inside: InsideRecording, error: Exception | None) -> None:
        """Note what was evaluated inside, and refuse lines of the user's there if it cannot be made again with them."""
        inside.note_reads(op)
        if inside.typed and self.recipe is None and error is None:
            why = "MLX makes that call again as the program has it, for gradients or to look inside"
            self.recorder.intake.refuse(why)

    def _drawn(self, state: mx.array, draws: Any) -> None:
        """Note that random numbers were drawn inside, if the state is another than before."""
        if _RANDOM_STATE[0] is not state:  # each draw puts another array there (`next` in mlx/python/src/random.cpp)
            self.state, self.recorder.draws = state, draws
            self.recorder.seeded(("opaque", draws))

    def _taken(
        self, inputs: Sequence[Value], given: list[mx.array], left: Sequence[tuple[mx.array, Value]]
    ) -> list[mx.array]:
        """Return what it was given for its inputs, as that was before it."""
        now = {id(array) for array, _ in left}
        if len(given) != len(inputs):
            given = [value.array for value in inputs]
        pairs = [*zip(inputs, given), *self.touched.items()]
        return [value.array if id(array) in now else array for value, array in pairs]

    def _changes(
        self, changed: dict[int, tuple[mx.array, Value]], inside: InsideRecording | None
    ) -> list[tuple[mx.array, Value]]:
        """Return the arrays from outside that were changed in place, and what they held; so did the one around it, if
        MLX runs that as well. With what is known of the inside, the call can be made again."""
        if inside is not None:
            kept = {id(array): value for array, value in inside.left}
            changed = {key: inside.changed[key] for key in kept}
            if inside.recipe is not None:
                inside.recipe.captured, inside.recipe.kept = tuple(self.touched), tuple(kept.values())
                self.recipe = inside.recipe if inside.recipe.is_whole() else None
        around = self.recorder.inside
        if around is not None:
            for array, value in changed.values():
                around.change(value, array)
        self.changed = [array for array, _ in changed.values()]
        return list(changed.values())

    def _leave(
        self, op: Op, left: Sequence[tuple[mx.array, Value]], inside: InsideRecording | None, frame: FrameType
    ) -> None:
        """Note that what was changed in place holds further results of the call."""
        recorder, gives = self.recorder, bool(op.outputs)
        known = not gives and inside is not None and self.recipe is not None and bool(op.inputs)
        first = next(iter(inside.leaves), None) if known and inside is not None else None
        # A call that gives no array is no op (`Recorder.finish`), unless it can be made again for what is kept of it.
        for array, old in left if gives or first is not None else ():
            value = Value(op, len(op.outputs), array)
            op.outputs = (*op.outputs, value)
            recorder.live[id(array)] = value
            recorder.watch.changed(array, old)
        if first is not None:
            self._keep_one(op, first, frame)

    def _keep_one(self, op: Op, first: Value, frame: FrameType) -> None:
        """Put a call on the tape that gives no array: the program may have kept one that was made inside, and the
        gradient of that goes through the call. What went in `first` stands for a result, as what is kept would."""
        assert self.recipe is not None
        self.recipe.keeps(first)
        op.outputs = (*op.outputs, Value(op, len(op.outputs), _copy(op.inputs[0].array)))
        self.marks.append(mark_of_handed(0))
        self.recorder.put(op, frame)

    def _leave_again(
        self,
        twin: Op,
        left: Sequence[tuple[mx.array, Value]],
        count: int,
        made: dict[Mark, weakref.ref[mx.array]],
    ) -> Any:
        """Put the further results of a call of the tape into the program's arrays of now. Returns what it gives back.

        Args:
            count: How many results the call gives back.
            made: What was made inside.
        """
        recorder = self.recorder
        for (array, old), value in zip(left, twin.outputs[count:]):
            deliver(recorder, array, value)
            recorder.watch.changed(array, old)
        marks = twin.operation.run.marks  # type: ignore[attr-defined]
        for mark, value in zip(marks, twin.outputs[count + len(left) :]):
            kept = made[mark]() if mark in made else None
            if kept is not None:
                deliver(recorder, kept, value)
        return hand_out(recorder, twin)

    def _followed(self, frame: FrameType) -> Inside | None:
        """Return what happened inside, where the run follows a tape that has it."""
        recorder = self.recorder
        if not recorder.intake.has_inside(recorder):
            return None
        recorder.stand(frame)
        return recorder.intake.inside(recorder, recorder.stack.scope, frame.f_lasti)

    def _takes(self, touched: dict[Value, mx.array], inside: InsideRecording | None) -> list[Value]:
        """Note what the function took besides its arguments; so did the one around it, if MLX runs that as well."""
        if inside is not None:  # a checkpoint in there runs once more in its backward pass, on what was made there
            touched = {value: array for value, array in touched.items() if not inside.is_mine(value)}
        self.touched, around = touched, self.recorder.inside
        if around is not None:
            for value, array in touched.items():
                around.touch(value, array)
        return list(touched)

    def _inside(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Value], frame: FrameType
    ) -> InsideRecording | None:
        """Return what writes down what happens inside; None where that is not known, or on the tape already."""
        recorder = self.recorder
        known = recorder.intake.has_inside(recorder)
        given = None if known or self.given is None else self.given(args, kwargs)
        if given is None and not known:
            return None
        recorder.stand(frame)
        # What happens inside lies before the op of the call, in the same pass: this one is asked which that will be.
        if not recorder.differentiating and recorder.inside is None:
            op = Op(self.operation, (), {}, tuple(inputs))
            op.scope, op.lasti, op.position = recorder.stack.scope, frame.f_lasti, len(recorder.tape)
            recorder.top_level(op)
        return None if given is None else InsideRecording(recorder, given, title(self.fun), frame)

    def _relinking(self, handed: Handed, inside: InsideRecording | None) -> Callable[..., Any]:
        """Return the inner function, which notes what MLX hands to it."""

        @functools.wraps(self.fun, assigned=("__name__", "__doc__"), updated=())
        def fun(*args: Any, **kwargs: Any) -> Any:
            handed.entered((args, kwargs))
            result = invoke(self.fun, args, kwargs) if inside is None else inside.run(self.fun, args, kwargs)
            handed.left((args, kwargs))
            return result

        return fun

    def __call__(self, args: Any, kwargs: Any, captured: list[mx.array]) -> Any:
        """Make the same call on other arrays: quietly, with the random numbers of the first time. Returns what comes
        back, and then what it leaves in arrays from outside."""
        with quietly(self.state):
            return self.again(args, kwargs, captured)

    def again(self, args: Any, kwargs: Any, captured: list[mx.array], now: Remaking | None = None) -> list[mx.array]:
        """Return the same, with random numbers drawn from the state of now.

        Args:
            now: The time that a call around it is made again; None: it is made by itself.
        """
        if self.recipe is not None and self.make is not None:
            outermost, now = now is None, now or Remaking(self.recorder.tape.notes.carried)
            kept: dict[Value, mx.array] = {}
            results = arrays_of(self.make(self.recipe.function(captured, kept, now))(*args, **kwargs))
            now.over = outermost
            return [*results, *self.recipe.left(kept, now)]
        function = self.fun if self.make is None else self.make(self.fun)
        args, kwargs = trees.like(self.model, (args, kwargs))
        with exchanged(self._places(captured)):
            results = arrays_of(function(*args, **kwargs))
            return [*results, *map(_copy, self.changed)]

    def _places(self, captured: list[mx.array]) -> list[tuple[mx.array, mx.array]]:
        """Where the function finds what it captured, with what it is to find there: in the objects of then, and in
        those that the program has held before and holds again (the parameters of a model, under a transform), and in
        what lies there now: the model may have been trained further."""
        places = []
        for (value, thing), array in zip(self.touched.items(), captured):
            objects = {id(thing): thing}
            known: Value | None = value
            while known is not None and (known is value or known not in self.touched):
                if known.held is not None and known.held.shape == array.shape:
                    objects[id(known.held)] = known.held
                now = self.recorder.tape.names.now(known)
                if now is not None and now.shape == array.shape:
                    objects[id(now)] = now
                known = known.origin
            places += [(thing, array) for thing in objects.values() if thing is not array]
        return places
