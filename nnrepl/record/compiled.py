"""Compiled: `mx.compile` under recording.

Inside a gradient MLX runs a compiled function as plain Python, and so does nnrepl. Called on its own, MLX
runs the Python body once for each kind of arguments and afterwards repeats the graph: prints are not
repeated, random draws and captured arrays stay what they were. So does nnrepl: the first call is recorded,
later calls put the same ops on the tape again, on the new inputs.
Source: `PyCompiledFun` in mlx/python/src/transforms.cpp.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record import opaque, trees
from nnrepl.record.caller import Caller
from nnrepl.record.closing import Call
from nnrepl.record.compiling import (
    are_arrays,
    call_key,
    call_signature,
    can_be_told,
    does_as_its_source,
    runs_without_python,
)  # fmt: skip
from nnrepl.record.first_calls import FirstCall, Twin, map_values
from nnrepl.record.native import Levels, levels_of
from nnrepl.record.quiet import quietly, set_random_state
from nnrepl.record.recorder import Recorder
from nnrepl.record.repeat import Repetition
from nnrepl.record.stranded import strand
from nnrepl.record.strays import invoke, native
from nnrepl.record.tracing import Tracing, takes_tracers
from nnrepl.tape import GRADIENT_PASS, Value

_getframe = sys._getframe
_RANDOM_STATE: Any = mx.random.state
_LOOKED_AT = 3
"""So many native calls of a compiled function are looked at before they are made."""


class Compiled(opaque.Transform):
    """What `mx.compile(fun, ...)` returns while recording is on."""

    def __init__(
        self,
        original: Callable[..., Any],
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        made: Any = None,
    ) -> None:
        super().__init__(original, self._noted(fun) if made is None else fun, args, kwargs, made)
        self.fun = fun
        self.traces: dict[Any, FirstCall] = {}
        self.twins: dict[Any, Twin] = {}
        self._kept: dict[Any, bool] | None = None if made is None else {}
        self._native: set[Any] = set()
        self._looks: dict[Any, int] = {}
        self._settled: dict[Any, Twin] = {}
        self._consists: dict[Any, tuple[Call, ...]] = {}
        self._ran = False
        self._library: bool | None = None

    def _noted(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as MLX gets it: when MLX runs it in order to trace it, that is noted."""
        if not callable(fun):
            return fun  # MLX says what is wrong

        @functools.wraps(fun, updated=())
        def noted(*args: Any, **kwargs: Any) -> Any:
            self._ran = True
            return invoke(fun, args, kwargs)

        return noted

    def forget(self) -> None:
        """Note that the function does something else now: it is traced again when it is called."""
        self.traces = {}  # a trace that is being made goes into those that are forgotten
        self.twins, self._native, self._looks, self._settled, self._consists = {}, set(), {}, {}, {}
        self.real = native(self.original(self._noted(self.fun), *self.args, **self.kwargs))

    def notice(self, levels: Levels, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        if self._library is not False and self._is_library():
            return self.real(*args, **kwargs)
        signature = call_signature(args, kwargs)
        twin = None if levels.awaited else self._settled.get(signature)  # as mostly: one look
        if twin is None:
            twin = self.twins.get(signature)
            if twin is None or levels.awaited or self._traces_anew(signature, args, kwargs):
                levels.record_late()
                return self.call(levels.recorder, args, kwargs, frame)
            if self._looks.get(signature, 0) >= _LOOKED_AT:
                self._settled[signature] = twin
        return self._natively(levels, twin, args, kwargs, frame)

    def _natively(
        self, levels: Levels, twin: Twin, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> Any:
        if not twin.calls:
            return self.real(*args, **kwargs)
        self._ran = False
        try:
            return levels.run(twin.calls, frame, functools.partial(self.real, *args, **kwargs), twin.loss)
        finally:
            if self._ran:  # MLX tells calls apart by what is captured as well: the first of a kind
                tape = levels.recorder.tape
                tape.retraced.add(tape.steps.number_at(len(tape) - 1))

    def _traces_anew(self, signature: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether MLX will trace it once more, since what is captured is of another kind than it was: an optimizer has
        got a state. Looked at in the first calls only: afterwards such a call is found when it has been made."""
        looks, captured = self._looks.get(signature, 0), self.option(0, "inputs", None)
        if looks >= _LOOKED_AT or captured is None:
            return False
        kinds = [(array.shape, array.dtype) for array in (*trees.arrays((args, kwargs)), *_captured(captured))]
        if call_key(args, kwargs, kinds, bool(self.option(2, "shapeless", False))) not in self._native:
            return True
        self._looks[signature] = looks + 1
        return False

    def _is_library(self) -> bool:
        """Whether it is a function of MLX's or of another library (an activation): it has nothing frozen in it, and it
        outlives the program when that runs again. One that a library makes anew for the program, around what that
        gives it (the step of a trainer), is as good as the program's own."""
        if self._library is None:
            code = getattr(self.fun, "__code__", None)
            self._library = code is not None and not code.co_freevars and is_library(code.co_filename)
        return self._library

    def call(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        if not can_be_told(args, kwargs):
            return self.real(*args, **kwargs)  # MLX says what is wrong
        if recorder.inside is not None:  # MLX has compiled it, and goes by what it kept: none of its lines need run
            plainly = takes_tracers(recorder, (args, kwargs))
            return opaque.run_native(recorder, self, args, kwargs, frame, plainly)
        if self._runs_plainly(recorder, (args, kwargs), frame):
            given, names = _new_handles(recorder, (args, kwargs), frame)
            return invoke(self.fun, given, names)
        if self._was_traced(recorder, args, kwargs, frame):
            return opaque.run_native(recorder, self, args, kwargs, frame)
        levels = levels_of(recorder)
        if recorder.tracing or levels is None or self._is_library():
            return self._call(recorder, args, kwargs, frame)
        if recorder.differentiating:
            return self._in_a_gradient(recorder, levels, args, kwargs, frame)
        signature = call_signature(args, kwargs)
        twin = self.twins.get(signature)
        if twin is not None and self._traces_anew(signature, args, kwargs):
            twin = None
        if twin is not None and twin.calls and levels.begins(frame):
            return self._natively(levels, twin, args, kwargs, frame)
        if twin is None:
            levels.wake()
        calls: list[Call] = []
        coming = self._consists.get(signature, ())
        gradient = any(one.kind == GRADIENT_PASS for one in coming[:1])
        levels.comes(functools.partial(self.real, *args, **kwargs), gradient, frame)
        with levels.recorded(calls, frame):
            if recorder.listener is not None:
                recorder.listener.call_started()
            key = self._kind(recorder, args, kwargs, frame)
            if key in self._native or key in self.traces or levels.blocked:
                calls += coming
                return self._call(recorder, args, kwargs, frame)
            result, first = self._first(recorder, levels, args, kwargs, frame, key)
            calls += first
            return result

    def _runs_plainly(self, recorder: Recorder, given: Any, frame: FrameType) -> bool:
        """Whether MLX would run it as plain Python: under a gradient on what is differentiated, on what another
        compiled function is being traced with, or if nothing is compiled at all."""
        if not recorder.compiling:
            return True
        # `compile` (mlx/compile.cpp) calls the function itself where one of its inputs is a tracer.
        if recorder.differentiating:
            return self._is_library() or takes_tracers(recorder, (given, self.option(0, "inputs", None)))
        if not recorder.tracing:
            return False
        return recorder.tracing[-1].depends([recorder.value_of(array, frame) for array in trees.arrays(given)])

    def _in_a_gradient(
        self, recorder: Recorder, levels: Levels, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> Any:
        """Return a call in a function that is differentiated, on what is not: MLX compiles that."""
        key = self._kind(recorder, args, kwargs, frame)
        if key in self._native or key in self.traces or levels.blocked:
            return self._call(recorder, args, kwargs, frame)
        return self._first(recorder, levels, args, kwargs, frame, key)[0]

    def _kind(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """Return what tells apart the calls that MLX traces separately."""
        shapeless, captured = bool(self.option(2, "shapeless", False)), self.option(0, "inputs", None)
        return _key_of(recorder, captured, shapeless, args, kwargs, frame)[0]

    def _was_traced(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> bool:
        """Whether MLX keeps a trace of such a call from before the recording in which something is frozen that its
        source does not give now: nobody knows what, so MLX runs it by itself."""
        if self._kept is None or recorder.tracing or self._is_library():
            return False
        captured, key = self.option(0, "inputs", None), self._kind(recorder, args, kwargs, frame)
        if key not in self._kept:
            listener, levels = recorder.listener, levels_of(recorder)
            remember = listener.remember if listener is not None else None if levels is None else levels.remember
            call = args, kwargs, [captured, self.option(1, "outputs", None)]
            with recorder.muted():
                kept = runs_without_python(self.real, *call)
                if kept and remember is not None:
                    kept = not does_as_its_source(self.real, self.fun, *call, remember)
            self._kept[key] = kept
        return self._kept[key]

    def _call(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        start = len(recorder.tape)
        result = call_compiled(
            recorder, self.fun, self.option(0, "inputs", None), self.option(1, "outputs", None),
            bool(self.option(2, "shapeless", False)), self.traces, args, kwargs, frame,
        )  # fmt: skip
        if not recorder.tracing:
            recorder.tape.compiled.append((start, len(recorder.tape)))
        return result

    def _first(
        self,
        recorder: Recorder,
        levels: Levels,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        key: Any,
    ) -> tuple[Any, tuple[Call, ...]]:
        """Return the first call for a kind of arguments: it is recorded, and MLX traces it from the same state, so that
        what it keeps of it (a counter, a mask of dropout) is the same in both. Also returns what calls it is."""
        listener = recorder.listener
        reached = (self.fun, args, kwargs, self.args, self.kwargs)
        before, start = None if listener is None else listener.remember(reached), len(recorder.tape)
        result = self._call(recorder, args, kwargs, frame)
        if listener is None or before is None or key not in self.traces:
            levels.blocked = "a compiled function of it cannot be traced again"
            return result, ()
        twin, signature = Twin.of(self.traces[key]), call_signature(args, kwargs)
        self._consists[signature] = twin.calls
        # A run along a tape makes natively what is closed there, whatever has been set since.
        if listener.may_run_natively() or recorder.intake.opens:
            from nnrepl.record.as_before import as_before

            after = listener.remember(reached)
            with quietly(), as_before(recorder, start):
                before()
                try:
                    self.real(*args, **kwargs)
                finally:
                    if after is not None:
                        after()
            self._native.add(key)
            self.twins[signature] = twin
            self._settled.pop(signature, None)
        return result, twin.calls


def _new_handles(recorder: Recorder, tree: Any, frame: FrameType) -> Any:
    return trees.rebuild(tree, lambda array: recorder.handle(recorder.value_of(array, frame)))


def _placeholders(recorder: Recorder, tree: Any, values: list[Value]) -> tuple[Any, list[Value]]:
    """Return new handles for the arguments, and what they stand for: a value that was given twice becomes two, since
    the next call may give two."""
    seen: set[Value] = set()
    standing: list[Value] = []
    left = iter(values)

    def stand_in(_: mx.array) -> mx.array:
        value = next(left)
        array = recorder.handle(value)
        if value in seen:
            twin = recorder.leaf(array, "input", value.label, value)
            recorder.tape.notes.aliases[twin] = value
            value = twin
        seen.add(value)
        standing.append(value)
        return array

    return trees.rebuild(tree, stand_in), standing


def call_compiled(
    recorder: Recorder,
    fun: Callable[..., Any],
    inputs: Any,
    outputs: Any,
    shapeless: bool,
    traces: dict[Any, FirstCall],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    frame: FrameType,
) -> Any:
    """Call a compiled function on its own: record its first run for these kinds of arguments, repeat it
    for the next. A line that the user has typed in it is none of the function's: that call runs from its source, and
    the others are what they are without it."""
    key, given, taken = _key_of(recorder, inputs, shapeless, args, kwargs, frame)
    trace = traces.get(key)
    if trace is None:
        from nnrepl.record.as_traced import kept_world

        # MLX traces with placeholders (`compile_trace` in mlx/compile.cpp): the body must not find the very objects
        # that the caller holds, or an `is` in it would say what it does not say natively.
        before = set(recorder.live)
        fresh, given = _placeholders(recorder, (args, kwargs), given)
        tracing = Tracing(recorder, len(recorder.tape), [*given, *taken])
        world = kept_world(recorder, fun, args, kwargs, inputs, outputs)
        name, handed = getattr(fun, "__name__", type(fun).__name__), set[int]()
        try:
            result, first = _from_source(recorder, tracing, fun, fresh, (given, taken), outputs, frame)
            handed = {id(array) for array in (*_captured(outputs), *trees.arrays(result))}
        except Exception:  # what it has put elsewhere by then is there
            strand(recorder, tracing, before, handed, name)
            raise
        del fresh
        recorder.stack.enter(recorder.stack.program_frame(frame))  # it has returned: its variables hold nothing
        strand(recorder, tracing, before, handed, name)
        if not tracing.typed:
            traces[key] = replace(first, world=world)
        return result
    draws = _holds_random_state(inputs)
    state = _RANDOM_STATE[0]
    nested = recorder.differentiating and not trace.differentiated and trace.takes_gradients
    if nested or recorder.intake.has_line(recorder, len(trace.ops)):  # what was a pass is a nested call here
        result = _once_more(recorder, trace, fun, (args, kwargs), (given, taken), (inputs, outputs), draws, frame)
    else:
        result = _repeat(recorder, trace, (given, taken), outputs, draws, frame)
    if draws and not _holds_random_state(outputs):
        set_random_state(state)  # the new state is an output that nobody captured
    return result


def _once_more(
    recorder: Recorder,
    trace: FirstCall,
    fun: Callable[..., Any],
    tree: Any,
    entering: tuple[list[Value], list[Value]],
    captured: tuple[Any, Any],
    draws: bool,
    frame: FrameType,
) -> Any:
    """Return a later call, run from its source: what its first run had drawn that captured no random state is drawn
    again."""
    from nnrepl.record.as_traced import world_of

    state, counted = _RANDOM_STATE[0], recorder.draws
    if not draws:
        set_random_state(trace.state[0])
        recorder.draws = trace.state[1]
    try:
        tracing = Tracing(recorder, len(recorder.tape), [*entering[0], *entering[1]])
        fresh, now = _new_handles(recorder, tree, frame), (captured[0], entering[1])
        with world_of(recorder, trace.world, len(trace.ops), now, fun, tree, *captured) as put_back:
            if draws:  # what it is given is the state of now
                set_random_state(state)
            result, again = _from_source(recorder, tracing, fun, fresh, entering, captured[1], frame)
            drawn = _RANDOM_STATE[0]
        if put_back:  # and so is what it had put there
            if draws:
                set_random_state(drawn)
            filled = map(recorder.handle, again.outputs)
            trees.fill(captured[1], lambda _: next(filled))
        return result
    finally:
        if not draws:
            set_random_state(state)
            recorder.draws = counted


def _from_source(
    recorder: Recorder,
    tracing: Tracing,
    fun: Callable[..., Any],
    tree: Any,
    entering: tuple[list[Value], list[Value]],
    outputs: Any,
    frame: FrameType,
) -> tuple[Any, FirstCall]:
    """Run a compiled function as Python.

    Args:
        tree: Its arguments.
        entering: What goes in: its arguments, and what is captured.
    """
    start, state = len(recorder.tape), (_RANDOM_STATE[0], recorder.draws)
    scope = recorder.stack.enter(recorder.stack.program_frame(frame))
    held = len(recorder.tape.bindings.holds)
    recorder.tracing.append(tracing)
    recorder.tape.traced.append(start)
    try:
        result = invoke(fun, *tree)
    finally:
        recorder.tracing.pop()
    after = [recorder.value_of(array, frame) for array in _captured(outputs)]
    given = trees.rebuild(result, lambda array: recorder.value_of(array, frame))
    tracing.check_captured([recorder.value_of(array, frame) for array in trees.arrays(result)])
    entered = [recorder.unified.get(value, value) for part in entering for value in part]  # as its ops have them
    ops, differentiated = recorder.tape.ops[start:], bool(recorder.differentiating)
    contained = len(recorder.tape.bindings.holds) > held
    first = FirstCall(ops, entered, given, after, scope, state, differentiated, contained)
    return _hand_out(recorder, given), first


def _key_of(
    recorder: Recorder,
    inputs: Any,
    shapeless: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    frame: FrameType,
) -> tuple[Any, list[Value], list[Value]]:
    """Return what tells apart calls that MLX traces separately; the values of the arguments, and those that are
    captured."""
    arrays = args if are_arrays(args, kwargs) else trees.arrays((args, kwargs))
    given = [recorder.value_of(array, frame) for array in arrays]
    taken = [recorder.value_of(array, frame) for array in _captured(inputs)]
    # `CompileCache::find` (mlx/compile.cpp) goes by these, and by the constants among the arguments.
    kinds = [(value.shape, value.dtype) for value in (*given, *taken)]
    return call_key(args, kwargs, kinds, shapeless), given, taken


def _hand_out(recorder: Recorder, result: Any) -> Any:
    """Return a tree of Values as a tree of arrays."""
    return map_values(result, recorder.handle)


def _captured(tree: Any) -> list[mx.array]:
    """Return the arrays of a captured tree; the random state in it is treated apart."""
    return [] if tree is None else [array for array in trees.arrays(tree) if array is not _RANDOM_STATE[0]]


def _holds_random_state(tree: Any) -> bool:
    if isinstance(tree, (list, tuple)):
        return any(map(_holds_random_state, tree))
    if isinstance(tree, dict):
        return any(map(_holds_random_state, dict.values(tree)))
    return tree is _RANDOM_STATE


def _repeat(
    recorder: Recorder,
    trace: FirstCall,
    entering: tuple[list[Value], list[Value]],
    outputs: Any,
    draws: bool,
    frame: FrameType,
) -> Any:
    """Put the ops of an earlier run on the tape again, on other inputs."""
    frame = recorder.stack.program_frame(frame)
    caller = Caller(trace.scope, recorder.stack.enter(frame), frame.f_lasti)
    now = dict(zip(trace.inputs, [*entering[0], *entering[1]]))
    repetition = Repetition(recorder, now, caller, draws, trace.contained, entering[0])
    repetition.run(trace.ops, loose=trace.differentiated or bool(recorder.differentiating))
    filled = iter([repetition.held_elsewhere(value) for value in trace.outputs])
    # As `PyCompiledFun::call_impl` (mlx/python/src/transforms.cpp) does with its `tree_fill`.
    if outputs is not None:
        trees.fill(outputs, lambda _: recorder.handle(next(filled)))
    repetition.over()
    return map_values(trace.result, lambda value: recorder.handle(repetition.image(value)))
