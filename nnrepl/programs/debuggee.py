"""Debuggee: the program that waits under a session; it runs, and runs again, as often as the user wants."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import mlx.core as mx

from nnrepl.programs.exceptions import clean_walks, print_exception
from nnrepl.programs.reload import Reloader
from nnrepl.programs.script import Script, forget_modules, reset_stdin
from nnrepl.record.intake import Unwinding
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.opaque import set_random_state
from nnrepl.record.recorder import Recorder
from nnrepl.replay.divergence import CannotExchange, Diverged
from nnrepl.replay.interrupts import resume
from nnrepl.replay.replay import Replay
from nnrepl.session.errors import Load, Restart, RunAgain
from nnrepl.session.session import Session
from nnrepl.tape import Tape


class Debuggee:
    """A program under a session. The session lives on where the program runs again.

    Args:
        script: What runs.
        session: Whose program it is; its tape is replaced when the program begins.
        at_entry: Whether to stop at the very first op, and not at the first of a forward pass.
        reads_input: Whether standard input is the program's own (`--batch`), so that a second run reads it again.
    """

    def __init__(self, script: Script, session: Session, *, at_entry: bool = False, reads_input: bool = False) -> None:
        self.session = session
        self._take(script)
        self._at_entry = at_entry
        self._reads_input = reads_input
        self._modules = frozenset(sys.modules)
        self._random = (random.getstate(), _numpy_state(), mx.random.state[0])  # type: ignore[index]

    def _take(self, script: Script) -> None:
        self.script = script
        self.session.files = Reloader(script.kept, script.on_disk)

    def run(self) -> BaseException | None:
        """Run, until the user has had enough. Returns what ended the program: None, SystemExit, its exception.

        Raises:
            Quit: If the user wants that.
        """
        wish: Unwinding | None = None
        while True:
            try:
                if isinstance(wish, (Diverged, CannotExchange)):
                    self._strand(wish)
                    return None
                return self._once(wish)
            except (Restart, RunAgain) as wanted:
                wish = wanted
                self._reset()
            except Load as wanted:
                wish = None
                self._load(cast(Script, wanted.program))
            except (Diverged, CannotExchange) as failure:
                wish = failure

    def _once(self, wish: Unwinding | None) -> BaseException | None:
        """Run the program to its end: from its start, or along the tape of a run before."""
        session = self.session
        run = wish.run if isinstance(wish, RunAgain) else None
        names, tape = new_tape(None if run is None else run.old)
        recorder = Recorder(tape, strict=True, base=sys._getframe())
        recorder.listener = session
        session.attach(tape, names, recorder)
        session.codes.start()
        if run is not None:
            recorder.intake = Replay(run, alone=True, reach=session.codes.reach)
            session.changes.arrived(tape, names, 0)
            session.begin_again(run)
        else:
            session.begin(self._at_entry)
        session.hooks.program_begins()
        with self.script.kept.importing(), recording(recorder), _breakpoints(session):
            return self._to_its_end()

    def _to_its_end(self) -> BaseException | None:
        """Run the program, and let the user look around afterwards. Returns what ended it."""
        error: BaseException | None = None
        try:
            resume()
            with clean_walks():
                self.script.run()
        except Unwinding:
            raise
        except BaseException as raised:
            error = raised
            if isinstance(raised, KeyboardInterrupt) and self.session.replaying:
                raise CannotExchange("interrupted where it ran again") from None
            if not isinstance(raised, SystemExit):
                print_exception(raised)
        self.session.ended(error)
        return error

    def _load(self, script: Script) -> None:
        """Another program takes the place of this one."""
        self._reset()
        self._take(script)
        said = (f"{script.title}: running to its first op", *script.notes, self.session.on_load(script.path))
        for line in filter(None, said):
            self.session.hooks.announce(line)

    def _strand(self, failure: Unwinding) -> None:
        """The program went another way when it ran again: the user looks at what there was."""
        resume()
        self.session.changes.failed()
        self.session.strand(f"{failure}; the program is over, restart runs it anew")

    def _reset(self) -> None:
        """Put things back, so that the program does again what it did: the random states, its input, and the
        modules that it had imported."""
        python, numpy, state = self._random
        random.setstate(python)
        if numpy is not None:
            sys.modules["numpy"].random.set_state(numpy)
        set_random_state(state)
        if self._reads_input:
            reset_stdin()
        forget_modules(self._modules, self.session.tape)


@contextmanager
def _breakpoints(session: Session) -> Iterator[None]:
    """`breakpoint()` in the program stops it under nnrepl, unless PYTHONBREAKPOINT names something else."""
    before = sys.breakpointhook
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = lambda *args, **kwargs: session.break_here("breakpoint()")
    try:
        yield
    finally:
        sys.breakpointhook = before


def new_tape(old: Tape | None = None) -> tuple[ProgramNames, Tape]:
    """An empty tape; for a second run one that shares what is noted about the values of the first."""
    names = ProgramNames()
    tape = Tape(names) if old is None else old.fork(0, names)
    names.tape = tape
    return names, tape


def _numpy_state() -> Any:
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()
