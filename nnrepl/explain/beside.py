"""Beside: a statement of the user's in the middle of a program, on a tape of its own that is stepped like any other.

The program knows nothing of it: tensors of its tape enter as inputs, what it changes is put back.
"""

from __future__ import annotations

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.taken_apart import InnerSession, lent_recorder
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.record.segments import register_text
from nnrepl.record.stack import Stack
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import Parsed
from nnrepl.session.session import TapeSession
from nnrepl.session.statements import noticing
from nnrepl.tape import RUN_PASS, Tape, Value

FILE = "<prompt>"


class BesideSession(InnerSession):
    """The user's place in a statement of their own.

    Attributes:
        outer: The session that they came from.
        error: What the statement raised.
    """

    error: Exception | None = None


class _Inputs:
    """Enters the tensors that are handed out as inputs of another tape."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def link(self, array: mx.array, value: Value) -> None:
        """As `Recorder.link`."""
        self._recorder.leaf(array, "input", words.name(value))


def run_beside(session: TapeSession, line: Parsed) -> BesideSession:
    """Run an expression, or an assignment, where the cursor stands, and record it. What it gives is `_` afterwards, and
    has the name that it is assigned to at the prompt.

    Raises:
        UserError: If it is something else, or makes no op.
        SyntaxError, NameError: If it is no Python, or names what is not there.
    """
    text = line.text
    expression, name = _expression(line)
    names = ProgramNames()
    tape = Tape(names)
    names.tape = tape
    register_text(FILE, text)
    inner = BesideSession(session, tape, names)
    result: object = None
    with noticing(session, line), lent_recorder(tape, Stack) as recorder:
        recorder.open_pass(RUN_PASS, text)
        try:
            result = session.expressions.compute(expression, session.where(), _Inputs(recorder))
        except (UserError, NameError):
            raise
        except Exception as error:
            inner.error = error
        recorder.close_pass()
    if not tape.ops:
        raise inner.error or UserError(f"{text} makes no op: there is nothing to step through; p shows a value")
    if inner.error is None:
        session.expressions.shown = result
        if name:
            session.expressions.variables[name] = result
    return inner


def _expression(line: Parsed) -> tuple[Parsed, str]:
    """Return the part of a statement that gives something, and the name that it is assigned to, "" if to none."""
    if line.error is not None:
        raise line.error
    change = line.assignment
    if line.expression is not None:
        return line, ""
    if change is not None and change.operator is None and change.target.text.isidentifier():
        return change.value, change.target.text
    raise UserError(
        "debug takes an expression here, or NAME = EXPRESSION; at the end of the program (goto end) any statement"
    )
