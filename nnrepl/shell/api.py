"""API: what `import nnrepl` offers beyond the recording itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec

from rich.console import Group
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.programs.function import Recorded, Trace, restarts_of
from nnrepl.programs.function import trace as record
from nnrepl.session.errors import Quit
from nnrepl.session.hooks import Stop
from nnrepl.session.session import TapeSession
from nnrepl.shell.background import adopt
from nnrepl.tape import Face, Op, Tape
from nnrepl.view.said import Answer

_last: list[Interpreter] = []
_recorded: list[weakref.ref[Recorded]] = []
P = ParamSpec("P")


def _stopping(move: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Session, P], Stop]:
    """Return a motion that returns where it has led, as whoever calls it in a program or a cell wants to see it."""

    @wraps(move)
    def moved(self: Session, /, *args: P.args, **kwargs: P.kwargs) -> Stop:
        move(self._session, *args, **kwargs)
        return self.stop

    del moved.__wrapped__  # what help() shows is what this returns
    moved.__signature__ = signature(move).replace(return_annotation="Stop")  # type: ignore[attr-defined]
    return moved


def session_on(trace: Trace) -> TapeSession:
    """Return the debugger on a trace: what is changed in it calls the trace's function again."""
    session = TapeSession(trace.tape, trace.names)
    session.changes.restarts = restarts_of(trace)
    return session


class Session(Face):
    """A user's place on a trace, to be moved by a program.

    The motions of the prompt move it and return a Stop; `run(line)` runs any line of the prompt. Nothing is evaluated
    before it is looked at.

    Args:
        trace: What `nnrepl.trace` returned. It is left as it is: an edit makes another tape.
    """

    def __init__(self, trace: Trace) -> None:
        self._session = session_on(trace)
        self._interpreter = Interpreter(self._session)
        remember(self._interpreter)

    def __repr__(self) -> str:
        op = self.op
        where = "at the end" if op is None else f"at {op.label} {op.name}, {op.phase} of {op.step.title}"
        return f"<Session of {len(self.tape)} ops, {where}>"

    def _shown(self) -> Stop:
        stop = self.stop
        return stop if stop.session is not None else replace(stop, session=self._session)  # nobody has moved yet

    @property
    def op(self) -> Op | None:
        """The op that comes next; None at the end."""
        return self._session.op

    @property
    def cursor(self) -> int:
        """The position of the op that comes next, counted from 0."""
        return self._session.cursor

    @property
    def tape(self) -> Tape:
        """The ops of the timeline that is looked at."""
        return self._session.tape

    @property
    def stop(self) -> Stop:
        """Where the last motion has led."""
        return self._session.stop

    step = _stopping(TapeSession.step)
    next = _stopping(TapeSession.next)
    next_pass = _stopping(TapeSession.next_pass)
    next_step = _stopping(TapeSession.next_step)
    finish = _stopping(TapeSession.finish)
    until = _stopping(TapeSession.until)
    resume = _stopping(TapeSession.resume)
    goto = _stopping(TapeSession.goto)
    rewind = _stopping(TapeSession.rewind)
    back = _stopping(TapeSession.back)
    back_next = _stopping(TapeSession.back_next)
    back_step = _stopping(TapeSession.back_step)
    back_pass = _stopping(TapeSession.back_pass)
    back_finish = _stopping(TapeSession.back_finish)
    back_resume = _stopping(TapeSession.back_resume)
    last_write = _stopping(TapeSession.last_write)

    def run(self, line: str) -> Answer:
        """Run one line as typed at the prompt: `print z1`, `why grad(w) == 0`, `z1 = z1 * 2`, `step`.

        Returns:
            What the line says, which `print`, rich and notebooks show; empty (and false) if it says nothing.

        Raises:
            UserError: With one line that says what is wrong and what to type instead.
            Quit: For `quit`.
        """
        return answer(self._interpreter, line)


def answer(interpreter: Interpreter, line: str) -> Answer:
    """Run one line, and those that are due because of it. Raises UserError, Quit."""
    session, before = interpreter.session, interpreter.session.cursor
    shown = [interpreter.run(line)]
    while (waiting := interpreter.waiting()) is not None:
        shown.append(interpreter.run(waiting))
    kept = [renderable for renderable in shown if renderable is not None]
    arrived = session is interpreter.session and before < session.cursor == len(session.tape)
    if arrived and not str(Answer(Group(*kept))):
        kept = [Text("This is the end of the tape.", style="hint")]  # where nothing follows, nothing is shown of itself
    theme = str(interpreter.session.settings["theme"])
    return Answer(Group(*kept) if len(kept) > 1 else next(iter(kept), None), theme)


def remember(interpreter: Interpreter) -> None:
    """Remember what runs lines on the session that was opened last: the one that `%nnrepl` asks."""
    _last[:] = [interpreter]
    _recorded.clear()


def last() -> Interpreter | None:
    """Return what runs lines on what was recorded last, if the user still has it; else on the session opened last."""
    recorded = _recorded[0]() if _recorded else None
    if isinstance(recorded, Trace):
        remember(Interpreter(session_on(recorded)))
    elif recorded is not None and len(recorded.tape):
        remember(Interpreter(TapeSession(recorded.tape, recorded.names)))
    return _last[0] if _last else None


def was_recorded(recorded: Recorded) -> None:
    """Note that this was recorded, and has no session yet."""
    _recorded[:] = [weakref.ref(recorded)]


@wraps(record)
def trace(fn: Callable[..., Any], *args: Any, wrt: Any = None, **kwargs: Any) -> Trace:
    recorded = record(fn, *args, wrt=wrt, **kwargs)
    was_recorded(recorded)
    return recorded


def converse(session: TapeSession, title: str) -> None:
    """Give the user the floor on what was recorded, until they leave."""
    from nnrepl.shell.consoles import make_console
    from nnrepl.shell.shell import Shell, make_reader

    banner = f"nnrepl · {title}, help for more{adopt(session.settings)}"
    shell = Shell(session, make_console(False), make_reader, banner)
    remember(shell.interpreter)
    try:
        shell.interact()
    except Quit:
        pass


def debug(fn: Callable[..., Any], *args: Any, wrt: Any = None, **kwargs: Any) -> Trace:
    """Open the shell on one call of a function; arguments as for `trace`.

    In a notebook it asks by `input()`, prints into the cell, and ends when the user types `quit`.

    Returns:
        The trace, as the call was recorded; edits at the prompt make others.

    Raises:
        Whatever `fn` raises, or MLX.
    """
    recorded = record(fn, *args, wrt=wrt, **kwargs)
    converse(session_on(recorded), f"{recorded!r} · step to begin")
    return recorded
