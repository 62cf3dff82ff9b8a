"""Outside: numbers that leave MLX inside of a pass and come back as data: no gradient passes through numpy."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.look import Look
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Pass, Value
from nnrepl.tape.claims import Claim

_ENOUGH = 4  # so many different numbers are the same by chance hardly ever
_ROUND = 1024  # nor are fewer that are no whole numbers of 1024ths, where the program has read them in between
_NEAR = 64


@dataclass(frozen=True, slots=True)
class Detour:
    """A tensor whose numbers the program took out of MLX, and took in again.

    Attributes:
        value: The tensor.
        op: The op that took them in: its result has the same numbers, bit for bit.
    """

    value: Value
    op: Op

    @property
    def claim(self) -> Claim[str]:
        """What happens, as a sentence without its end; said only if the numbers are those very ones."""
        made = self.op

        def holds() -> bool:
            return bool(mx.array_equal(self.value.array, made.outputs[0].array).item())

        return Claim("finding: the very numbers", holds, lambda: (
            f"{made.label} {made.name} ({words.place(made.source)}) takes in as data the very numbers of "
            f"{words.name(self.value)}: they have left MLX in between (through numpy, or a list), and no gradient "
            "passes there"))  # fmt: skip


def detours(look: Look, pass_: Pass) -> Iterator[Detour]:
    """Each tensor of the forward part of a pass that left MLX and came back with the same numbers."""
    before: dict[tuple[int, ...], list[Value]] = {}
    for op in pass_.forward:
        if op.error is not None:
            continue
        if op.operation.kind == "data" and op.outputs and _counts(op.outputs[0]):
            near = before.get(op.outputs[0].shape, [])[-_NEAR:]
            found = next((value for value in reversed(near) if _is_same(look, value, op.outputs[0])), None)
            if found is not None:
                yield Detour(found, op)
            continue
        for value in op.outputs:
            if _counts(value):
                before.setdefault(value.shape, []).append(value)


def _counts(value: Value) -> bool:
    return value.size > 0 and is_inexact(value) and not value.refusal


def _is_same(look: Look, value: Value, data: Value) -> bool:
    look.see([value, data])
    a, b = value.array, data.array
    same, low, high = look.numbers([mx.array_equal(a, b), mx.min(b), mx.max(b)])
    if not same or data.size >= _ENOUGH:
        return bool(same) and low != high
    return bool((high * _ROUND) % 1) and _is_read(look, value, data)


def _is_read(look: Look, value: Value, data: Value) -> bool:
    """Whether the program has read a tensor before its numbers came in again: it has evaluated it, or has made it for
    no op."""
    end = -1 if data.op is None else data.op.position
    start = 0 if value.op is None else value.op.position
    tape = look.session.tape
    read = any(start < mark.position <= end and value in mark.values for mark in tape.marks)
    return read or not tape.consumers(value)
