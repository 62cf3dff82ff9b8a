"""Value: one tensor in the tape, at one version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from nnrepl.tape.op import Op
    from nnrepl.tape.tape import Tape

_buffer_size = mx.get_array_buffer_size

LEAF_KINDS = ("parameter", "input", "constant", "captured", "seed", "thread", "hole")


def is_evaluated(array: mx.array) -> bool:
    """Whether `array` has its numbers already. Asking forces nothing."""
    try:
        _buffer_size(array)
    except ValueError:
        return False
    return True


class Value:
    """One tensor in the tape, at one version; made by an op, or a leaf (parameter, input, constant).

    Attributes:
        tape: The tape that this value belongs to.
        op: The op that produced it; None for a leaf.
        slot: Which output of `op` it is.
        kind: "" for the result of an op, otherwise one of `LEAF_KINDS`.
        label: The path or the argument name that a leaf came in by.
        origin: The older value that a leaf continues (the parameter before the pass), or None.
        alias: The value that this one is in MLX's own graph, where the op turned out to do nothing
            (a reshape to the same shape); known once gradients were taken, else None.
        gradient_of: The forward value of which this is a gradient, or None.
        held: The `mx.array` itself, None when it was dropped or not built yet. Use `array`.
    """

    __slots__ = (
        "__weakref__",
        "_dtype",
        "_shape",
        "alias",
        "gradient_of",
        "held",
        "kind",
        "label",
        "op",
        "origin",
        "slot",
        "tape",
    )

    tape: Tape
    op: Op | None
    slot: int
    kind: str
    label: str | None
    origin: Value | None
    alias: Value | None
    gradient_of: Value | None
    held: mx.array | None
    _shape: tuple[int, ...]
    _dtype: mx.Dtype

    def __init__(self, tape: Tape, op: Op | None, slot: int, held: mx.array | None, kind: str = "") -> None:
        self.tape = tape
        self.op = op
        self.slot = slot
        self.held = held
        self.kind = kind
        self.label = None
        self.origin = None
        self.alias = None
        self.gradient_of = None

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
        return self._shape if self.held is None else self.held.shape

    @property
    def dtype(self) -> mx.Dtype:
        """Its dtype, known without evaluating anything."""
        return self._dtype if self.held is None else self.held.dtype

    @property
    def size(self) -> int:
        """The number of its elements."""
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
        return self.held is None

    @property
    def canonical(self) -> Value:
        """The value itself, or the one that it is an alias of."""
        value = self
        while value.alias is not None:
            value = value.alias
        return value

    @property
    def name(self) -> str:
        """The name a person would use: a path, an assignment target, or `#n` for an unnamed result."""
        return self.tape.names.name(self)

    @property
    def consumers(self) -> tuple[Op, ...]:
        """The ops that take this value as an input, in order of execution."""
        return self.tape.consumers(self)

    def forget(self) -> None:
        """Let go of the array and keep its shape and dtype; the op can make it again."""
        if self.held is not None:
            self._shape, self._dtype = self.held.shape, self.held.dtype
            self.held = None

    def describe_later(self, shape: tuple[int, ...], dtype: mx.Dtype) -> None:
        """Say what the array will look like when it has not been built yet."""
        self._shape, self._dtype = shape, dtype

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("mlx.core.")
        return f"<Value {self.name} {self.shape} {dtype}>"
