"""What timelines share and what is a tape's own, and that what is known of an op goes with it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record.names import ProgramNames
from nnrepl.tape import KEPT, Notes, Op, Operation, Value

NOT_CARRIED = {
    "inside": "the places of the new op have not been looked at",
    "awaited": "a program waits for a result at one moment only, and in a run again at none",
    "unlinked": "it is found anew when a backward pass begins",
}
"""The notes about ops that do not go with an op that is made again, and why."""


def an_op() -> Op:
    op = Op(Operation("add", "mx.add", mx.add), (), {}, ())
    op.outputs = (Value(op, 0, mx.zeros((2,))),)
    op.position = 0
    return op


def about_ops() -> list[str]:
    """The notes that are about ops, as their types say."""
    return [field.name for field in fields(Notes) if str(field.type).startswith(("dict[Op", "set[Op"))]


def noted(notes: Notes, op: Op, root: Op) -> None:
    for name in about_ops():
        table: Any = getattr(notes, name)
        if isinstance(table, dict):
            table[op] = root if name == "belonging" else root.outputs[0]
        else:
            table.add(op)


def mutable(thing: Any) -> bool:
    """Whether two tapes that share it would share what is done to it; the notes and names are meant to be."""
    return not isinstance(thing, (int, Notes, ProgramNames))


def test_a_fork_shares_the_notes_and_nothing_else() -> None:
    trace = nnrepl.trace(lambda x: mx.exp(x) * 2, mx.ones((2,)))
    old = trace.tape
    for new in (ProgramNames(old, 1).tape, old.apart(old.names)):
        assert new.notes is old.notes
        assert [name for name in vars(new) if vars(new)[name] is vars(old)[name] and mutable(vars(old)[name])] == []
    assert ProgramNames().tape.notes is not old.notes


def test_names_and_their_tape_know_each_other() -> None:
    names = ProgramNames()
    assert names.tape.names is names
    twin = ProgramNames(names.tape)
    assert twin.tape.names is twin
    assert twin.tape is not names.tape


@pytest.mark.parametrize("name", about_ops())
def test_what_is_known_of_an_op_goes_with_it(name: str) -> None:
    """A note that is added to the class is carried, or stands above with the reason why not."""
    notes, old, new, root, other = Notes(), an_op(), an_op(), an_op(), an_op()
    noted(notes, old, root)
    notes.carry_all(old, new, {root: other, root.outputs[0]: other.outputs[0]})
    table = getattr(notes, name)
    assert (new in table) == (name not in NOT_CARRIED)
    if name in ("edits", "belonging"):
        assert table[new] is (other if name == "belonging" else other.outputs[0])


@pytest.mark.parametrize("name", about_ops())
def test_nothing_comes_from_an_op_of_which_nothing_is_known(name: str) -> None:
    notes, new = Notes(), an_op()
    notes.carry_all(an_op(), new)
    assert new not in getattr(notes, name)


def test_what_a_file_keeps_is_a_note() -> None:
    assert set(KEPT) <= set(about_ops())


def test_an_op_that_belongs_to_one_of_another_tape_is_not_kept() -> None:
    notes, here, elsewhere = Notes(), an_op(), an_op()
    notes.belonging[here] = elsewhere
    assert dict(notes.rows([here]))["belonging"] == []
    notes.belonging[here] = here
    assert dict(notes.rows([here]))["belonging"] == [(here, here)]


def test_values_that_are_let_go_of_share_what_is_known_of_their_shape() -> None:
    trace = nnrepl.trace(lambda x: (mx.tanh(x) + mx.exp(x)).sum(), mx.ones((5, 3)))
    values = [op.outputs[0] for op in trace.ops[:2]]
    for value in values:
        value.forget()
    first, second = (value.tape.notes.sketches[value] for value in values)
    assert first is second
    assert values[0].shape == (5, 3)
