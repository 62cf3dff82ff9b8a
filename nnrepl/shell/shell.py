"""Shell: gives the person the floor at each stop, and runs what they type."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.programs.output import HeldOutput
from nnrepl.record.recorder import RECORD
from nnrepl.session.errors import Quit, Restart, UserError
from nnrepl.session.session import END_OF_PROGRAM, EXCEPTION, Hooks, Session, Stop
from nnrepl.shell.readers import PROMPT, Pipe, Reader
from nnrepl.view.theme import THEMES

PLAIN_WIDTH = 100


def make_console(plain: bool, theme: str = "dark") -> Console:
    """A console on the real standard output; without colours and control codes where there is no terminal."""
    stdout = sys.stdout
    width = None if stdout.isatty() else int(os.environ.get("COLUMNS") or PLAIN_WIDTH)
    return Console(
        file=stdout,
        width=width,
        color_system=None if plain else "auto",
        force_terminal=False if plain else None,
        theme=THEMES[theme],
        highlight=False,
        markup=False,
        emoji=False,
    )


def make_reader(interpreter: Interpreter, plain: bool = False) -> Reader:
    """Where lines come from: the terminal if there is one."""
    if plain or sys.stdin is None or not sys.stdin.isatty() or not sys.stdout.isatty():
        return Pipe()
    from nnrepl.shell.terminal import TerminalReader

    return TerminalReader(interpreter)


class Shell(Hooks):
    """The loop at each stop.

    Args:
        session: Whose person this is.
        console: Where things are shown.
        make_reader: Gives the source of lines for an interpreter.
        banner: Shown once, before the first stop.
        quiet: Whether only what commands show is shown (`--batch`).

    Attributes:
        failed: Whether a command failed.
    """

    def __init__(
        self,
        session: Session,
        console: Console,
        make_reader: Callable[[Interpreter], Reader],
        banner: str = "",
        quiet: bool = False,
    ) -> None:
        self.session = session
        self.console = console
        self.interpreter = Interpreter(session)
        self.reader = make_reader(self.interpreter)
        self.banner = banner
        self.quiet = quiet
        self.failed = False
        self.at_prompt = False
        self.held = HeldOutput(lambda: len(session.tape))
        session.hooks = self

    # -- hooks -------------------------------------------------------------------------------------------

    def pass_started(self) -> None:
        """Keep what the program prints until the cursor comes by."""
        self.held.hold()

    def cursor_moved(self, position: int) -> None:
        """Show what the program printed before the cursor."""
        self.held.release()
        self.held.show(None if position >= len(self.session.tape) else position)

    def interact(self, session: Session, stop: Stop) -> None:
        """Give the person the floor, until the program is to run on."""
        self.at_prompt = True
        try:
            self._open(session, stop)
            while not session.resuming:
                if not self._turn():
                    return
        finally:
            self.at_prompt = False

    def _open(self, session: Session, stop: Stop) -> None:
        if self.quiet:
            self.interpreter.shown = session.op
            return
        if self.banner:
            self.show(Text(self.banner))
            self.show(Text(""))
            self.banner = ""
        self.show(self.interpreter.show_stop(stop))
        if stop.reason == EXCEPTION or (stop.reason == END_OF_PROGRAM and not session.tape.ops):
            self.show(Text("The program is over; you can walk back from here.", style="hint"))

    # -- lines ---------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Read a line and run it. Returns False at the end of input, when nothing is left to run."""
        try:
            line = self.reader.read()
        except KeyboardInterrupt:
            return True
        if line is None:
            if self.session.running:
                raise Quit
            return False
        if self.reader.echoes and not self.quiet and line.strip():
            self.show(Text(PROMPT + line.strip()))
        self.run(line)
        return True

    def run(self, line: str) -> None:
        """Run one line and show what it gives; what goes wrong is one line."""
        try:
            self.show(self.interpreter.run(line))
        except UserError as error:
            self.failed = True
            self.show(Text(str(error), style="error"))
        except KeyboardInterrupt:
            self.show(Text("interrupted; what had been evaluated stays", style="hint"))

    def show(self, renderable: RenderableType | None) -> None:
        """Show something, unless there is nothing to show."""
        if renderable is not None:
            self.console.print(renderable)

    # -- Ctrl-C --------------------------------------------------------------------------------------------

    def catch_interrupts(self) -> None:
        """From now on Ctrl-C stops the program at its next op instead of ending it."""
        signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        recorder = self.session.recorder
        idle = recorder is None or recorder.mode != RECORD
        if self.at_prompt or idle or self.session.interrupted or not self.session.running:
            self.session.interrupted = False
            raise KeyboardInterrupt
        self.session.interrupted = True
        self.show(Text("\nstopping at the next op; Ctrl-C again interrupts the program itself", style="hint"))


def run_program(run: Callable[[], Any], session: Session) -> BaseException | None:
    """Run a program under a session to its end, and let the person look around afterwards.

    Returns what ended it: None, SystemExit, or its exception.

    Raises:
        Quit, Restart: If the person wants that.
    """
    error: BaseException | None = None
    try:
        run()
    except (Quit, Restart):
        raise
    except BaseException as raised:
        error = raised
        if not isinstance(raised, SystemExit):
            print_exception(raised)
    session.ended(error)
    return error


def print_exception(error: BaseException) -> None:
    """Print a traceback as plain Python would: without nnrepl's own frames."""
    sys.stdout.flush()
    error.__traceback__ = _without_own(error.__traceback__)
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(error), error, error.__traceback__)
    else:
        traceback.print_exception(error)


def _without_own(trace: Any) -> Any:
    while trace is not None and _is_own(trace.tb_frame):
        trace = trace.tb_next
    if trace is not None:
        trace.tb_next = _without_own(trace.tb_next)
    return trace


def _is_own(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name == "nnrepl" or name.startswith("nnrepl.")


def exit_status(error: BaseException | None) -> int:
    """The exit status that plain Python would give."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        code = error.code
        if code is None:
            return 0
        if isinstance(code, int):
            return code
        print(code, file=sys.stderr)
        return 1
    return 130 if isinstance(error, KeyboardInterrupt) else 1
