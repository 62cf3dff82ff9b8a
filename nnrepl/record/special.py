"""Special: what of `mx.array` is caught in a way of its own: changes in place, construction, iteration, `.at`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.record import aside
from nnrepl.record.catalog import Callee
from nnrepl.record.data import Data, construct
from nnrepl.record.objects import deliver, hand_out
from nnrepl.record.recorder import RECORD, Recorder
from nnrepl.tape import Op, Operation, Value, arrays_of

_getframe = sys._getframe
_copy = mx.array.__copy__
_init = mx.array.__init__
_getitem = mx.array.__getitem__
_setitem = mx.array.__setitem__
_iter = mx.array.__iter__
_at = mx.array.__dict__["at"].fget
_split, _squeeze = mx.split, mx.squeeze
_ROWS_AT_ONCE = 10  # below this many rows MLX splits an array at once (`ArrayPythonIterator`, mlx/python/src/array.cpp)


def wrapper(recorder: Recorder, callee: Callee) -> Any:
    """Return the replacement for a callee whose treatment is "special"."""
    match callee.attribute:
        case "__init__":
            return _constructor(recorder)
        case "__setitem__":
            return _item_assignment(recorder)
        case "__iter__":
            return _iteration(recorder)
        case "at":
            return _at_property(recorder)
        case "load":
            return _loader(recorder, callee)
    return None


# -- changes in place ----------------------------------------------------------------------------------


def augmented(recorder: Recorder, operation: Operation) -> Callable[..., Any]:
    """`x += y` and its siblings: the Python object stays, the tape gets a new version."""
    original = operation.run

    def run(array: mx.array, other: Any) -> mx.array:
        # On a copy: what the tape holds must not change where the op is computed again.
        result: mx.array = original(_copy(array), other)
        return result

    recorded = Operation(operation.name, run, f"{operation.infix}=", infix=operation.infix, in_place=True)

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(array: mx.array, other: Any) -> Any:
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            aside.overwrite(recorder, array)
            return aside.call_aside(recorder, None, original, (array, other), {})
        return _change(recorder, recorded, original, (array, other), _getframe(1))

    return wrapper


def _item_assignment(recorder: Recorder) -> Callable[..., None]:
    """`x[i] = v`."""

    def run(array: mx.array, index: Any, update: Any) -> mx.array:
        array = _copy(array)
        _setitem(array, index, update)
        return array

    recorded = Operation("setitem", run, "[]=", in_place=True)

    @functools.wraps(_setitem, assigned=("__name__", "__doc__"), updated=())
    def wrapper(array: mx.array, index: Any, update: Any) -> None:
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            aside.overwrite(recorder, array)
            aside.call_aside(recorder, None, _setitem, (array, index, update), {})
        else:
            _change(recorder, recorded, _setitem, (array, index, update), _getframe(1))

    return wrapper


def _change(recorder: Recorder, operation: Operation, original: Any, args: tuple[Any, ...], frame: FrameType) -> Any:
    array = args[0]
    recorder.intake.enter(recorder)
    inputs = [recorder.change(array, frame)]
    template = [inputs[0], *(recorder.scan(arg, inputs, frame) for arg in args[1:])]
    op = Op(operation, tuple(template), {}, tuple(inputs))
    twin = recorder.intake.given(recorder, op, frame)
    try:
        # In a re-run as well: what it raises is MLX's own, and the object gets what the tape has below.
        result = original(*args)
    except Exception as error:
        recorder.fail(op, error, frame)
        raise
    if twin is not None:
        deliver(recorder, array, twin.outputs[0])
        recorder.watch.changed(array, inputs[0])
        return result
    if result is NotImplemented:  # Python asks the other operand next, and that is another op
        return result
    recorder.stand(frame)  # until here the array was what it was
    value = Value(op, 0, array)
    op.outputs = (value,)
    recorder.live[id(array)] = value
    recorder.put(op, frame)
    recorder.watch.changed(array, inputs[0])
    return result


# -- construction ----------------------------------------------------------------------------------------


def _give(*data: Data) -> list[mx.array]:
    return [_copy(part.array) for part in data]


_CONSTRUCT = Operation("array", construct, "mx.array")
_DATA = Operation("array", _give, "mx.array", kind="data")


def _constructor(recorder: Recorder) -> Callable[..., None]:
    """`mx.array(x)`: an op where arrays go in, data where numbers do."""

    def __init__(self: mx.array, *args: Any, **kwargs: Any) -> None:
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            aside.construct_aside(recorder, self, args, kwargs)
            return
        frame = _getframe(1)
        recorder.intake.enter(recorder)
        inputs: list[Value] = []
        given = (args, kwargs)
        template = recorder.scan(given, inputs, frame) if _may_hold_arrays(given) else None
        try:
            _init(self, *args, **kwargs)
        except Exception as error:
            if template is not None:
                recorder.fail(Op(_CONSTRUCT, template[0], template[1], tuple(inputs)), error, frame)
            raise
        if inputs and template is not None:
            op = Op(_CONSTRUCT, template[0], template[1], tuple(inputs))
        else:
            op = Op(_DATA, (Data(self),), {}, ())
        _arrived(recorder, op, self, frame)

    __init__.__doc__ = _init.__doc__
    return __init__


def _arrived(recorder: Recorder, op: Op, array: mx.array, frame: FrameType) -> None:
    """Note that an op has filled an array object of the program's."""
    twin = recorder.intake.given(recorder, op, frame)
    if twin is not None:
        deliver(recorder, array, twin.outputs[0])
    else:
        recorder.finish(op, array, frame)


def _may_hold_arrays(data: Any) -> bool:
    """Whether arrays may be inside: a long list of plain numbers is not searched to its end."""
    if isinstance(data, (list, tuple)):
        if set(map(type, data)) <= _NUMBERS:
            return False
        return any(map(_may_hold_arrays, data))
    if isinstance(data, dict):
        return any(map(_may_hold_arrays, data.values()))
    return isinstance(data, mx.array)


_NUMBERS = frozenset((int, float, bool, complex))


def _loader(recorder: Recorder, callee: Callee) -> Callable[..., Any]:
    """`mx.load(file)`: what it returns is data. The file may be gone when somebody asks for the numbers again."""
    original = callee.original
    operation = Operation("load", _give, callee.key, kind="data")

    @functools.wraps(original, assigned=("__name__", "__doc__", "__module__"), updated=())
    def load(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            return result
        frame, file = _getframe(1), args[0] if args else kwargs.get("file")
        recorder.tape.kept.loads(file)
        recorder.intake.enter(recorder)
        stamp = _stamp(file)
        op = Op(operation, tuple([Data(array, stamp) for array in arrays_of(result)]), {}, ())
        twin = recorder.intake.given(recorder, op, frame)
        if twin is not None:
            return hand_out(recorder, twin)
        recorder.finish(op, result, frame)
        return result

    return load


def _stamp(file: Any) -> Any:
    """Return what tells whether a file is the same one still; None where nothing does."""
    try:
        found = os.stat(file)
    except (OSError, TypeError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def unpickler(recorder: Recorder) -> Callable[..., None]:
    """`__setstate__`: an array out of a pickle is data."""
    original = mx.array.__setstate__

    def __setstate__(self: mx.array, state: Any) -> None:
        original(self, state)
        if recorder.mode == RECORD and get_ident() == recorder.thread:
            op = Op(_DATA, (Data(self),), {}, ())
            _arrived(recorder, op, self, _getframe(1))

    return __setstate__


def copier(recorder: Recorder, original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """`copy.copy(x)`: another Python object for the same value."""

    def copy(array: mx.array, *memo: Any) -> mx.array:
        twin = original(array, *memo)
        if recorder.mode == RECORD and get_ident() == recorder.thread:
            recorder.link(twin, recorder.value_of(array, _getframe(1)))
        else:
            aside.pass_on(array)
        return twin

    return copy


# -- iteration, .at ----------------------------------------------------------------------------------------


def _kept(recorder: Recorder, operation: Operation, args: tuple[Any, ...]) -> mx.array:
    """Call what an object stands for that was made while ops were recorded: by now they may not be (the program runs
    natively, or MLX traces a function)."""
    if recorder.mode != RECORD or get_ident() != recorder.thread:
        result: mx.array = aside.call_aside(recorder, operation, operation.run, args, {})
    else:
        result = recorder.call(operation, args, {}, _getframe(3))
    return result


class RowIterator:
    """What `iter(x)` gives while recording: the rows of an array, each one an op."""

    def __init__(self, rows: Callable[[int], mx.array], count: int) -> None:
        self._rows = rows
        self._count = count
        self._next = 0

    def __iter__(self) -> RowIterator:
        return self

    def __next__(self) -> mx.array:
        if self._next >= self._count:
            raise StopIteration
        self._next += 1
        return self._rows(self._next - 1)


def _iteration(recorder: Recorder) -> Callable[[mx.array], Any]:
    split = Operation("split", _split, "iter")
    squeeze = Operation("squeeze", _squeeze, "next")
    getitem = Operation("getitem", _getitem, "next")

    @functools.wraps(_iter, assigned=("__name__", "__doc__"), updated=())
    def __iter__(array: mx.array) -> Any:
        rows = _iter(array)
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            aside.pass_on(array)
            return rows
        count = array.shape[0]
        if 0 < count < _ROWS_AT_ONCE:
            parts = recorder.call(split, (array, count), {}, _getframe(1))
            return RowIterator(lambda k: _kept(recorder, squeeze, (parts[k], 0)), count)
        # The rows are those of now, also where the loop changes the array (`ArrayPythonIterator`,
        # mlx/python/src/array.cpp).
        twin = _copy(array)
        recorder.link(twin, recorder.value_of(array, _getframe(1)))
        return RowIterator(lambda k: _kept(recorder, getitem, (twin, k)), count)

    return __iter__


class AtIndex:
    """What `x.at` gives while recording: remembers the array and the indices until the update comes."""

    def __init__(self, recorder: Recorder, array: mx.array) -> None:
        self._recorder = recorder
        self._array = array
        self._index: tuple[Any, ...] = ()

    def __getitem__(self, index: Any) -> AtIndex:
        self._index = (index,)
        return self

    def _update(self, how: str, value: Any) -> mx.array:
        if not self._index:
            raise ValueError("Must give indices to array.at (e.g. `x.at[0].add(4)`).")
        return _kept(self._recorder, _AT_OPERATIONS[how], (self._array, self._index[0], value))

    def add(self, value: Any) -> mx.array:
        return self._update("add", value)

    def subtract(self, value: Any) -> mx.array:
        return self._update("subtract", value)

    def multiply(self, value: Any) -> mx.array:
        return self._update("multiply", value)

    def divide(self, value: Any) -> mx.array:
        return self._update("divide", value)

    def maximum(self, value: Any) -> mx.array:
        return self._update("maximum", value)

    def minimum(self, value: Any) -> mx.array:
        return self._update("minimum", value)


def _at_operation(how: str) -> Operation:
    def run(array: mx.array, index: Any, value: Any) -> mx.array:
        result: mx.array = getattr(_at(array)[index], how)(value)
        return result

    return Operation(f"at.{how}", run, f".at[].{how}")


_AT_OPERATIONS = {how: _at_operation(how) for how in ("add", "subtract", "multiply", "divide", "maximum", "minimum")}


def _at_property(recorder: Recorder) -> property:
    def at(array: mx.array) -> Any:
        if recorder.mode != RECORD or get_ident() != recorder.thread:
            aside.pass_on(array)
            return _at(array)
        twin = _copy(array)
        recorder.link(twin, recorder.value_of(array, _getframe(1)))
        return AtIndex(recorder, twin)

    return property(at, doc=mx.array.__dict__["at"].__doc__)


# -- randomness, streams -----------------------------------------------------------------------------------


def draw(
    recorder: Recorder,
    operation: Operation,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    position: int,
    frame: FrameType,
) -> Any:
    """Return a random op that draws its key from the global state: the tape keeps the key it will draw."""
    recorder.intake.enter(recorder)
    key = recorder.drawn()
    given = {name: part for name, part in kwargs.items() if name != "key"}
    inputs: list[Value] = []
    template = [recorder.scan(arg, inputs, frame) for arg in args]
    names: dict[str, Any] = {name: recorder.scan(arg, inputs, frame) for name, arg in given.items()}
    if len(template) > position:
        template[position] = key
    else:
        names["key"] = key
    op = Op(operation, tuple(template), names, tuple(inputs))
    twin = recorder.intake.given(recorder, op, frame)
    try:
        result = operation.run(*args, **kwargs)  # in a re-run as well: this moves the random state on
    except Exception as error:
        recorder.fail(op, error, frame)
        raise
    if twin is not None:
        return hand_out(recorder, twin)
    recorder.finish(op, result, frame)
    return result


class _StreamContext:
    """`with mx.stream(s)`: MLX's own context, and the recorder knows that it is open."""

    def __init__(self, recorder: Recorder, target: Any, context: Any) -> None:
        self._recorder = recorder
        self._target = target
        self._context = context
        self._before: Any = None

    def __enter__(self) -> Any:
        entered = self._context.__enter__()
        self._before, self._recorder.stream = self._recorder.stream, self._target
        return entered

    def __exit__(self, *exception: Any) -> Any:
        self._recorder.stream = self._before
        return self._context.__exit__(*exception)


def stream(recorder: Recorder, callee: Callee) -> Callable[..., Any]:
    """Follow where ops run, so that their VJPs run there too."""
    original = callee.original

    @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
    def wrapper(target: Any) -> Any:
        result = original(target)
        if get_ident() != recorder.thread or recorder.mode != RECORD:
            return result
        if callee.attribute == "stream":
            return _StreamContext(recorder, target, result)
        recorder.stream = target
        return result

    return wrapper
