"""Stop: what there is to show where the user gets the floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnrepl.explain.doing import Doing, doing
from nnrepl.seen.entries import Met, met
from nnrepl.session.hooks import Stop
from nnrepl.session.reading import Reading
from nnrepl.session.typed import only_defines
from nnrepl.tape import Op, Value


@dataclass(frozen=True, slots=True)
class Ahead:
    """The op that comes next.

    Attributes:
        op: The op.
        doing: What it does.
        skip: The modules whose lines are not the program's own.
        amount: How much of it is to be shown (`config stop`): "full", "formula" or "short".
    """

    op: Op
    doing: Doing
    skip: Sequence[str]
    amount: str


@dataclass(frozen=True, slots=True)
class Program:
    """A program that takes what is typed.

    Attributes:
        namespace: The variables of its `__main__`.
        bare: Whether it has no line but those that are typed.
        only_defines: Whether it has done nothing but to define and to build.
    """

    namespace: dict[str, Any]
    bare: bool
    only_defines: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """A stop.

    Attributes:
        stop: Why the user has the floor.
        results: What the op that was just gone over made, where it is small; computed.
        here: The op that comes next; None behind the last one.
        hits: Breakpoints, watches and catches that were hit.
        empty: Whether nothing has been recorded.
        program: The program, where there is one that takes what is typed.
    """

    stop: Stop
    results: list[Value]
    here: Ahead | None
    hits: list[Met]
    empty: bool
    program: Program | None


def scene(session: Reading, stop: Stop) -> Scene:
    """What there is to show of a stop."""
    program, op = session.debuggee, session.op
    return Scene(
        stop,
        _results(session, stop),
        None if op is None else ahead(session, op),
        met(session, stop),
        not session.tape.ops,
        None if program is None else Program(program.namespace, program.bare, only_defines(session.tape)),
    )


def ahead(session: Reading, op: Op) -> Ahead:
    """What there is to show of an op at which one stands."""
    amount = str(session.settings["stop"])
    return Ahead(op, doing(session, op, numbers=amount == "full"), session.skip, amount)


def _results(session: Reading, stop: Stop) -> list[Value]:
    """What the last op that was gone over made, where it is small."""
    for op in stop.passed[-1:]:
        values = [value for value in op.outputs if value.held is not None]
        if values and session.small(values):
            session.evaluate(values)
            return values[:4]
    return []
