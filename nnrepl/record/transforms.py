"""Transforms: `value_and_grad`, `grad` and `vjp` at the outermost level are ours.

The function is run plainly, on fresh leaves, and its ops are recorded; then they are swept backwards. What
the program sees (which objects its containers hold, what comes back, what is raised) is what MLX does in
`py_value_and_grad` (mlx/python/src/transforms.cpp). Inside of another transform they are opaque ops.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from types import FrameType, FunctionType
from typing import Any

import mlx.core as mx

from nnrepl.record import aside, compiled, custom, opaque, titles, trees
from nnrepl.record.anatomy import is_still
from nnrepl.record.by_hand import Weights, whose
from nnrepl.record.catalog import Callee
from nnrepl.record.closed_losses import loss_of
from nnrepl.record.closing import Call
from nnrepl.record.data import construct
from nnrepl.record.gradient_call import GradientCall, make_call, take_gradients
from nnrepl.record.native import Levels, levels_of, noticing
from nnrepl.record.recorder import Recorder, ready
from nnrepl.record.strays import invoke, native
from nnrepl.tape import GRADIENT_PASS, Value

_getframe = sys._getframe
_copy = mx.array.__copy__


def wrapper(recorder: Recorder, callee: Callee) -> Callable[..., Any] | None:
    """Return the replacement for one of MLX's transforms."""
    original = callee.original
    match callee.attribute:
        case "grad" | "value_and_grad":
            return _maker(original, Differentiated)
        case "vmap":
            return _maker(original, opaque.Mapped)
        case "compile":
            return _maker(original, compiled.Compiled)
        case "checkpoint":
            return _maker(original, custom.Checkpointed)
        case "vjp":
            return _vjp_wrapper(original)
        case "jvp":
            return opaque.jvp_wrapper(original)
    return None


def _maker(original: Callable[..., Any], cls: type[opaque.Transform]) -> Callable[..., Any]:
    @functools.wraps(original, assigned=("__name__", "__doc__", "__module__"), updated=())
    def make(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return cls(original, fun, args, kwargs)

    return make


class Differentiated(opaque.Transform):
    """What `mx.value_and_grad(fun, ...)` and `mx.grad(fun, ...)` return while recording is on."""

    _made: list[Call] | None = None
    _own: Any = None
    _whose: tuple[Any, Any] | None = None
    _wanted: tuple[list[int], list[str]] | None = None

    def notice(self, levels: Levels, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        if levels.resting or levels.awaited:
            levels.wake()
            return self.call(levels.recorder, args, kwargs, frame)
        loss = loss_of if self.name == "value_and_grad" else None
        made, own = self._made, self._own
        if made is None or own is None or made[0].code is not own.__code__:  # `reload` changes it
            own, code = titles.own_function(self.fun), titles.code_of(self.fun)
            self._own = own if isinstance(own, FunctionType) else None
            self._whose = whose(self.fun)
            if made is None or made[0].code is not code:
                made = self._made = [Call(GRADIENT_PASS, titles.title(self.fun), code)]
        weights = Weights(self.fun, functools.partial(self._chosen, args, kwargs), self._whose)
        return levels.run(made, frame, self._natively(levels, args, kwargs), loss, weights)

    def _natively(self, levels: Levels, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """Return what makes a call natively."""
        # Asked when the call has begun: a run that is led forward knows only then what is computed in it.
        return lambda: levels.recorder.intake.differentiated(self)(*args, **kwargs)

    def call(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        if recorder.differentiating or recorder.inside is not None:
            return opaque.run_transform(recorder, self, args, kwargs, frame)
        levels = levels_of(recorder)
        if levels is not None:
            levels.wake()
            if levels.begins(frame):
                return self.notice(levels, args, kwargs, frame)
        numbers, names = self._arguments()
        if not self._acceptable(numbers, names, args, kwargs):
            return self.real(*args, **kwargs)  # MLX says what is wrong

        def body(call: GradientCall) -> Any:
            value, grads = self._differentiate(call, numbers, names, args, kwargs)
            return (value, grads) if self.name == "value_and_grad" else grads

        weights = Weights(self.fun, functools.partial(self._chosen, args, kwargs))
        run = None if levels is None else self._natively(levels, args, kwargs)
        return _recorded(GradientCall(recorder, self.fun, (args, kwargs), frame, body), weights, frame, run)

    def _chosen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Return what it is given of that by which it differentiates."""
        numbers, names = self._arguments()
        if numbers and not names and numbers[-1] < len(args):  # as mostly
            return list(map(args.__getitem__, numbers))
        given = [args[number] for number in numbers if number < len(args)]
        return [*given, *[kwargs[name] for name in names if name in kwargs]]

    def wanted(self) -> tuple[list[int], list[str]]:
        """By which arguments it differentiates."""
        return self._arguments()

    def _arguments(self) -> tuple[list[int], list[str]]:
        """`argnums` and `argnames` as lists; MLX has checked them when the transform was made."""
        if self._wanted is None:
            # As `validate_argnums_argnames` reads them (mlx/python/src/transforms.cpp).
            argnums, argnames = self.option(0, "argnums", None), self.option(1, "argnames", ())
            names = [argnames] if isinstance(argnames, str) else list(argnames)
            one = [0] if argnums is None and not names else []
            self._wanted = sorted([argnums] if isinstance(argnums, int) else argnums or one), names
        return self._wanted

    @staticmethod
    def _acceptable(numbers: list[int], names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if (numbers and numbers[-1] >= len(args)) or any(name not in kwargs for name in names):
            return False
        chosen = [args[number] for number in numbers] + [kwargs[name] for name in names]
        leaves = list(trees.leaves(chosen))
        return bool(leaves) and all(isinstance(leaf, mx.array) for leaf in leaves)

    def _differentiate(
        self,
        call: GradientCall,
        numbers: list[int],
        names: list[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, Any]:
        recorder, pass_ = call.recorder, call.pass_
        chosen = _Arguments(recorder, self.fun, numbers, names, args, kwargs)
        pass_.wrt, pass_.handed = tuple(chosen.wrt), tuple(chosen.others)
        result = chosen.run(self.fun)
        recorder.intake.enter(recorder)  # what was changed at the very end is what is differentiated
        root = self._root(result)
        loss = recorder.value_of(root, _getframe(1))
        pass_.loss = loss
        pass_.gives_loss = "" if self.name != "value_and_grad" else "first" if isinstance(result, tuple) else "alone"
        pass_.backward = len(recorder.tape)
        cotangent = construct(1.0, mx.float32)
        if root.shape != ():
            self._native_error(result)
        grads = take_gradients(recorder, pass_, [(loss, cotangent)], chosen.wrt)
        given = iter(grads)
        per_number = [trees.rebuild(args[number], lambda _: next(given)) for number in numbers]
        per_name = {name: trees.rebuild(kwargs[name], lambda _: next(given)) for name in kwargs if name in names}
        positional = None if not numbers else per_number[0] if len(numbers) == 1 else tuple(per_number)
        # New objects, as MLX puts its own results into what the function returned (`py_value_and_grad`): those that the
        # function made, and may have kept, are others.
        value = trees.rebuild(result, lambda array: recorder.handle(recorder.value_of(array, _getframe(1))))
        return value, (positional, per_name) if names else positional

    def _root(self, result: Any) -> mx.array:
        """Return the scalar that is differentiated: the result, or the first of a tuple."""
        if isinstance(result, mx.array):
            return result
        if self.name == "value_and_grad" and isinstance(result, tuple) and result and isinstance(result[0], mx.array):
            return result[0]
        self._native_error(result)
        raise AssertionError("MLX accepted what nnrepl did not")

    def _native_error(self, result: Any) -> None:
        """Let MLX raise its own error about what the function returned."""
        native(self.original(lambda _: result))(construct(0.0, mx.float32))


class _Arguments:
    """The arguments of a differentiated function with fresh arrays in them: leaves where a gradient is
    wanted, handles on the same values elsewhere."""

    def __init__(
        self,
        recorder: Recorder,
        fun: Callable[..., Any],
        numbers: Sequence[int],
        names: Sequence[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.recorder = recorder
        self.wrt: list[Value] = []
        self.others: list[Value] = []
        self.given: list[mx.array] = []
        self.fresh: list[mx.array] = []
        self.came: list[Value] = []
        self.entered: list[Value] = []
        parameters = titles.parameter_names(fun, args)
        positional = tuple(self._replace(arg, parameters[number], number in numbers) for number, arg in enumerate(args))
        self.tree: list[Any] = [
            positional,
            {name: self._replace(arg, name, name in names) for name, arg in kwargs.items()},
        ]

    def _replace(self, tree: Any, name: str, wanted: bool) -> Any:
        labels = iter([path for path, _ in trees.paths(tree)])
        # The first argument of nn.value_and_grad's inner function is the model's parameter tree: its paths
        # are the model's own, so they stand alone.
        prefix = "" if name == "params" else name

        def fresh(array: mx.array) -> mx.array:
            path = next(labels)
            label = ".".join(word for word in (prefix, path) if word)
            value = self.recorder.value_of(array, _getframe(0))
            twin = _copy(array)
            self.came.append(value)
            if wanted:
                value = self._leaf(twin, "parameter" if path else "input", label, value)
                self.wrt.append(value)
            else:
                self.recorder.link(twin, value)
                self.others.append(value)
                if value.op is not None:
                    self.recorder.tape.notes.labels.setdefault(value, label)
            self.entered.append(value)
            self.given.append(array)
            self.fresh.append(twin)
            return twin

        return trees.fill(tree, fresh)

    def _leaf(self, twin: mx.array, kind: str, label: str, origin: Value) -> Value:
        """Return the leaf for an argument."""
        recorder = self.recorder
        return recorder.intake.leaf(recorder, len(self.wrt), twin, kind, label, origin)

    def run(self, fun: Callable[..., Any]) -> Any:
        """Call the function; then the containers get back the arrays that they held, except where the
        function wrote something else."""
        result = invoke(fun, self.tree[0], self.tree[1])
        held = iter(range(len(self.fresh)))

        def restore(array: mx.array) -> mx.array:
            at = next(held, None)
            return array if at is None else self._left(at, array)

        trees.fill(self.tree, restore)
        return result

    def _left(self, at: int, array: mx.array) -> mx.array:
        """Return what lies after the call where an argument was, and where an array lies now."""
        given, live = self.given[at], self.recorder.live
        value = live.get(id(array))
        if array is self.fresh[at]:
            if not self._was_changed(at):
                return given
        elif value is not None and is_still(value, self.entered[at]):
            # An edit may have given the program's object to a name alone: then this is the one of all else.
            return given if live.get(id(given)) is self.came[at] else array
        # MLX casts what has been written there once more (`py_value_and_grad`): one more object for the same.
        return array if value is None else self.recorder.handle(value)

    def _was_changed(self, at: int) -> bool:
        """Whether the function changed an argument in place (`x += 1`)."""
        value = self.recorder.live.get(id(self.fresh[at]))
        if value is None or value.op is None:
            return False
        by_itself = value.op.operation.in_place and value.held is self.fresh[at]
        return by_itself or self.recorder.intake.edited_in_place(value)


def _recorded(call: GradientCall, weights: Weights, frame: FrameType, run: Callable[[], Any] | None) -> Any:
    """Make a gradient call while ops are recorded.

    Args:
        run: What would make it natively.
    """
    levels = levels_of(call.recorder)
    if levels is None:
        return make_call(call)
    levels.changes.unexpected(weights)
    calls = [Call(GRADIENT_PASS, titles.title(call.fun), titles.code_of(call.fun))]
    if run is not None:
        levels.comes(run, True, frame)
    with (levels.recorded if call.recorder.intake.opens else levels.noted)(calls, frame):
        result = make_call(call)
    levels.changes.hold(weights, call.pass_)
    return result


def _vjp_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original, assigned=("__name__", "__doc__", "__module__"), updated=())
    def vjp(fun: Callable[..., Any], primals: Any, cotangents: Any) -> Any:
        levels = noticing()
        if levels is not None and (levels.resting or levels.awaited):
            levels.wake()
        elif levels is not None:
            return _native_vjp(levels, original, fun, primals, cotangents, _getframe(1))
        recorder = ready()
        if recorder is None:
            aside.pass_on((primals, cotangents))
            return original(fun, primals, cotangents)
        frame = _getframe(1)
        if recorder.differentiating or recorder.inside is not None:
            return opaque.run_function(recorder, original, "vjp", fun, (primals, cotangents), frame)
        levels = levels_of(recorder)
        if levels is not None:
            levels.wake()
            if levels.begins(frame):
                return _native_vjp(levels, original, fun, primals, cotangents, frame)
        run = _native_call(original, fun, primals, cotangents)
        return _outermost_vjp(recorder, original, fun, list(primals), list(cotangents), frame, run)

    return vjp


def _native_vjp(
    levels: Levels,
    original: Callable[..., Any],
    fun: Callable[..., Any],
    primals: Any,
    cotangents: Any,
    frame: FrameType,
) -> Any:
    made = Call(GRADIENT_PASS, titles.title(fun), titles.code_of(fun))
    weights = Weights(fun, lambda: primals)
    return levels.run([made], frame, _native_call(original, fun, primals, cotangents), None, weights)


def _native_call(original: Callable[..., Any], fun: Callable[..., Any], primals: Any, cotangents: Any) -> Any:
    return lambda: original(fun, primals, cotangents)


def _outermost_vjp(
    recorder: Recorder,
    original: Callable[..., Any],
    fun: Callable[..., Any],
    primals: list[mx.array],
    cotangents: list[mx.array],
    frame: FrameType,
    run: Callable[[], Any],
) -> Any:
    def body(call: GradientCall) -> Any:
        pass_ = call.pass_
        chosen = _Arguments(recorder, fun, range(len(primals)), (), tuple(primals), {})
        pass_.wrt = tuple(chosen.wrt)
        result = chosen.run(fun)
        recorder.intake.enter(recorder)
        outputs = list(result) if isinstance(result, (list, tuple)) else [result]
        if not all(isinstance(output, mx.array) for output in outputs):
            return original(lambda *_: result, primals, cotangents)  # it raises: MLX says what is wrong
        pass_.backward = len(recorder.tape)
        values = [recorder.value_of(output, frame) for output in outputs]
        roots = []
        given = iter(cotangents)
        for value, output in zip(values, outputs):
            if value.op is not None and value.op.name == "stop_gradient":
                continue  # MLX leaves these out when it pairs outputs with cotangents
            cotangent = next(given, None)
            if cotangent is None or cotangent.shape != output.shape:
                return original(lambda *_: outputs, primals, cotangents)  # it raises: MLX says what is wrong
            roots.append((value, cotangent))
        pass_.loss, pass_.gives_loss = values[0] if values else None, ""
        grads = take_gradients(recorder, pass_, roots, chosen.wrt)
        return [recorder.handle(value) for value in values], grads

    made = GradientCall(recorder, fun, (primals, cotangents), frame, body)
    return _recorded(made, Weights(fun, lambda: primals), frame, run)
