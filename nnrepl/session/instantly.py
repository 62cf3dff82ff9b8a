"""Instantly: a change that is made where the program waits, because it cannot run again for it: under `set_trace`, or
where what was recorded is over. It stands on the timeline, and is taken back and made again there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import mlx.core as mx

from nnrepl.record.names import ProgramNames
from nnrepl.record.native import levels_of
from nnrepl.record.recorder import RECORD, Recorder
from nnrepl.replay.divergence import CannotExchange
from nnrepl.replay.restart_point import KeptMoment
from nnrepl.replay.run import Run
from nnrepl.replay.world import World
from nnrepl.session.errors import UserError
from nnrepl.session.made_again import awaited_results, make_again, operands
from nnrepl.session.parsed import Parsed
from nnrepl.session.standing import Standing
from nnrepl.session.typed_lines import PromptLine, frames_of, running_frames
from nnrepl.tape import Activation, Op, Tape
from nnrepl.timeline.code import CodeChange

GoOn = Callable[[Run], tuple[Tape, ProgramNames]]


def at_once(session: Standing, line: Parsed, go_on: GoOn | None) -> tuple[CodeChange, Tape, ProgramNames, int]:
    """Do a line where the program waits, or where nothing runs any more. Returns the change that it is, and the tape on
    which the program goes on, and where the user then stands.

    Args:
        go_on: Lets the program go on, on a tape of its own; None where none runs.

    Raises:
        UserError: If it fails; then nothing has changed.
    """
    recorder = session.recorder if go_on is not None else None
    doing = PromptLine(line, dict(session.expressions.variables), "where it is done")
    if recorder is not None:
        _must_run(session, doing)
    last = session.tape.ops[-1] if recorder is not None and session.cursor == len(session.tape) - 1 else None
    results = [] if recorder is None else awaited_results(recorder, last)
    things = [*doing.things(_last(session)), *results]
    run = Run(session.tape, len(session.tape) - bool(results), (), session.cursor)
    old = None if recorder is None else (recorder.tape, recorder.pass_)
    before = _kept(recorder, things)
    if go_on is not None:
        tape, names = go_on(run)
    else:
        names = ProgramNames(run.old, run.position)
        tape = names.tape
    try:
        _do(session, doing, recorder, last, results)
    except CannotExchange as error:
        before()
        doing.take_back()
        if recorder is not None and old is not None:
            recorder.tape, recorder.pass_ = old
        raise UserError(f"{error}; nothing has changed") from None
    after = _kept(recorder, things)
    where = _after(session) if not results or last is None else f", before {last.label}{_begun(last, doing)}"
    said = f"done at once, where the program waits{where}; it cannot run again from here"
    if recorder is None:
        said = "done at once: nothing runs again here, and the prompt shows what was recorded"
    cursor = len(tape) - 1 if results else session.cursor
    return _change(doing, said, run.position, before, after), tape, names, cursor


def _change(
    doing: PromptLine, said: str, position: int, before: Callable[[], None], after: Callable[[], None]
) -> CodeChange:
    """Return a line that has been done as a change that can be taken back, and made again."""
    made = [True]

    def take(alive: bool) -> None:
        if not made:
            made.append(True)
            after()
            doing.take_again()

    def give_back(alive: bool) -> None:
        if made:
            made.clear()
            before()
            doing.take_back()

    return CodeChange(
        text=doing.text, said=(said,), position=position, entering=False, texts={}, left=(), early=False,
        prepare=lambda: None, take=take, give_back=give_back, at_once=True,
    )  # fmt: skip


def _begun(op: Op, doing: PromptLine) -> str:
    """Say which call has begun, with what it was given, where a line speaks of variables of its caller."""
    path = [] if op.scope is None else op.scope.path()
    for caller, call in zip(path[-2::-1], path[:0:-1]):
        if not doing.named.isdisjoint(caller.code.co_varnames):
            return f", after {call.code.co_name} was called"
        if not doing.named.isdisjoint(call.code.co_varnames):
            return ""
    return ""


def _after(session: Standing) -> str:
    op = session.tape.ops[-1] if session.tape.ops else None
    return "" if op is None else f", after {op.label}"


def _kept(recorder: Recorder | None, things: list[Any]) -> Callable[[], None]:
    """Return what puts some things back to what they are now."""
    return World(things).restore if recorder is None else KeptMoment(recorder, things).restore


def _last(session: Standing) -> Activation | None:
    """Return the call that made the last op."""
    return session.tape.ops[-1].scope if session.tape.ops else None


def _must_run(session: Standing, doing: PromptLine) -> None:
    """Raise UserError for a variable of a compiled function in a later call: MLX runs none of its lines again, so there
    is no frame of which a line could read or change it."""
    tape, scope = session.tape, _last(session)
    if scope is None or tape.ops[-1].of is not None or scope.code in [frame.f_code for frame in running_frames()]:
        return
    ran = {op.scope.code for start, end in tape.compiled for op in tape.ops[start:end] if op.scope is not None}
    own = [name for name in doing.named if name in scope.code.co_varnames]
    if own and scope.code in ran:
        raise UserError(
            f"{own[0]} is a variable of {scope.code.co_name}, which is compiled: this call repeats the ops of its "
            "first one, and none of its lines runs. Change it in the first call, or start the program by nnrepl FILE; "
            "nothing has changed"
        )


def _do(
    session: Standing, doing: PromptLine, recorder: Recorder | None, last: Op | None, results: list[mx.array]
) -> None:
    """Run the line. What it computes is recorded where a program runs, and the last op is made after it for whose
    results the program waits."""
    if recorder is None:
        scope = _last(session)
        outside = {} if scope is None else scope.path()[0].variables
        doing.run_over(session.expressions.held(doing.named, session.where()), outside)
        return
    frames = frames_of(_last(session)) or running_frames()
    listener, mode, recorder.listener, recorder.mode = recorder.listener, recorder.mode, None, RECORD
    try:
        levels = levels_of(recorder)
        with nullcontext() if levels is None else levels.awake():
            before = operands(recorder, last, doing.named) if results and last is not None else {}
            doing.run(recorder, frames)
            if results and last is not None:
                make_again(recorder, last, results, before, doing.named)
    finally:
        recorder.listener, recorder.mode = listener, mode
