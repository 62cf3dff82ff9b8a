"""Typed: what a line of Python at the prompt is, a look, an edit or the program's next cell; and how cells run.

This is the one place that decides. Where the program is over and the cursor stands after its last op, Python is the
program's next cell. Elsewhere an expression is a look and an assignment to a value of the tape an edit: in the past,
and in the middle of a call, where the program's next lines are written already.
"""

from __future__ import annotations

import builtins
import re

from nnrepl.record.native import levels_of
from nnrepl.replay.replay import Replay
from nnrepl.session import goals, natively
from nnrepl.session.errors import UserError
from nnrepl.session.hooks import CELL_DONE, CELL_FAILED
from nnrepl.session.parsed import Parsed
from nnrepl.session.standing import Standing
from nnrepl.session.stops import Hit
from nnrepl.tape import Tape, Value
from nnrepl.timeline.typed_cells import Cell

LOOK, EDIT, CELL = "look", "edit", "cell"
AT_HAND = ("mx", "nn", "optim")
"""Names that the prompt knows unless the program has others."""


def upcoming(session: Standing) -> int:
    """Return the number of the cell that Python typed here and now would be; 0 where it would be none."""
    program = session.debuggee
    return program.upcoming if program is not None and program.waits and at_last(session) else 0


def ended_here(session: Standing) -> bool:
    """Whether the cursor stands where the program has ended, with all that it has left in its variables: also where it
    was to run again since, and could not."""
    program = session.debuggee
    return program is not None and (program.waits or program.before is not None) and at_last(session)


def below_cells(session: Standing) -> bool:
    """Whether the cursor stands below cells of a timeline on which the program does not stand: what is typed comes
    after them, once it has run to its end there."""
    current = session.edits.timelines.current
    return bool(session.running and current.ended and current.starts and at_last(session) and not upcoming(session))


def at_last(session: Standing) -> bool:
    """Whether the cursor stands after the last op, or at one that raised and was the last."""
    left = session.tape.ops[session.cursor :]
    return not left or (len(left) == 1 and left[0] in session.tape.notes.errors)


def nothing_takes(session: Standing, name: str, value: Value) -> str:
    """Why a tensor that no variable of the program's holds cannot be changed at its end, and what to type instead."""
    held = session.expressions.found.get(name)
    why = f"{name} was a variable of a call that has returned, and the program has ended"
    if held is None or not held.address:
        why = f"the program has ended, and nothing of it takes {name} any more"
    owner = next(iter(session.names.owners(name)), None)
    spelled = owner if owner is None or isinstance(owner, str) else session.names.homes.spelled(owner)
    if spelled is not None:
        line = re.sub(r"\.(\d+)", r"[\1]", spelled)
        return f"{why}; as its next line, {line} = ... changes the model"
    if value.op is None:
        return f"{why}; goto leads to an op before which it can be changed"
    return f"{why}: goto {value.op.label} leads to where it is made; change it there"


def kind_of(session: Standing, parsed: Parsed) -> str:
    """Return what Python typed here and now is: LOOK, EDIT or CELL.

    At the end of the program, what only the tape knows is looked at and edited as elsewhere: `#12`, `grad(z1)`, the
    local variables of calls that are over.
    """
    elsewhere = LOOK if parsed.assignment is None else EDIT
    if not parsed.is_plain or not upcoming(session):
        return elsewhere
    if not parsed.body:
        return LOOK
    strangers = parsed.read - _known(session) - parsed.bound
    return elsewhere if strangers and all(on_tape(session, name) for name in strangers) else CELL


def _known(session: Standing) -> set[str]:
    """Return the names that the program itself knows at its end."""
    program = session.debuggee
    return {*AT_HAND, *vars(builtins), *(program.namespace if program is not None else ())}


def on_tape(session: Standing, name: str) -> bool:
    """Whether the tape knows a name, or the user has given it a meaning while looking around."""
    scope = session.where().scope
    return (
        name == "grad"
        or name in session.expressions.variables
        or bool(session.names.versions(name))
        or (name == "loss" and any(pass_.loss is not None for pass_ in session.tape.passes))
        or (name == "self" and scope is not None and scope.owner is not None)
    )


def only_defines(tape: Tape) -> bool:
    """Whether a program has done nothing but to define and to build: no op stands outside of a constructor."""
    return all(
        op.scope is not None and any(step.code.co_name == "__init__" for step in op.scope.path()) for op in tape.ops
    )


# -- running cells -----------------------------------------------------------------------------------------------


def run_cell(session: Standing, text: str, stop: bool = False) -> None:
    """Let the program go on with what was typed: it runs once the user gives the floor back.

    Args:
        stop: Whether to stop before its first op.

    Raises:
        SyntaxError: If it is no Python; then nothing has happened.
        UserError: If the program cannot take it here.
        RunAgain: Unwinds, where another timeline is looked at than the one on which the program stands.
    """
    program = session.debuggee
    if program is None or not upcoming(session):
        raise UserError(_not_here(session))
    cell = program.make(text)
    session.edits.timelines.typed()
    append(session, (cell,), stop)


def _not_here(session: Standing) -> str:
    """Why the program cannot take a cell."""
    if session.debuggee is None:
        return "there is no program here that could go on with it"
    return "the program is not at its end here; goto end, or continue, leads there"


def append(session: Standing, cells: tuple[Cell, ...], stop: bool = False) -> None:
    """Let cells be the program's next lines."""
    changes = session.edits
    changes.timelines.current.cells.extend(cells)
    session.lookout.begin(len(session.tape))
    session.let_go(goals.At(len(session.tape), f"first op of prompt {cells[0].number}") if stop else goals.Never())


def cell_begins(session: Standing, fresh: bool, seen: bool) -> None:
    """Note that the program comes to a cell.

    Args:
        fresh: Whether it has never run before.
        seen: Whether the user has seen what it prints here.
    """
    assert session.running
    recorder = session.recorder
    levels = None if recorder is None else levels_of(recorder)
    if recorder is not None and isinstance(recorder.intake, Replay):
        recorder.intake.opening.close(recorder)
    if levels is not None and levels.native:
        levels.record_late()  # what the program did before it, after its last call, has not been recorded
    line = session.edits.timelines.live
    line.starts.append(len(session.tape))
    line.ended = True  # the program has, where cells that were typed before come right after it
    if fresh:
        along_done(session)
    if not seen:
        session.hooks.cell_begins()


def along_done(session: Standing, error: BaseException | None = None) -> None:
    """All that was on the tape before has been done again: what comes now is new.

    Args:
        error: What has ended the program.

    Raises:
        Diverged: If the program has come to its end before.
    """
    recorder = session.recorder
    if recorder is None or not isinstance(recorder.intake, Replay):
        return
    recorder.intake.ended(recorder, error)
    session.caught_up(len(session.tape))


def at_end(session: Standing, error: BaseException | None) -> tuple[goals.Goal | None, list[Hit]]:
    """Note that the program, or its last cell, has come to its end. Returns what it ran on for, and what is hit there.

    Args:
        error: What has ended it.

    Raises:
        Diverged: If the program has come to its end before, in a run along a tape.
    """
    again = session.replaying
    if session.recorder is not None:
        session.recorder.over()
    along_done(session, error)
    goal = session.course.end(len(session.tape))
    return goal, [] if again else session.lookout.ended()


def cell_ended(session: Standing, cell: Cell, error: BaseException | None) -> None:
    """Note that the last cell has run to its end, or raised: the user has the floor."""
    natively.look_at_end(session)
    goal, hits = at_end(session, error)
    missed = goals.missed(goal, session.tape)
    if natively.opened(session):
        session.give_floor()
        return
    failed = next((op.position for op in session.tape.ops[-1:] if session.tape.notes.errors.get(op) is error), None)
    if hits:
        session.hit(hits, missed or f"prompt {cell.number} has ended meanwhile")
    elif error is not None and failed is not None:
        session.arrive(failed, CELL_FAILED, error, missed=missed)
    else:
        session.arrive(len(session.tape), CELL_DONE, error, missed=missed)
    session.give_floor()
