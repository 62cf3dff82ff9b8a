"""Tails: where what is computed from a tensor ends, and does not go into the loss."""

from __future__ import annotations

from collections.abc import Iterable

from nnrepl.explain import words
from nnrepl.record import segments as sources
from nnrepl.tape import Op, Pass, Tape, Value
from nnrepl.tape.bindings import UNBOUND

_SHOWN = 3
_WAITS = ("mx.eval", "mx.async_eval")


def tails(pass_: Pass, reached: Iterable[Op], ends: Iterable[Op]) -> list[Op]:
    """Return the ops among `reached` whose results nothing in the forward part of a pass takes, the last one first;
    `ends` pass no gradient anyway."""
    known = {root.canonical for root, _ in pass_.roots} | {value.canonical for value in pass_.returned or ()}
    last = set(reached) - set(ends)
    return sorted((op for op in last if op.outputs and not any(_goes_on(pass_, value, known) for value in op.outputs)),
                  key=lambda op: -op.position)  # fmt: skip


def _goes_on(pass_: Pass, value: Value, known: set[Value]) -> bool:
    taken = any(pass_.start <= user.position < pass_.end and (user.pass_ is not pass_ or user.phase == "forward")
                for user in value.consumers)  # fmt: skip
    return taken or value.canonical in known


def told(tape: Tape, found: list[Op]) -> list[str]:
    """Return what becomes of the results of some tails, a sentence each without its end; those first that another
    tensor has taken the place of, or that left MLX as a number."""
    known = [_left(tape, op) or _replaced(tape, op) for op in found]
    rest = [f"nothing takes {_named(op)}" for op, text in zip(found, known) if not text]
    return [*filter(None, known), *rest][:_SHOWN]


def _named(op: Op) -> str:
    return words.made(op.outputs[0], op)


def _left(tape: Tape, op: Op) -> str:
    """Return that the program takes a result as a number, "" if it does not."""
    for mark in tape.marks:
        if mark.how in _WAITS or mark.scope is None or not any(value in op.outputs for value in mark.values):
            continue
        where = words.place(sources.locate(mark.scope.code, mark.lasti))
        return f"{_named(op)}, leaves MLX as a number ({mark.how}, {where}), through which no gradient passes"
    return ""


def _replaced(tape: Tape, op: Op) -> str:
    """Return what the variable that held a result holds next, "" if nothing else."""
    for value in op.outputs:
        for position, scope, variable in tape.bindings.naming(value):
            coming = tape.bindings.comes(scope, variable, position)
            if coming is None or coming[1] is UNBOUND or coming[1] is value:
                continue
            now = coming[1]
            if not isinstance(now, Value) or now.op is None:
                return f"nothing takes {_named(op)}: {variable} is given something else then"
            by = f"{now.op.label} {words.call(now.op)} ({words.spot(now.op)})"
            return f"nothing takes {_named(op)}: {variable} is the result of {by} then"
    return ""
