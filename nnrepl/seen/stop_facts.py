"""Stop: what there is to show where the user gets the floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.explain.doing import Doing, doing
from nnrepl.explain.in_place import Piece, in_place, with_numbers
from nnrepl.seen.entries import Met, met
from nnrepl.session.hooks import Stop
from nnrepl.session.reading import Reading
from nnrepl.session.typed import only_defines
from nnrepl.tape import Op, Value
from nnrepl.timeline.moves import is_dull


@dataclass(frozen=True, slots=True)
class Ahead:
    """The op that comes next.

    Attributes:
        op: The op.
        doing: What it does.
        skip: The modules whose lines are not the program's own.
        amount: How much of it is to be shown (`config stop`): "full", "values", "formula" or "short".
        values: Its statement with the values in the place of the names, if that is to be shown.
    """

    op: Op
    doing: Doing
    skip: Sequence[str]
    amount: str
    values: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningProgram:
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
        here: The op that comes next; None after the last one.
        dull: The ops that were gone over because they only arrange numbers.
        hits: Breakpoints, watches and catches that were hit.
        empty: Whether nothing has been recorded.
        program: The program, where there is one that takes what is typed.
    """

    stop: Stop
    results: list[Value]
    here: Ahead | None
    dull: tuple[Op, ...]
    hits: list[Met]
    empty: bool
    program: RunningProgram | None


def scene(session: Reading, stop: Stop) -> Scene:
    """Return what there is to show of a stop."""
    program, op = session.debuggee, session.op
    results, last = _results(session, stop), stop.passed[-1] if stop.passed else None
    here = None if op is None else ahead(session, op, last)
    boxed = [] if here is None else [piece.value for piece in here.values if piece.is_fresh and piece.is_number]
    return Scene(
        stop,
        [] if results and all(value in boxed for value in results) else results,
        here,
        tuple(op for op in stop.passed if is_dull(op)) if len(stop.passed) > 1 else (),
        met(session, stop),
        not session.tape.ops,
        None if program is None else RunningProgram(program.namespace, program.bare, only_defines(session.tape)),
    )


def ahead(session: Reading, op: Op, last: Op | None = None) -> Ahead:
    """Return what there is to show of an op at which one stands, where `last` was gone over last."""
    amount = str(session.settings["stop"])
    values = values_at(session, op, last) if amount == "values" and not session.predicting else ()
    return Ahead(op, doing(session, op, numbers=amount in ("full", "values")), session.skip, amount, values)


def values_at(session: Reading, op: Op, last: Op | None = None, shapes: bool = False) -> tuple[Piece, ...]:
    """Return the statement of an op with the values in the place of the names, where `last` was gone over last.

    Args:
        shapes: Whether that is wanted where it has no numbers, but only shapes.
    """
    pieces = with_numbers(session, in_place(session, op, session.skip, last))
    return pieces if shapes or any(piece.is_number for piece in pieces) else ()


def _results(session: Reading, stop: Stop) -> list[Value]:
    """Return what the last op that was gone over made, where it is small."""
    for op in stop.passed[-1:]:
        values = [value for value in op.outputs if value.held is not None]
        if values and session.small(values):
            session.evaluate(values)
            return values[:4]
    return []
