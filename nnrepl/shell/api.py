"""API: what `import nnrepl` offers beyond the recording itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from rich.console import Group
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.programs.function import Recorded, Trace
from nnrepl.programs.function import trace as record
from nnrepl.session.errors import Quit
from nnrepl.session.hooks import Stop
from nnrepl.session.session import Session as TapeSession
from nnrepl.shell.background import adopt
from nnrepl.tape import Face
from nnrepl.view.answer import Answer

_last: list[Interpreter] = []
_recorded: list[weakref.ref[Recorded]] = []
P = ParamSpec("P")


def _stopping(move: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], Stop]:
    """A motion that returns where it has led, as whoever calls it in a program or a cell wants to see it."""

    @wraps(move)
    def moved(self: Session, /, *args: P.args, **kwargs: P.kwargs) -> Stop:
        move(self, *args, **kwargs)
        return self.stop

    return moved


class Session(Face, TapeSession):
    """A user's place on a trace, to be moved by a program.

    `step()`, `back()`, `next()`, `goto("#12")`, `rewind()`, `resume()` and the other motions move it and return a Stop;
    `run(line)` runs any line of the prompt. `op` is the op that comes next, `cursor` its position (from 0), `tape` the
    ops. Nothing is evaluated before it is looked at.

    Args:
        trace: What `nnrepl.trace` returned. It is left as it is: an edit makes another tape.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.tape, trace.names)
        self.changes.restarts = trace.restarts()
        self.interpreter = Interpreter(self)
        remember(self.interpreter)

    def __repr__(self) -> str:
        op = self.op
        where = "at the end" if op is None else f"at {op.label} {op.name}, {op.phase} of {op.step.title}"
        return f"<Session of {len(self.tape)} ops, {where}>"

    # The debugger's motions return nothing: where a program runs on, the stop comes later. On a trace it is there.
    step = _stopping(TapeSession.step)  # type: ignore[assignment]
    next = _stopping(TapeSession.next)  # type: ignore[assignment]
    next_pass = _stopping(TapeSession.next_pass)  # type: ignore[assignment]
    next_step = _stopping(TapeSession.next_step)  # type: ignore[assignment]
    next_cell = _stopping(TapeSession.next_cell)  # type: ignore[assignment]
    finish = _stopping(TapeSession.finish)  # type: ignore[assignment]
    until = _stopping(TapeSession.until)  # type: ignore[assignment]
    resume = _stopping(TapeSession.resume)  # type: ignore[assignment]
    goto = _stopping(TapeSession.goto)  # type: ignore[assignment]
    rewind = _stopping(TapeSession.rewind)  # type: ignore[assignment]
    back = _stopping(TapeSession.back)  # type: ignore[assignment]
    back_next = _stopping(TapeSession.back_next)  # type: ignore[assignment]
    back_step = _stopping(TapeSession.back_step)  # type: ignore[assignment]
    back_pass = _stopping(TapeSession.back_pass)  # type: ignore[assignment]
    back_cell = _stopping(TapeSession.back_cell)  # type: ignore[assignment]
    back_finish = _stopping(TapeSession.back_finish)  # type: ignore[assignment]
    back_resume = _stopping(TapeSession.back_resume)  # type: ignore[assignment]
    last_write = _stopping(TapeSession.last_write)  # type: ignore[assignment]

    def run(self, line: str) -> Answer:
        """Run one line as typed at the prompt: `print z1`, `why grad(w) == 0`, `z1 = z1 * 2`, `step`.

        Returns:
            What the line says, which `print`, rich and notebooks show; empty (and false) if it says nothing.

        Raises:
            UserError: With one line that says what is wrong and what to type instead.
            Quit: For `quit`.
        """
        return answer(self.interpreter, line)


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
    """This is what runs lines on the session that was opened last: the one that `%nnrepl` asks."""
    _last[:] = [interpreter]
    _recorded.clear()


def last() -> Interpreter | None:
    """What runs lines on what was recorded last, if the user still has it; else on the session opened last."""
    recorded = _recorded[0]() if _recorded else None
    if isinstance(recorded, Trace):
        Session(recorded)
    elif recorded is not None and len(recorded.tape):
        remember(Interpreter(TapeSession(recorded.tape, recorded.names)))
    return _last[0] if _last else None


def was_recorded(recorded: Recorded) -> None:
    """This was recorded, and has no session yet."""
    _recorded[:] = [weakref.ref(recorded)]


@wraps(record)
def trace(fn: Callable[..., Any], *args: Any, wrt: Any = None, **kwargs: Any) -> Trace:
    recorded = record(fn, *args, wrt=wrt, **kwargs)
    was_recorded(recorded)
    return recorded


def debug(fn: Callable[..., Any], *args: Any, wrt: Any = None, **kwargs: Any) -> Trace:
    """Open the shell on one call of a function; arguments as for `trace`.

    In a notebook it asks by `input()`, prints into the cell, and ends when the user types `quit`.

    Returns:
        The trace, as the call was recorded; edits at the prompt make others.

    Raises:
        Whatever `fn` raises, or MLX.
    """
    from nnrepl.shell.shell import Shell, make_console, make_reader

    recorded = record(fn, *args, wrt=wrt, **kwargs)
    session = Session(recorded)
    notes = adopt(session.settings)
    banner = f"nnrepl · {recorded!r} · step to begin, help for more{notes}"
    shell = Shell(session, make_console(False), make_reader, banner)
    session.interpreter = shell.interpreter
    remember(shell.interpreter)
    try:
        shell.interact()
    except Quit:
        pass
    return recorded
