"""Insides: what happened in calls that MLX ran by itself, in the file of a saved tape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnrepl.programs.standins import as_number, as_text, demand
from nnrepl.tape import Inside, Pass, Tape, Value

_LARGEST_AXIS = 64


def rows(tape: Tape, written: Callable[[Pass], dict[str, Any]], number: Callable[[Value], int]) -> list[dict[str, Any]]:
    """Return what is written of the calls on a tape, each before those within it.

    Args:
        written: Writes what is known of any pass.
        number: Gives the number of a value.
    """
    found: list[dict[str, Any]] = []
    places: dict[Pass, int] = {}
    calls = [(op, tape.notes.calls[op]) for op in tape.ops if op in tape.notes.calls]
    for op, inside in sorted(calls, key=lambda call: (call[0].position - len(call[1]), -call[0].position)):
        start = op.position - len(inside)
        row = written(inside)
        row["range"] = [start, op.position, start + inside.backward - inside.start]
        row["transform"], row["size"] = inside.transform, inside.size
        row["axes"] = [[number(value), axis] for value, axis in inside.axes.items()]
        row["results"] = [[number(value), slot] for value, slot in inside.results]
        row["leaves"] = [number(leaf) for leaf in inside.leaves]
        row["within"] = places.get(inside.within, -1) if inside.within is not None else -1
        places[inside] = len(found)
        found.append(row)
    return found


def read(
    tape: Tape, said: list[dict[str, Any]], fill: Callable[[Pass, dict[str, Any]], None], value: Callable[[Any], Value]
) -> None:
    """Put the calls of a file on its tape, whose passes are there.

    Args:
        fill: Reads what is known of any pass.
        value: Gives the value with a number.
    """
    found: list[Inside] = []
    for row in said:
        start, end, _ = row["range"]
        number = as_number(row["within"], len(found), -1)
        first, last = as_number(start, len(tape)), as_number(end, len(tape))
        demand(first < last)
        around: Pass = found[number] if number >= 0 else tape.ops[last].pass_
        demand(number < 0 or (found[number].start <= first and last < found[number].end))
        pass_ = Inside(tape, around.number, row["kind"], as_text(row["title"]), first)
        fill(pass_, row)
        pass_.within, pass_.transform = around, as_text(row["transform"])
        pass_.size = as_number(row["size"], 2**31)
        pass_.axes = {value(one): as_number(axis, _LARGEST_AXIS) for one, axis in row["axes"]}
        pass_.results = tuple([(value(one), as_number(slot, 2**31)) for one, slot in row["results"]])
        pass_.leaves = tuple([value(one) for one in row["leaves"]])
        for op in tape.ops[pass_.start : pass_.end]:
            op.pass_ = pass_
        tape.notes.calls[tape.ops[pass_.end]] = pass_
        tape.notes.entered.update(dict.fromkeys(pass_.leaves, pass_))
        found.append(pass_)
