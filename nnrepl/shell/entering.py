"""Entering: the shell, opened by the program itself."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

from nnrepl.programs.function import Recorded
from nnrepl.record.intercept import recording as intercepting
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder, current
from nnrepl.record.segments import locate
from nnrepl.session import goals
from nnrepl.session.errors import Quit, UserError
from nnrepl.session.natively import keeps_worlds
from nnrepl.session.session import TapeSession
from nnrepl.shell.api import converse, remember, was_recorded
from nnrepl.shell.background import adopt
from nnrepl.shell.consoles import make_console
from nnrepl.shell.in_notebook import CellEnded, ipython
from nnrepl.shell.shell import Shell, make_reader
from nnrepl.tape import RUN_PASS
from nnrepl.view.source_lines import place_text

_entered: list[EnteredProgram] = []
_last: list[Recorded] = []


class EnteredProgram:
    """A recording that began in the middle of a program, with a shell.

    It ends when the user lets the program run on without a stop ahead, or quits; then MLX is what it was.
    """

    def __init__(self, frame: FrameType | None) -> None:
        names = ProgramNames()
        tape = names.tape
        recorder = Recorder(tape, strict=False, base=None)
        self.session = TapeSession(tape, names, recorder, whole=False)
        recorder.listener = self.session
        notes = adopt(self.session.settings)
        self.shell = _Shell(self, f"nnrepl · recording from {_where(frame)} on · step to begin, help for more{notes}")
        remember(self.shell.interpreter)
        self._shell = ipython()
        if self._shell is not None:
            self._shell.events.register("post_run_cell", self._cell_over)
        self._context: AbstractContextManager[Recorder] = intercepting(recorder)
        self._context.__enter__()
        recorder.start()
        self.session.begin(at_entry=True, reason="set_trace")

    def leave(self) -> None:
        """Stop recording; MLX is what it was."""
        if self in _entered:
            _entered.remove(self)
            self.session.course.end(len(self.session.tape))
            self._context.__exit__(None, None, None)
            self.shell.cursor_moved(len(self.session.tape))
            self.shell.held.give_back()
            self.session.close()
            if self._shell is not None:
                self._shell.events.unregister("post_run_cell", self._cell_over)

    def _cell_over(self, result: Any) -> None:
        """Note that the notebook's cell in which the recording began has ended: the user may look back, then it is
        over."""
        try:
            if self in _entered:
                self.session.ended(result.error_in_exec)
        except (Quit, CellEnded):
            pass
        finally:
            self.leave()


class _Shell(Shell):
    """The shell of a program that was not started by nnrepl: it goes on without it."""

    def __init__(self, entered: EnteredProgram, banner: str) -> None:
        super().__init__(entered.session, make_console(False), make_reader, banner)
        self._entered = entered

    def interact(self) -> None:
        """Give the user the floor; quitting ends the program, running on to no stop at all ends the recording."""
        try:
            super().interact()
        except Quit:
            self._entered.leave()
            if ipython() is not None:
                raise CellEnded("nnrepl was left: the cell ends here") from None
            raise SystemExit(1) from None
        if isinstance(self.session.goal, goals.Never) and not self.session.stops.enabled:
            self._entered.leave()


def set_trace() -> None:
    """Stop at the next op: record from here on and open the shell there.

    Under `nnrepl program.py` this is a breakpoint. Also `PYTHONBREAKPOINT=nnrepl.set_trace` and `breakpoint()`.
    What was made before is known only as it is now; a pass whose transform was called before is recorded
    forward only. `continue` ends the recording, unless a breakpoint, a watch or a catch may stop it.
    """
    recorder = current()
    if recorder is None:
        _entered.append(EnteredProgram(sys._getframe(1)))
        if len(_entered) == 1:
            atexit.register(_leave_all)
    elif isinstance(recorder.listener, TapeSession):
        recorder.listener.break_here("set_trace")
    else:
        raise UserError("set_trace() cannot stop inside of trace() or recording(): call nnrepl.debug() instead")


def _leave_all() -> None:
    for entered in _entered:
        entered.leave()


def _where(frame: FrameType | None) -> str:
    return "here" if frame is None else place_text(locate(frame.f_code, frame.f_lasti))


@contextmanager
def recording() -> Iterator[Recorded]:
    """Record what happens inside: `with nnrepl.recording() as tape: ...`, then `tape.ops`, `tape["z1"]`.

    Afterwards MLX is what it was before. An exception passes through; `post_mortem()` then shows the way to it.

    Raises:
        RuntimeError: While another thread is recorded.
    """
    names = ProgramNames()
    tape = names.tape
    recorder = Recorder(tape, strict=False, base=None)
    recorded = Recorded(tape, names)
    _last[:] = [recorded]
    was_recorded(recorded)
    with intercepting(recorder):
        keeps_worlds(recorder)
        recorder.start()
        recorder.open_pass(RUN_PASS, "recording")
        yield recorded


def post_mortem() -> None:
    """Open the shell where the last `with nnrepl.recording():` ended, at the op that failed if one did.

    Raises:
        UserError: If nothing was recorded.
    """
    if not _last:
        raise UserError("nothing was recorded: run what fails inside of `with nnrepl.recording():` first")
    tape, names = _last[0].tape, _last[0].names
    session = TapeSession(tape, names)
    failed = [op.position for op in tape.notes.errors if op.position < len(tape) and tape.ops[op.position] is op]
    position = failed[-1] if failed else len(tape)
    error = tape.ops[position].error if failed else None
    session.goto("end")
    session.look_at(tape, names, position)
    session.arrive(position, "exception" if failed else "end of tape", error)
    converse(session, "post mortem · back goes back")
