"""Opaque: what MLX runs by itself is one op of the tape.

Inside an outermost transform, a nested one (`grad` in a loss, `vmap`, `jvp`, a custom kernel) is one op.
What it captures by closure is an input like any other: the wrappers notice every recorded array that is
touched while MLX runs it. Its VJP is MLX's own, over the same call with those arrays exchanged.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.anatomy import Group, of_call
from nnrepl.record.catalog import Callee
from nnrepl.record.data import construct
from nnrepl.record.objects import hand_out
from nnrepl.record.recorder import MUTED, OPAQUE, RECORD, Recorder, current, noticing, ready
from nnrepl.record.strays import invoke, native
from nnrepl.tape import Op, Operation, Value, arrays_of

if TYPE_CHECKING:
    from nnrepl.record.native import Levels

_getframe = sys._getframe
_copy = mx.array.__copy__
_init = mx.array.__init__
_setitem = mx.array.__setitem__
_seed = mx.random.seed
_tolist = mx.array.tolist
_RANDOM_STATE: Any = mx.random.state


def aside(
    recorder: Recorder,
    operation: Operation | None,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """A wrapped function is called while it is not to be recorded as an op."""
    if recorder.closed:
        successor = ready()
        if successor is not None and operation is not None:  # a wrapper that outlived its recording
            return successor.call(operation, args, kwargs, _getframe(2))
        return original(*args, **kwargs)
    if recorder.mode == OPAQUE:
        notice(recorder, args)
        if kwargs:
            notice(recorder, tuple(kwargs.values()))
        return original(*args, **kwargs)
    result = original(*args, **kwargs)
    if recorder.mode == RECORD:  # so this is another thread
        for array in arrays_of(result):
            recorder.leaf(array, "thread", None)
    return result


def notice(recorder: Recorder, args: Any) -> None:
    """Remember which recorded arrays an opaque op touches."""
    for leaf in trees.leaves(args):
        if type(leaf) is mx.array:
            value = recorder.live.get(id(leaf))
            if value is not None:
                recorder.captured.setdefault(value, leaf)


def pass_on(args: Any) -> None:
    """A transform is called while it is not to be recorded as an op: what goes in, an opaque op touches."""
    recorder = current()
    if recorder is not None and recorder.mode == OPAQUE and get_ident() == recorder.thread:
        notice(recorder, args)


class Transform:
    """What one of MLX's function transforms returns while recording is on: a callable that behaves as
    MLX's own, recorded or not.

    Args:
        original: MLX's transform.
        fun: The function that is transformed.
        args, kwargs: The transform's options.
        made: What MLX made of it already, if it did.
    """

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
        recorder = ready()
        if recorder is not None:
            return self.call(recorder, args, kwargs, _getframe(1))
        levels = noticing()
        if levels is not None:
            return self.notice(levels, args, kwargs, _getframe(1))
        pass_on((args, kwargs))
        return self.real(*args, **kwargs)

    def notice(self, levels: Levels, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """Run it where only calls are noticed."""
        return self.real(*args, **kwargs)

    def call(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """Run it under the recorder."""
        return run_transform(recorder, self, args, kwargs, frame)

    def option(self, position: int, name: str, default: Any) -> Any:
        """One of the transform's options, given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def __getattr__(self, name: str) -> Any:
        if name == "fun":
            raise AttributeError(name)
        return getattr(self.fun, name)


class Mapped(Transform):
    """What `mx.vmap(fun, ...)` returns while recording is on: always one opaque op."""


def run_transform(
    recorder: Recorder, transform: Transform, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
) -> Any:
    """A transform that MLX runs, as one op."""

    def make(fun: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = transform.original(fun, *transform.args, **transform.kwargs)
        return made

    name = f"{transform.name} of {title(transform.fun)}"
    return OpaqueCall(recorder, name, f"mx.{transform.name}", make, transform.fun).run(args, kwargs, frame)


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

    call = OpaqueCall(recorder, f"{name} of {title(fun)}", f"mx.{name}", make, fun)
    return call.run(args, {}, frame)


def jvp_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    """The replacement for `mx.jvp`: one opaque op."""

    @functools.wraps(original, assigned=("__name__", "__doc__", "__module__"), updated=())
    def jvp(fun: Callable[..., Any], primals: Any, tangents: Any) -> Any:
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

    Attributes:
        operation: The operation of its op.
        touched: The recorded values that the function took besides its arguments, and the objects that held them.
        state: The random state before it, if it drew random numbers.
        groups: How gradients pass through it, known where they are asked for.
    """

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        spelling: str,
        make: Callable[[Callable[..., Any]], Callable[..., Any]] | None,
        fun: Callable[..., Any],
    ) -> None:
        self.recorder = recorder
        self.make = make
        self.fun = fun
        self.operation = Operation(name, self, spelling, kind="opaque")
        self.touched: dict[Value, mx.array] = {}
        self.state: mx.array | None = None
        self.survivors: list[tuple[weakref.ref[mx.array], Value]] = []
        self.groups: tuple[Group, ...] = ()

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """The program's call."""
        recorder = self.recorder
        recorder.intake.enter(recorder)
        inputs: list[Value] = []
        template = recorder.scan(args, inputs, frame)
        names = recorder.scan(kwargs, inputs, frame)
        given = trees.arrays((args, kwargs))
        captured, recorder.captured = recorder.captured, {}
        state = _RANDOM_STATE[0]
        function = self.fun if self.make is None else self.make(self._relinking(inputs))
        error: Exception | None = None
        recorder.mode, recorder.forced = OPAQUE, False
        try:
            result = function(*args, **kwargs)
        except Exception as raised:
            error = raised
        finally:
            recorder.mode = RECORD
            touched, recorder.captured = recorder.captured, captured
        if _RANDOM_STATE[0] is not state:
            self.state = state
            recorder.seeded(("opaque", recorder.draws))
        extra = list(touched)
        self.touched = touched
        op = Op(self.operation, (template, names, extra), {}, (*inputs, *extra))
        if error is not None:
            recorder.fail(op, error, frame)
            raise error
        for reference, value in self.survivors:
            array = reference()
            if array is not None and id(array) not in recorder.live:
                recorder.link(array, value)
        twin = recorder.intake.given(recorder, op, frame)
        if twin is not None:
            return hand_out(recorder, twin)
        recorder.finish(op, result, frame)
        if recorder.differentiating:
            self.groups = of_call(op, recorder.forced, [*given, *touched.values()])
        return result

    def _relinking(self, inputs: list[Value]) -> Callable[..., Any]:
        """The inner function, which notes what MLX hands to it: new objects for the arrays of `inputs`,
        some of which live on (in a Module, say) after the transform has ended."""

        @functools.wraps(self.fun, assigned=("__name__", "__doc__"), updated=())
        def fun(*args: Any, **kwargs: Any) -> Any:
            for array, value in zip(trees.arrays((args, kwargs)), inputs):
                if array.shape == value.shape:
                    self.survivors.append((weakref.ref(array), value))
            return invoke(self.fun, args, kwargs)

        return fun

    def __call__(self, args: Any, kwargs: Any, captured: list[mx.array]) -> Any:
        """Make the same call on other arrays: quietly, with the random numbers of the first time."""
        function = self.fun if self.make is None else self.make(self.fun)
        with quietly(self.state), _exchanged(self._places(captured)):
            return arrays_of(function(*args, **kwargs))

    def _places(self, captured: list[mx.array]) -> list[tuple[mx.array, mx.array]]:
        """Where the function finds what it captured, with what it is to find there: in the objects of then, and in
        those that the program has held before and holds again (the parameters of a model, under a transform), and in
        what lies there now: the model may have been trained further."""
        places = []
        for (value, thing), array in zip(self.touched.items(), captured):
            objects = {id(thing): thing}
            known: Value | None = value
            while known is not None and (known is value or known not in self.touched):
                if known.held is not None:
                    objects[id(known.held)] = known.held
                now = self.recorder.tape.names.now(known)
                if now is not None and now.shape == array.shape:
                    objects[id(now)] = now
                known = known.origin
            places += [(thing, array) for thing in objects.values() if thing is not array]
        return places


@contextlib.contextmanager
def _exchanged(places: Sequence[tuple[mx.array, mx.array]]) -> Iterator[None]:
    """Let the program's own array objects hold other arrays for a while: that reaches every closure,
    module and list in which they lie."""
    before = [(thing, _copy(thing)) for thing, _ in places]
    given = [(thing, _copy(array)) for thing, array in places]
    try:
        for thing, array in given:
            _setitem(thing, Ellipsis, array)
        yield
    finally:
        for thing, array in before:
            _setitem(thing, Ellipsis, array)


@contextlib.contextmanager
def quietly(state: mx.array | None = None) -> Iterator[None]:
    """Call a function of the program's once more: nothing is recorded or printed, and random numbers are
    drawn from `state`."""
    recorder = current()
    before = None if recorder is None else recorder.mode
    if recorder is not None:
        recorder.mode = MUTED
    try:
        with contextlib.redirect_stdout(io.StringIO()), _random(state):
            yield
    finally:
        if recorder is not None and before is not None:
            recorder.mode = before


@contextlib.contextmanager
def _random(state: mx.array | None) -> Iterator[None]:
    """Draw the random numbers of an earlier moment, and leave the global state as it is."""
    if state is None:
        yield
        return
    now = _RANDOM_STATE[0]
    set_random_state(state)
    try:
        yield
    finally:
        set_random_state(now)


def set_random_state(state: mx.array) -> None:
    """Put MLX's random state (of this thread) to what it was: a key is the two halves of its seed."""
    halves: Any = _tolist(state)
    high, low = halves
    _seed((high << 32) | low)


# -- kernels and imported functions --------------------------------------------------------------------------


def maker(recorder: Recorder, callee: Callee) -> Callable[..., Any]:
    """`mx.fast.metal_kernel`, `mx.import_function`: the calls of what they return are ops."""
    original = callee.original

    @functools.wraps(original, assigned=("__name__", "__doc__", "__module__"), updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        if isinstance(made, tuple):
            return (_kernel(made[0], callee.attribute), *made[1:])
        return _kernel(made, callee.attribute)

    return make


def _kernel(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        recorder = ready()
        if recorder is None:
            pass_on((args, kwargs))
            return function(*args, **kwargs)
        return OpaqueCall(recorder, name, name, None, function).run(args, kwargs, _getframe(1))

    return kernel


def construct_aside(recorder: Recorder, array: mx.array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """`mx.array(...)` while it is not to be recorded as an op."""
    if recorder.mode == OPAQUE:
        notice(recorder, (args, kwargs))
    _init(array, *args, **kwargs)
    if recorder.mode == RECORD and not recorder.closed:
        recorder.leaf(array, "thread", None)


# -- what functions are called -------------------------------------------------------------------------------


def title(fun: Any) -> str:
    """What to call a function in a list of passes."""
    inner = own_function(fun)
    name = getattr(inner, "__qualname__", None) or getattr(inner, "__name__", None) or type(inner).__name__
    return str(name).replace(".<locals>", "")


def own_function(fun: Any) -> Any:
    """The program's own function, without what `partial` and nn.value_and_grad wrap around it."""
    while isinstance(fun, functools.partial):
        fun = fun.func
    return inner_function(fun)


def code_of(fun: Any) -> CodeType | None:
    """The code of a program's function (of its `__call__`, where it is an object); None where it has none."""
    inner = own_function(fun)
    while isinstance(inner, functools.partial):
        inner = inner.func
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def inner_function(fun: Any) -> Any:
    """The program's own function inside of nn.value_and_grad's (which holds it in a closure cell)."""
    code = getattr(fun, "__code__", None)
    if code is not None and fun.__module__ == "mlx.nn.utils" and "fn" in code.co_freevars:
        return fun.__closure__[code.co_freevars.index("fn")].cell_contents
    return fun


def parameter_names(fun: Any, args: tuple[Any, ...]) -> list[str]:
    """The names of a function's positional parameters, as many as there are arguments."""
    try:
        known = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        known = []
    names: list[str] = []
    for number in range(len(args)):
        if number < len(known) and known[number].kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            names.append(known[number].name)
        else:
            names.append(_rest_name(fun, number, known))
    return names


def _rest_name(fun: Any, number: int, known: list[inspect.Parameter]) -> str:
    """The name of an argument that went into `*args`: nn.value_and_grad passes everything on that way."""
    inner = inner_function(fun)
    if inner is not fun:
        passed = number - 1
        try:
            names = list(inspect.signature(inner).parameters)
        except (TypeError, ValueError):
            names = []
        if passed < len(names):
            return names[passed]
    return f"arg{number}"


__all__ = ["Transform", "aside", "construct", "run_transform"]
