"""Forced: what the program evaluates inside of a gradient call, and MLX's gradient does not reach any more.

The results of a nested transform (`grad`, `vjp`, `jvp`) bear no mark of the outer one. Where the program evaluates
them (`.item()`, a `print`), MLX lets go of their graph, and with it of the gradients that would have passed through:
mathematically they are wrong then, but they are what MLX gives to the program.
Source: `array::is_tracer` and `eval_impl` in mlx/array.cpp and mlx/transforms.cpp.
"""

from __future__ import annotations

from nnrepl.tape import Pass, Tape, Value


def note_forced(tape: Tape, part: Pass) -> None:
    """Note of the results of a pass's nested transforms which the program has evaluated, with what it read of them."""
    if not any(op.operation.kind == "opaque" for op in tape.ops[part.start :]):
        return
    pending: list[Value] = []
    for mark in reversed(tape.marks):
        if mark.position < part.start:
            break
        pending.extend(mark.values)
    seen: set[Value] = set()
    while pending:
        value = pending.pop()
        op = value.op
        if value in seen or op is None or op.position < part.start:
            continue
        seen.add(value)
        if op.operation.kind == "opaque":
            tape.notes.forced.add(value)
        pending.extend(op.inputs)
