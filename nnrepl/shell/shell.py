"""Shell: gives the user the floor at each stop, and runs what they type."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, cast

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.segment import Segment, Segments
from rich.text import Text

from nnrepl.commands.blocks import split
from nnrepl.commands.interpreter import Interpreter
from nnrepl.programs.output import HeldOutput
from nnrepl.record.intake import Unwinding
from nnrepl.record.titles import message_of
from nnrepl.replay.run import Run
from nnrepl.session.broken_off import standing_still
from nnrepl.session.errors import NoGradient, NotYet, UserError
from nnrepl.session.hooks import CELL_DONE, CELL_FAILED, OPENED
from nnrepl.session.session import EXCEPTION, Hooks, TapeSession
from nnrepl.session.typed import upcoming
from nnrepl.shell import playing
from nnrepl.shell.breaking import Breaking
from nnrepl.shell.consoles import is_painted, lines_of, make_plain
from nnrepl.shell.in_notebook import CellReader, in_notebook
from nnrepl.shell.progress_line import Progress
from nnrepl.shell.prompts import continued, prompt_of
from nnrepl.shell.readers import Pipe, Reader
from nnrepl.tape import Tape
from nnrepl.view.glyphs import harmless
from nnrepl.view.theme import THEMES


class _Tee:
    """Standard output for Python at the prompt: what it prints belongs to the session.

    Attributes:
        behind: The real one.
    """

    def __init__(self, stream: Any, said: Callable[[str], None]) -> None:
        self._stream = self.behind = stream
        self._said = said
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._said(line or " ")
        return len(text) if self._stream is None else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_reader(interpreter: Interpreter, plain: bool = False, program: str = "") -> Reader:
    """Where lines come from: the terminal if there is one that can do more than print."""
    if in_notebook():
        return CellReader(interpreter)
    if plain or not is_capable():
        return Pipe(interpreter.table)
    from nnrepl.shell.terminal import TerminalReader

    return TerminalReader(interpreter, program)


def is_capable() -> bool:
    """Whether a user sits at both ends, at a terminal that can do more than print."""
    terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
    return terminal and os.environ.get("TERM", "") not in ("dumb", "unknown")


_OVER = "The program is over; you can walk back from here."
_MEND = (
    "The program is over. Walk back from here; change a value where it is made; or mend the file and reload: the "
    "program goes on from the entry of the failed call."
)


class Shell(Breaking, Hooks):
    """The loop at each stop.

    Args:
        session: Whose person this is.
        console: Where things are shown.
        make_reader: Gives the source of lines for an interpreter.
        banner: Shown once, before the first stop.
        quiet: Whether only what commands show is shown (`--batch`).

    Attributes:
        failed: Whether a command failed.
        after_line: Called when a line has been run; what it returns is shown as a warning.
        hushed: Whether nothing is shown: a lesson catches up with where it was.
    """

    def __init__(
        self,
        session: TapeSession,
        console: Console,
        make_reader: Callable[[Interpreter], Reader],
        banner: str = "",
        quiet: bool = False,
    ) -> None:
        self.session = session
        self.console = console
        self.interpreter = Interpreter(session)
        self.interpreter.quiet = quiet
        self.reader = make_reader(self.interpreter)
        self.banner = banner
        self.quiet = quiet
        self.failed = self.hushed = False
        self.at_prompt = self._on_its_way = False
        self._theme = ""
        self._line = self._once_more = ""
        self.after_line: Callable[[], str] = str
        self._progress = Progress(console)
        self.held = HeldOutput(self._recorded)
        session.hooks = self

    def _recorded(self) -> Tape:
        """Return the tape that the program writes, which is not always the one that is looked at."""
        recorder = self.session.recorder
        tape: Tape = self.session.tape if recorder is None else recorder.tape
        return tape

    # -- hooks -------------------------------------------------------------------------------------------

    def pass_started(self) -> None:
        """Keep what the program prints until the cursor comes by, if it may stop on the way."""
        if self.session.may_stop:
            self.held.hold()
        tape = self.session.tape
        self._progress.running(tape.passes[-1].number if tape.passes else 0, len(tape))

    def progress(self, share: float, doing: str = "evaluating") -> None:
        """Note that a long evaluation has come so far; nothing is said about it on the full screen."""
        if self.reader.screen is None:
            self._progress.come(share, doing)

    def program_begins(self) -> None:
        """Nothing of what it prints has been shown, unless it begins again along a tape."""
        if not self.session.replaying:
            self.held.begin()
            if not self.quiet:
                self._greet()
                self._progress.to_first_op(self._still_running)
        self._stand_in()

    def _still_running(self) -> None:
        """Note that the program computes for a while before its first op."""
        self._end_line()
        self.console.file.write("running to the first op; Ctrl-C interrupts\n")

    def _greet(self) -> None:
        """Show the banner, once: at the beginning, however long the program computes before its first op."""
        if self.banner:
            text = harmless(self.banner)
            if self.console.is_terminal and cell_len(text.splitlines()[0]) > self.console.width:
                text = "\n".join(text.rsplit(" · ", 1))  # what to type stands together
            self.console.print(Text(text), soft_wrap=not self.console.is_terminal)
            self.show(Text(""))
            self.banner = ""

    def _stand_in(self) -> None:
        """Let what the program prints go through streams of ours: it may run again. In a batch it does not."""
        if not self.quiet or self.session.may_stop:
            self.held.stand_in()

    def unwinding(self) -> None:
        """Keep what the program prints on being taken apart to itself."""
        self.held.unwinding()

    def quitting(self) -> None:
        """Keep what the program prints on being taken apart, but for what is new."""
        self.held.quitting()

    def running_again(self, run: Run, tape: Tape, from_start: bool) -> None:
        """Keep what the program prints a second time to itself."""
        if from_start and not run.opened:
            self.show(Text("running the program again from its start; Ctrl-C stops at the next op", style="hint"))
        self._progress.begin()
        if from_start:
            self.held.from_start()
        if run.seen is None:
            waits = [line.tape for line in self.session.changes.timelines if not line.ended]
            goes_on = run.old in waits and run.position >= len(run.old)  # nothing was printed after the last op
            self.held.begin_again(tape, run.old, run.position, run.position + len(run.ops) - goes_on)
        else:
            self.held.begin_again(tape, run.old, run.seen, run.seen, along=True)

    def going_on(self, tape: Tape, old: Tape) -> None:
        """Take what the program prints from now on as another tape's."""
        self.held.goes_on(tape, old)

    def opening(self, title: str, line: str = "") -> None:
        """Run the line again when that is done, or another one instead."""
        self._line = line or self.interpreter.line
        self._on_its_way = not self.at_prompt
        self.show(Text(f"opening {title}: the program runs again; Ctrl-C stops it", style="hint"))

    def looks(self) -> bool:
        """In a batch nobody does, unless a command says so."""
        return not self.quiet

    def opened(self, moved: Callable[[int], int], seen: int) -> None:
        """Note that what was printed has moved with the tape."""
        self.held.moved(moved, seen)

    def moved(self, moved: Callable[[int], int]) -> None:
        """Note that what was printed has moved with the tape."""
        self.held.move(moved)

    def has_printed(self, position: int) -> bool:
        """Whether something has been shown of what the program printed from there on."""
        return self.held.is_printed_at(position)

    def cell_begins(self) -> None:
        """Note that what was typed runs for the first time: what it prints is shown at once."""
        self.held.begin_anew()

    def announce(self, text: str) -> None:
        """Say what is about to happen."""
        self.show(Text(text, style="hint"))

    def confirm(self, question: str, otherwise: bool = False) -> bool:
        """Ask, on a terminal; Enter alone is no."""
        if not self.reader.pages:
            return otherwise
        if self.reader.screen is not None:
            self.reader.screen.leave()
        try:
            return input(question).strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False

    def lend_terminal(self, run: Callable[[], int]) -> int:
        """Leave the full screen while another program has the terminal."""
        if self.reader.screen is not None:
            self.reader.screen.leave()
        return run()

    def cursor_moved(self, position: int) -> None:
        """Show what the program printed before the cursor."""
        if self.session.replaying:
            return
        self.held.settle()
        screen = self.reader.screen
        tape = self.session.tape
        said = self.held.show(
            tape, None if position >= len(tape) else position, None if screen is None else screen.said
        )
        self.interpreter.log.said(said)
        if screen is not None and not self.at_prompt:
            self.held.watch(screen.printed)

    def interact(self) -> None:
        """Give the user the floor, until the program is to run on."""
        self.at_prompt = True
        self._progress.here()
        self.held.leave()
        goes_on = False
        try:
            self._open()
            while self.session.waits:
                if not self._turn():
                    return
            goes_on = self.session.running
        finally:
            self.at_prompt = False
            screen = self.reader.screen
            if screen is not None:
                screen.leave(for_now=goes_on)  # the program has the terminal
            if self.session.running:
                self._stand_in()

    def _open(self) -> None:
        stop = self.session.stop
        line, self._line = self._line, ""
        if line and stop.reason == OPENED:
            self.interpreter.pass_over()
            self.interpreter.due.appendleft(line)
            self._once_more = line
            return
        self.failed |= stop.failed or (stop.reason in (CELL_DONE, CELL_FAILED) and stop.error is not None)
        if self.quiet and not (stop.hits or stop.missed or stop.reason == CELL_FAILED):
            self.show(self.interpreter.news())
            self.show(Text(stop.reason, style="warning") if stop.failed else None)
            self.interpreter.pass_over()
            return
        self._greet()
        self.show(self.interpreter.news())
        if not playing.begins(self, stop):
            self.show(self.interpreter.show_stop())
        if stop.reason == EXCEPTION and self.session.tape.ops:
            self.show(Text(_OVER if self.session.files is None else _MEND, style="hint"))
        elif stop.reason == CELL_FAILED:
            self.show(Text("You can walk back from here; what you type next is a cell of its own.", style="hint"))

    # -- lines ---------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Read a line and run it. Returns False at the end of input, when nothing is left to run."""
        waiting = self.interpreter.waiting()
        if waiting is not None:
            self.run(waiting)
            return True
        if self.interpreter.player is not None:
            return playing.turn(self, self.interpreter.player)
        prompt = prompt_of(upcoming(self.interpreter.session))
        self._end_line()
        try:
            line = self.read(prompt)
        except KeyboardInterrupt:
            return True
        except UnicodeDecodeError:
            self.failed = True
            self.show(Text("this line is not text in UTF-8", style="error"))
            return True
        if line is None:
            if self.session.running:
                self.session.quit()
            return False
        if self.reader.echoes and not self.quiet and line.strip():
            self.console.print(Text(prompt + continued(line.strip(), prompt)), soft_wrap=True)
        if self.reader.screen is not None:
            self.reader.screen.typed(line.strip())
        if "\n" in line and not self.reader.echoes:
            line, *others = split(line.splitlines(), self.interpreter.table) or [""]
            self.interpreter.given.extendleft(reversed(others))
        self.run(line)
        return True

    def read(self, prompt: str) -> str | None:
        """Return the next line, None at the end of input. Raises KeyboardInterrupt, UnicodeDecodeError."""
        is_key = self.reader.pages or self.reader.screen is not None  # Ctrl-C: half a prompt cannot be left
        with contextlib.nullcontext() if is_key else self._breaking():
            return self.reader.read(prompt)

    def typed(self, line: str) -> None:
        """Show a line as typed, with its prompt, where nobody saw it being typed."""
        if self.reader.screen is not None:
            self.reader.screen.show(Text(line, style="bold"))
        else:
            self.console.print(Text(line), soft_wrap=True)

    def run(self, line: str) -> None:
        """Run one line and show what it gives; what goes wrong is one line."""
        once_more, self._once_more = self._once_more == line, ""
        if not once_more:  # it stands there already, with what was said when its step was opened
            self.interpreter.log.typed(line.strip())
        self.interpreter.answers.begin()
        self._progress.begin()
        try:
            try:
                with self._breaking(), standing_still(self.session), self._printing():
                    shown = self.interpreter.run(line)
            finally:
                self._progress.end()
            # where the program came to it as it ran on, a batch says nothing, as where it stops there at once
            on_its_way = once_more and self.quiet and self._on_its_way and self.session.waits
            if on_its_way and self.session.stop.hits:
                self._greet()
            self.show(None if on_its_way and not self.session.stop.hits else shown)
        except (NotYet, NoGradient) as answer:
            self.show(Text(str(answer), style="hint"))
        except UserError as error:
            self.failed = True
            self.show(Text(str(error), style="error"))
        except Unwinding:
            raise
        except Exception as error:
            self.own_failure(line, error)
        except KeyboardInterrupt:
            self.show(Text("interrupted; what had been evaluated stays", style="hint"))
        finally:
            notice = "" if self.quiet or self.session.files is None else self.session.files.notice(self.session)
            for warning in filter(None, (self.after_line(), notice)):
                self.show(Text(warning, style="warning"))

    def _printing(self) -> contextlib.AbstractContextManager[Any]:
        """While Python at the prompt runs: what it prints is shown, and belongs to the session."""
        screen, log = self.reader.screen, self.interpreter.log
        if screen is None:
            return contextlib.redirect_stdout(cast(IO[str], _Tee(sys.stdout, log.said)))

        def said(text: str) -> None:
            log.said(text)
            screen.show(Text(text))

        return contextlib.redirect_stdout(cast(IO[str], _Tee(None, said)))

    def own_failure(self, line: str, error: Exception) -> None:
        """Report that a command failed in a way that nobody foresaw: a bug of nnrepl's, but no reason to lose a
        session."""
        self.failed = True
        if os.environ.get("NNREPL_DEBUG"):
            traceback.print_exception(error)
        what = f"{type(error).__name__}: {message_of(error)}".splitlines()[0][:200]
        shown = line.strip() if len(line) <= 60 else line.strip()[:57] + "..."
        self.show(
            Text(f"nnrepl itself failed on {shown!r} ({what}). NNREPL_DEBUG=1 shows where; nothing is lost.", "error")
        )

    def show(self, renderable: RenderableType | None) -> None:
        """Show something, unless there is nothing to show; a screen at a time if a user reads it."""
        if renderable is None or self.hushed:
            return
        screen = self.reader.screen
        if screen is not None:
            self._logged(renderable, screen.show(renderable))
            return
        self.interpreter.answers.showed(renderable)
        self._end_line()
        theme = self.session.settings["theme"]
        if theme != self._theme:
            self._theme = theme
            self.console.push_theme(THEMES[theme])
        lines = lines_of(self.console, renderable)
        if self._pages():
            from nnrepl.shell.pager import paged

            lines = paged(lines, self.console.height, theme)
        self._logged(renderable, self._printed(lines))

    def _printed(self, lines: Iterable[list[Segment]]) -> Iterator[list[Segment]]:
        """Lines, each printed as it goes by."""
        for line in lines:
            self._progress.end()  # what is shown may have been evaluated only now
            self.console.print(Segments([*line, Segment.line()]), end="", soft_wrap=True)
            yield line

    def _end_line(self) -> None:
        """End a line that the program has left unfinished, a progress bar's: it is not written over."""
        if self.held.midline and self.reader.screen is None:
            self.console.file.write("\n")
            self.held.ended()

    def _logged(self, renderable: RenderableType, lines: Iterable[list[Segment]]) -> None:
        """Keep what was shown; of a picture, which is nothing without its colours, letters as well."""
        count, picture = 0, False
        for line in lines:
            self.interpreter.log.showed(line)
            count += 1
            picture = picture or any(is_painted(segment) for segment in line)
        if picture:
            plain = make_plain(self.console.width, self.console.height, self.session.settings["theme"])
            self.interpreter.log.drew(count, list(lines_of(plain, renderable)))

    def _pages(self) -> bool:
        """Whether a user sits there who can ask for more."""
        return self.session.settings["pager"] == "on" and self.reader.pages
