"""Copies: the ops of one tape on another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nnrepl.record.rebuilt import exchange
from nnrepl.tape import SETUP_PASS, Activation, BackwardOp, Op, Pass

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


def copy_op(op: Op, pass_: Pass, position: int) -> Op:
    """Return the same op on another tape: it shares its values."""
    if isinstance(op, BackwardOp):
        twin: Op = BackwardOp(op.operation, op.args, op.kwargs, op.inputs, op.of)
    else:
        twin = Op(op.operation, op.args, op.kwargs, op.inputs)
    twin.outputs = op.outputs
    twin.scope, twin.lasti, twin.pass_, twin.position = op.scope, op.lasti, pass_, position
    pass_.tape.notes.carry_all(op, twin)
    return twin


def become(op: Op, old: Op) -> None:
    """Let an op be one of an old tape: a leaf that entered anew is, in its arguments too, the one of then."""
    now = {found: known for known, found in zip(old.inputs, op.inputs) if known is not found}
    if now:
        op.args, op.kwargs = exchange(op.args, now), exchange(op.kwargs, now)
    op.outputs, op.inputs = old.outputs, old.inputs


class ComingBy:
    """Where the program stands as it comes by a change: its names hold there what they did before it.

    Args:
        recorder: Records the run.
    """

    def __init__(self, recorder: Recorder) -> None:
        frames = recorder.stack.frames()
        if frames:  # there is none before the first line
            recorder.stand(frames[-1])
        here = recorder.stack.scope if frames else None
        self._path = [] if here is None else here.path()
        self._scopes: dict[Activation, Activation] = {}

    def scope_of(self, op: Op) -> Activation | None:
        """Return the call of a change's line, as made from this run's call of the function in which it was typed; as
        it is where no Python runs there: a compiled function is repeated."""
        scope = op.scope
        caller = None if scope is None else scope.parent
        if scope is None or caller is None:
            return scope
        old, path = caller.path(), self._path[: caller.depth + 1]
        if [one.code for one in old] != [one.code for one in path]:
            return scope
        if scope not in self._scopes:
            self._scopes[scope] = Activation(path[-1], scope.code, scope.lasti, None)
        return self._scopes[scope]


def reopened_pass(recorder: Recorder) -> Pass:
    """Return the pass before the one that begins: what is inserted at its end belongs to it."""
    passes = recorder.tape.passes
    if not passes:
        pass_ = recorder.open_pass(SETUP_PASS, "")
        recorder.close_pass()  # steps are counted up to the first open pass
        return pass_
    if passes[-1].tape is not recorder.tape:  # a pass of its own: the one of the old tape ends where it ended
        passes[-1] = replace(passes[-1], tape=recorder.tape)
    return passes[-1]
