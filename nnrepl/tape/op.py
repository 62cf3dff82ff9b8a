"""Op: one call of an MLX operation; Operation: what was called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.tape.face import Face
from nnrepl.tape.passes import RUN_PASS, SETUP_PASS
from nnrepl.tape.value import Value

if TYPE_CHECKING:
    from nnrepl.tape.origins import Activation, Source
    from nnrepl.tape.passes import Inside, Pass
    from nnrepl.tape.steps import Step
    from nnrepl.tape.tape import Tape

SETUP, FORWARD, BACKWARD, UPDATE = "setup", "forward", "backward", "update"
PHASES = (SETUP, FORWARD, BACKWARD, UPDATE)


@dataclass(frozen=True, eq=False, slots=True)
class Operation:
    """What an op calls: the MLX function in a form without side effects, and how people write it.

    Attributes:
        name: The field's name for it: `matmul`, `add`, `fast.rope`.
        run: The original MLX callable (or a functional form of an in-place one).
        spelling: How it stands in source: `mx.matmul`, `array.sum`, `+`.
        infix: The operator's sign where it has one.
        kind: "op"; "vjp" and "accumulate" in the backward pass; "edit"; "opaque" for a nested transform.
        in_place: Whether the program's own array object changed.
    """

    name: str
    run: Callable[..., Any]
    spelling: str
    infix: str | None = None
    kind: str = "op"
    in_place: bool = False


class DrawnKey:
    """The key that a random op drew from MLX's global state, kept as the (lazy) state before the draw.

    Attributes:
        serial: Since what the state was counted, and the number of the draw: equal for equal keys.
    """

    __slots__ = ("serial", "state")

    def __init__(self, state: mx.array, serial: tuple[object, int]) -> None:
        self.state = state
        self.serial = serial

    def key(self) -> mx.array:
        """Return the key itself: MLX splits the state and uses the second half (`PyKeySequence`,
        mlx/python/src/random.cpp)."""
        key: mx.array = _getitem(_split(self.state), 1)
        return key


_split, _getitem, _stream, _vmap = mx.random.split, mx.array.__getitem__, mx.stream, mx.vmap


def text_of(thing: object, say: Callable[[object], str] = str) -> str:
    """Return what a thing of the program says of itself; its class where it cannot, as a number of 5,000 digits or an
    object whose `__repr__` raises."""
    try:
        return say(thing)
    except Exception:  # whatever the program's own class raises
        return f"<{type(thing).__name__}>"


def fill(part: Any, lookup: Callable[[Value], mx.array]) -> Any:
    """Replace every `Value` in an argument (nested in lists, tuples, dicts, slices) by an array."""
    kind = type(part)
    if kind is Value or isinstance(part, Value):
        return lookup(part)
    if kind is list:
        return [fill(item, lookup) for item in part]
    if kind is tuple:
        return tuple([fill(item, lookup) for item in part])
    if kind is dict:
        return {key: fill(item, lookup) for key, item in part.items()}
    if kind is slice:
        return slice(fill(part.start, lookup), fill(part.stop, lookup), fill(part.step, lookup))
    if kind is DrawnKey:
        return part.key()
    return part


def _held(value: Value) -> mx.array:
    return value.array


def arrays_of(result: Any) -> list[mx.array]:
    """Return the arrays in what an MLX function returned, in order."""
    found: list[mx.array] = []
    _gather(result, found)
    return found


def _gather(part: Any, found: list[mx.array]) -> None:
    # No generators inside of each other: what `mx.eval` is given may be whole trees of parameters, at each step.
    if isinstance(part, mx.array):
        found.append(part)
    elif isinstance(part, (list, tuple, dict)):
        for item in part.values() if isinstance(part, dict) else part:
            if type(item) is mx.array:
                found.append(item)
            else:
                _gather(item, found)


class Op(Face):
    """One op of the tape.

    Attributes:
        position: Its place on the tape, counted from 0; people see `label`.
        operation: What was called.
        args, kwargs: With what, arrays replaced by Values.
        inputs: The Values among the arguments, in order (a value used twice appears twice).
        outputs: The Values it produced.
        scope: The call of a Python function in which it was made.
        lasti: The bytecode offset in that function, from which the exact source segment is found.
        pass_: The pass it belongs to.
        of: In the backward pass, the forward op that it differentiates.
        refusal: Why it cannot be computed again; "" where it can.
    """

    __slots__ = ("args", "inputs", "kwargs", "lasti", "operation", "outputs", "pass_", "position", "scope")

    outputs: tuple[Value, ...]
    pass_: Pass
    position: int
    scope: Activation | None
    lasti: int
    of: Op | None = None
    refusal: str = ""

    def __init__(
        self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: tuple[Value, ...]
    ) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.inputs = inputs
        self.outputs = ()

    @property
    def tape(self) -> Tape:
        """The tape it stands in."""
        return self.pass_.tape

    @property
    def index(self) -> int:
        """Its number within its step (or within the setup), counted from 1."""
        return self.position - self.step.start + 1

    @property
    def inner(self) -> bool:
        """Whether it lies inside of a call that MLX ran by itself, which has an op of its own."""
        return self.pass_.within is not None

    @property
    def step(self) -> Step:
        """The training step that it belongs to; number 0 is the setup."""
        return self.tape.steps.at(self.position)

    @property
    def label(self) -> str:
        """Its address: `#12` in the step in which the user stands, else `30#12` or `setup#3`."""
        return self.tape.label(self.position)

    @property
    def name(self) -> str:
        """The operation's name: `matmul`, `vjp of matmul`, `accumulate`."""
        return self.operation.name

    @property
    def phase(self) -> str:
        """ "setup", "forward", "backward" or "update"."""
        return self.pass_.phase_at(self.position)

    @property
    def outer_phase(self) -> str:
        """The phase of the program's own pass in which it lies, also inside of a call that MLX ran by itself."""
        return self.pass_.outermost.phase_at(self.position)

    @property
    def module(self) -> str:
        """The path of the module whose code made it (`layers.0.attention`), "" outside of modules."""
        return self.tape.names.module(self)

    @property
    def source(self) -> Source:
        """The file, line and exact segment that it came from."""
        return self.tape.names.source(self)

    def called(self, value: Value) -> str:
        """Return what one of its operands is called where it takes it."""
        return self.tape.names.name_at(value, self)

    @property
    def error(self) -> BaseException | None:
        """The exception that the operation raised, None if it succeeded."""
        return self.tape.notes.errors.get(self)

    @property
    def root(self) -> Op:
        """The forward op that a backward op belongs to; for a forward op, itself."""
        return self.of or self.tape.notes.belonging.get(self, self)

    def compute(self, lookup: Callable[[Value], mx.array] = _held) -> list[mx.array]:
        """Call the operation again on the arrays that `lookup` gives for its inputs; lazy, and without side
        effects on the tape. Inside of a `vmap` that is done for all samples. Returns the outputs in order."""
        mapped = self.pass_.tape.notes.mapped
        return self.once(lookup) if self not in mapped else _for_all(self, mapped[self], lookup)

    def once(self, lookup: Callable[[Value], mx.array]) -> list[mx.array]:
        """Return the same, for one sample of each `vmap` around it."""
        args = [lookup(arg) if type(arg) is Value else fill(arg, lookup) for arg in self.args]
        kwargs = {key: fill(arg, lookup) for key, arg in self.kwargs.items()} if self.kwargs else self.kwargs
        streams = self.pass_.tape.notes.streams
        if self in streams:
            with _stream(streams[self]):
                result = self.operation.run(*args, **kwargs)
        else:
            result = self.operation.run(*args, **kwargs)
        return [result] if type(result) is mx.array else arrays_of(result)

    def __repr__(self) -> str:
        return f"<Op {self.label} {self.name}>"


def _for_all(op: Op, levels: Sequence[Inside], lookup: Callable[[Value], mx.array]) -> list[mx.array]:
    """Compute an op for all samples of the `vmap`s in which it lies, of which the outermost comes first."""
    if not levels:
        return op.once(lookup)
    level, *inner = levels
    batched = [value for value in dict.fromkeys(op.inputs) if value in level.axes]

    def sample(*arrays: mx.array) -> list[mx.array]:
        now = dict(zip(batched, arrays))
        return _for_all(op, inner, lambda value: now[value] if value in now else lookup(value))

    axes = tuple([level.axes[value] for value in batched])
    results: list[mx.array] = _vmap(sample, in_axes=axes)(*map(lookup, batched))
    return results


class ClosedOp(Op):
    """A call of which only is known that it was made: MLX ran it by itself. It becomes the ops that lie in it when
    somebody looks into its step.

    Attributes:
        kind: The kind of its pass: "gradient", "update", or "run" for a stretch of the program: all that it does from
            an evaluation on, up to the next call that is seen; of its setup, "setup".
        title: What was called: the name of the loss function, the optimizer.
    """

    __slots__ = ()

    refusal = "it is closed"

    def __init__(self, kind: str, title: str, pass_: Pass) -> None:
        self.operation = _closed_operation(kind, title)
        self.args = self.inputs = self.outputs = ()
        self.kwargs = _NOTHING
        self.pass_, self.position = pass_, pass_.start
        self.scope, self.lasti = pass_.scope, pass_.lasti

    @property
    def is_stretch(self) -> bool:
        """Whether it is no call but a stretch of the program."""
        return self.pass_.kind in (RUN_PASS, SETUP_PASS)

    def compute(self, lookup: Callable[[Value], mx.array] = _held) -> list[mx.array]:
        """Raise LookupError: it cannot be computed again from what the tape holds."""
        raise LookupError(f"{self.label} is closed: goto {self.step.title} opens it")


_NOTHING: dict[str, Any] = {}


@lru_cache(1024)
def _closed_operation(kind: str, title: str) -> Operation:
    name = {"gradient": "gradient call", "run": "stretch", "setup": "stretch"}.get(kind, kind)

    def run(*args: Any) -> Any:
        raise LookupError(f"the {name} is closed")

    return Operation(name, run, title, kind="closed")


class BackwardOp(Op):
    """An op of the backward pass, tied to its forward op."""

    __slots__ = ("of",)

    def __init__(
        self,
        operation: Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: tuple[Value, ...],
        of: Op | None,
    ) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.inputs = inputs
        self.outputs = ()
        self.of = of
