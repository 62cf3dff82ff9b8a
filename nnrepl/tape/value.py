"""Value: one tensor in the tape, at one version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from nnrepl.tape.face import Face

if TYPE_CHECKING:
    from nnrepl.tape.op import Op
    from nnrepl.tape.origins import Bound
    from nnrepl.tape.passes import Inside
    from nnrepl.tape.tape import Tape

_buffer_size = mx.get_array_buffer_size

LEAF_KINDS = ("parameter", "input", "constant", "captured", "seed", "thread", "tracer", "hole")


def is_evaluated(array: mx.array) -> bool:
    """Whether `array` has its numbers already. Asking forces nothing."""
    if not array.size:
        return True  # it has none; CUDA gives it no buffer, and MLX asks one that is not there for its size
    try:
        _buffer_size(array)
    except ValueError:
        return False
    return True


Sketch = tuple[tuple[int, ...], mx.Dtype]
_SKETCHES: dict[Sketch, Sketch] = {}


def sketch_of(array: mx.array | Value) -> Sketch:
    """Return the shape and dtype of an array or a value: one object for all that are alike in that."""
    sketch = array.shape, array.dtype
    return _SKETCHES.setdefault(sketch, sketch)


class Value(Face):
    """One tensor in the tape, at one version: the result of an op, or a `Leaf`.

    A tape holds very many of these, so an object has only what every value needs; the rest (labels,
    aliases, the shapes of dropped arrays) lies in dictionaries of the tape.

    Attributes:
        op: The op that produced it; None for a leaf.
        slot: Which output of `op` it is.
        held: The `mx.array` itself, None when it was dropped or not built yet. Use `array`.
        bound: Which variables of the program's were given it; read by `Bindings.names_in`.
        refusal: Why its numbers cannot be had; "" where they are there or can be computed.
    """

    __slots__ = ("bound", "held", "op", "slot")

    bound: Bound | None
    refusal: str = ""
    kind = ""
    origin: Value | None = None
    gradient_of: Value | None = None
    tangent_of: Value | None = None

    def __init__(self, op: Op | None, slot: int, held: mx.array | None) -> None:
        self.op = op
        self.slot = slot
        self.held = held
        self.bound = None

    @property
    def tape(self) -> Tape:
        """The tape that this value belongs to."""
        assert self.op is not None
        return self.op.pass_.tape

    @property
    def label(self) -> str | None:
        """The path or the argument name that a value came in by."""
        return self.tape.notes.labels.get(self)

    @property
    def array(self) -> mx.array:
        """The tensor as a lazy `mx.array`; a dropped one is built again from its op (and stays lazy)."""
        held = self.held
        if held is None:
            held = self.tape.rebuild(self)
        return held

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, known without evaluating anything."""
        return self.tape.notes.sketches[self][0] if self.held is None else self.held.shape

    @property
    def dtype(self) -> mx.Dtype:
        """Its dtype, known without evaluating anything."""
        return self.tape.notes.sketches[self][1] if self.held is None else self.held.dtype

    @property
    def size(self) -> int:
        """The number of its elements."""
        if self.held is not None:
            return self.held.size
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def evaluated(self) -> bool:
        """Whether its numbers exist already; asking computes nothing."""
        return self.held is not None and is_evaluated(self.held)

    @property
    def dropped(self) -> bool:
        """Whether the tape has let go of the array; `array` brings it back by recomputing."""
        return self.held is None and self in self.tape.notes.dropped

    @property
    def canonical(self) -> Value:
        """The value that this one is in MLX's own graph: itself, or the input of an op that turned out to
        do nothing (a reshape to the same shape). Known once gradients were taken."""
        aliases = self.tape.notes.aliases
        value = self
        while value in aliases:
            value = aliases[value]
        return value

    @property
    def name(self) -> str:
        """The name a user would use: a path, an assignment target, or `#n` for an unnamed result."""
        return self.tape.names.name(self)

    @property
    def oldest(self) -> Value:
        """The first of the values that it continues: a parameter enters each pass as a leaf of its own."""
        value: Value = self
        while value.origin is not None:
            value = value.origin
        return value

    @property
    def consumers(self) -> tuple[Op, ...]:
        """The ops that take this value as an input, in order of execution."""
        return self.tape.consumers(self)

    @property
    def inside(self) -> Inside | None:
        """The call that MLX ran by itself in which it lies, the innermost; None if it lies in none."""
        if self.op is None:
            return self.tape.notes.entered.get(self)
        pass_ = self.op.pass_
        return None if pass_.within is None else pass_  # type: ignore[return-value]

    def forget(self) -> None:
        """Let go of the array and keep its shape and dtype; the op can make it again."""
        if self.held is not None:
            self.tape.notes.sketches[self] = sketch_of(self.held)
            self.tape.notes.dropped.add(self)
            self.held = None

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("mlx.core.")
        return f"<Value {self.name} {self.shape} {dtype}>"


class Leaf(Value):
    """A value that no op of the tape produced.

    Attributes:
        kind: One of `LEAF_KINDS`.
        origin: The older value that it continues (the parameter before the pass), or None.
        entered: At which position of the tape it came in: the op that takes it is one of the next.
    """

    __slots__ = ("_tape", "entered", "gradient_of", "kind", "origin")

    def __init__(self, tape: Tape, held: mx.array | None, kind: str, label: str | None, origin: Value | None) -> None:
        super().__init__(None, 0, held)
        self._tape = tape
        self.kind = kind
        self.origin = origin
        self.gradient_of: Value | None = None
        self.entered = len(tape.ops)
        if held is not None:
            tape.notes.leaves[id(held)] = self
        if label is not None:
            tape.notes.labels[self] = label

    @property
    def tape(self) -> Tape:
        """The tape that this value belongs to."""
        return self._tape

    @property
    def is_gone(self) -> bool:
        """Whether it went with a step that has been closed: nobody knows its numbers, nor its shape. (What variables
        held there and what was evaluated still speaks of it; who looks there opens the step.)"""
        return self.held is None and self not in self._tape.notes.sketches

    def come_over(self, tape: Tape) -> None:
        """Note that it lies on a tape now that takes the place of its own."""
        self._tape = tape


class Tracer(Leaf):
    """What a compiled function has left elsewhere than in what it gives: MLX can never evaluate it.

    Attributes:
        left_by: The function's name.
    """

    __slots__ = ("left_by",)

    def __init__(self, tape: Tape, held: mx.array, label: str | None, left_by: str) -> None:
        super().__init__(tape, held, "tracer", label, None)
        self.left_by = left_by

    @property
    def refusal(self) -> str:  # type: ignore[override]
        """Why its numbers cannot be had."""
        return (
            f"{self.name} is a tracer that {self.left_by} left there, so MLX cannot evaluate it; what a compiled "
            "function changes has to be among its outputs: mx.compile(f, inputs=state, outputs=state)"
        )


class Remnant(Leaf):
    """What stands for a value that was made in a step which has been closed since.

    Attributes:
        step: Its number.
    """

    __slots__ = ("step",)

    def __init__(self, tape: Tape, held: mx.array | None, label: str | None, step: int) -> None:
        super().__init__(tape, held, "captured", label, None)
        self.step = step

    @property
    def refusal(self) -> str:  # type: ignore[override]
        """Why its numbers cannot be had: no later op takes it, and there was no room for it."""
        if self.held is not None:
            return ""
        return f"it was made in step {self.step}, which is closed: goto step {self.step} opens it"


class Gradient(Value):
    """A result of the backward pass.

    Attributes:
        gradient_of: The forward value of which this is the gradient, or a part of it.
    """

    __slots__ = ("gradient_of",)

    def __init__(self, op: Op, slot: int, held: mx.array | None, gradient_of: Value) -> None:
        self.op = op
        self.slot = slot
        self.held = held
        self.bound = None
        self.gradient_of = gradient_of


class Tangent(Value):
    """A result of a `jvp`: how fast a value changes along the direction that the program gave.

    Attributes:
        tangent_of: The value.
    """

    __slots__ = ("tangent_of",)

    def __init__(self, op: Op, slot: int, held: mx.array | None, tangent_of: Value) -> None:
        super().__init__(op, slot, held)
        self.tangent_of = tangent_of
