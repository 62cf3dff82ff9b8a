"""Debuggee: the program that waits under a session; it runs, and runs again, as often as the user wants."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import mlx.core as mx

from nnrepl.programs.cells import is_leaving, needed, run_cell
from nnrepl.programs.exceptions import clean_walks, print_exception
from nnrepl.programs.reload import Reloader
from nnrepl.programs.script import Script, forget_modules, reset_stdin
from nnrepl.programs.shadows import leave_names
from nnrepl.programs.written import WrittenFiles
from nnrepl.record.intake import Unwinding
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import MUTED, Recorder
from nnrepl.replay.divergence import CannotExchange, Diverged, NotKept
from nnrepl.replay.interrupts import resume
from nnrepl.replay.left_outside import LeftOutside
from nnrepl.replay.libraries import LIBRARIES
from nnrepl.replay.readings import Readings
from nnrepl.replay.replay import Replay
from nnrepl.replay.run import Run
from nnrepl.replay.uncomputed import Forward
from nnrepl.replay.world import RandomStates
from nnrepl.session.errors import Load, Quit, Restart
from nnrepl.session.session import TapeSession
from nnrepl.session.state import RunAgain
from nnrepl.session.typed import append, cell_begins, cell_ended
from nnrepl.timeline.timelines import Timeline
from nnrepl.timeline.typed_cells import Cell, make_cell

if TYPE_CHECKING:
    from nnrepl.timeline.cut_short import CutShort


class Debuggee:
    """A program under a session: a script, and the cells that were typed when it was over. The session lives on where
    the program runs again.

    Args:
        script: What runs.
        session: Whose program it is; its tape is replaced when the program begins.
        at_entry: Whether to stop at the very first op, and not at the first of a forward pass.
        reads_input: Whether standard input is the program's own (`--batch`), so that a second run reads it again.
        call: A statement, or several: the first cell, before whose first op the program stops.
        live: Whether it goes on with what was made before nothing was recorded (a cell of a notebook).

    Attributes:
        raised: The cells that raised something, and what; None stands for the script.
        provided: Which of `mx`, `nn`, `optim` the cells have found imported for them.
    """

    def __init__(
        self,
        script: Script,
        session: TapeSession,
        *,
        at_entry: bool = False,
        reads_input: bool = False,
        call: str = "",
        live: bool = False,
    ) -> None:
        self.session = session
        self._live = live
        self._take(script)
        self._at_entry = at_entry
        self._reads_input = reads_input
        self._call = call
        self._main = ModuleType("__main__")
        self._over: tuple[Timeline, ModuleType] | None = None
        self._made = 0
        self._ran: set[Cell] = set()
        self._waits = self._at_end = False
        self._seen = 0
        self._whole = False
        self._ends: list[int] = []
        self._forward: Forward | None = None
        self.raised: dict[Cell | None, BaseException] = {}
        self.provided: list[str] = []
        session.debuggee = self
        self._modules = frozenset(sys.modules)
        self._leave_names()
        self._written = WrittenFiles()
        self._readings = Readings()
        self._left_outside = LeftOutside()
        self._random = RandomStates()

    def _take(self, script: Script) -> None:
        self.script = script
        self.session.files = None if self._live else Reloader(script.kept, script.on_disk)

    def _leave_names(self) -> None:
        """Let the program's imports find the files that lie beside it, where it begins in a folder of its own."""
        if not self._live:
            self._modules -= leave_names(self.script.folder)

    def run(self) -> BaseException | None:
        """Run, until the user has had enough. Returns what ended the program: None, SystemExit, its exception.

        Raises:
            Quit: If the user wants that.
        """
        wish: Unwinding | None = None
        if self._live:
            self.session.settings["native"] = "off"  # when the cell is over nothing is left that could run again
        while True:
            try:
                if isinstance(wish, (Diverged, CannotExchange, NotKept)):
                    self._strand(wish)
                    return None
                return self._once(wish)
            except (Restart, RunAgain) as wanted:
                wish = _alone(wanted)
                self._keep_end(wish)
                self._reset()
            except Load as wanted:
                wish = self._over = None
                self._load(cast(Script, wanted.program))
            except (Diverged, CannotExchange, NotKept) as failure:
                wish = _alone(self._back(failure, wish))
                if isinstance(wish, RunAgain):
                    self._reset()

    def _back(self, failure: Unwinding, wish: Unwinding | None) -> Unwinding:
        """Have the program, which could not run again for a change, do so along the tape before, with all recorded that
        ran natively; the change is tried once more. Where it cannot either (its own doings differ from run to run),
        the user looks at what there was."""
        interrupted = isinstance(failure, CannotExchange) and isinstance(failure.__cause__, KeyboardInterrupt)
        if not isinstance(wish, RunAgain) or (wish.failure and not interrupted):
            return failure
        resume()
        self.session.course.strand()
        if not interrupted and self._forward is not None and self._forward.skipped:
            why = str(failure) if isinstance(failure, NotKept) else "the program went another way"
            self.session.hooks.announce(f"running every step again from the start: {why}")
            return self.session.changes.once_more(wish)
        sure = None if interrupted else self.session.changes.recorded_before(wish)
        if sure is not None:
            return sure
        return self.session.changes.come_back(f"{failure}; the tape and your changes are as they were")

    # -- for the prompt ------------------------------------------------------------------------------------

    @property
    def namespace(self) -> dict[str, Any]:
        """The variables of the program's `__main__`."""
        return self._main.__dict__ if self.before is None else self.before

    @property
    def before(self) -> dict[str, Any] | None:
        """The variables as the program had left them at the end of the timeline that the user looks at, where it was
        to run again and has not come to that end: None where it has."""
        timelines = self.session.changes.timelines
        stranded = self.session.restarts is None
        over = self._over
        if over is None or over[0] is not timelines.current or (timelines.live is over[0] and not stranded):
            return None
        return over[1].__dict__

    @property
    def waits(self) -> bool:
        """Whether the program is over and could take another cell."""
        return self._waits

    @property
    def upcoming(self) -> int:
        """The number that the next cell will have."""
        return self._made + 1

    @property
    def bare(self) -> bool:
        """Whether it has no line but those that are typed."""
        return not self.script.path

    def make(self, text: str) -> Cell:
        """Compile what was typed as the next cell. Raises SyntaxError, ValueError."""
        future = 0
        for earlier in self.session.changes.timelines.current.cells:
            future |= earlier.future
        cell = make_cell(self._made + 1, text, future)
        self._made += 1
        return cell

    # -- running -------------------------------------------------------------------------------------------

    def _keep_end(self, wish: Unwinding) -> None:
        """Keep what an ended program has left in its variables, until it is at its end again: it may not come there.
        Not where that, with what the run makes anew, would take more memory than there is."""
        timelines = self.session.changes.timelines
        if isinstance(wish, RunAgain) and self._at_end and 2 * mx.get_active_memory() <= mx.get_memory_limit():
            self._over = timelines.live, self._main
        elif not isinstance(wish, RunAgain):
            self._over = None
        self._at_end = False

    def _once(self, wish: Unwinding | None) -> BaseException | None:
        """Run the program to its end: from its start, or along the tape of a run before."""
        session = self.session
        run = wish.run if isinstance(wish, RunAgain) else None
        names = ProgramNames(None if run is None else run.old)
        tape = names.tape
        recorder = Recorder(tape, strict=not self._live, base=sys._getframe())
        recorder.listener = session
        cells = list(session.changes.timelines.live.cells)
        starts = session.changes.timelines.current.starts
        self._ends = [] if run is None else [*starts, len(run.old)]
        self._whole = run is not None and not run.ops and run.position >= len(run.old)
        self._forward = None
        self._seen = 0 if run is None else sum(at < run.position + _inside(run) for at in starts)
        session.attach(tape, names, recorder)
        if not self._live:
            LIBRARIES.begin()
            self._left_outside.put_back()
        session.codes.start()
        if isinstance(wish, RunAgain):
            run = wish.run
            recorder.intake = replay = Replay(run, alone=True, changes=session.codes)
            self._forward, tape.kept = replay.forward, replay.forward.kept
            session.changes.arrived(tape, names, 0)
            session.begin_again(wish)
            written = self._written.warning(replay.forward.leaves)
            if written:
                session.hooks.announce(written)
        else:
            session.changes.timelines.live.cells[:] = cells
            session.begin(self._at_entry, through=bool(self._call))
        session.changes.timelines.live.starts.clear()
        session.hooks.program_begins()
        runs = lambda: recorder.mode != MUTED  # noqa: E731
        self._readings.begin(anew=run is None)
        with ExitStack() as stack:
            for watching in (
                self.script.kept.importing(self._left_outside.keep), recording(recorder), self._breakpoints(),
                self._left_outside.watching(), self._written.watching(runs), self._readings.watching(runs),
            ):  # fmt: skip
                stack.enter_context(watching)
            return self._to_its_end(recorder)

    def _to_its_end(self, recorder: Recorder) -> BaseException | None:
        """Run the script, and then cell after cell, as long as the user types some. Returns what ended the script."""
        session = self.session
        self._main = self.script.enter()
        self.raised, self.provided = {}, []
        status = error = self._run(self.script.run)
        self._note(None, error)
        cell: Cell | None = None
        while True:
            line = session.changes.timelines.live
            if not line.below:
                self._wait(cell, error)
                line = session.changes.timelines.live  # a reload may have begun another
                if not line.below:
                    return status
            cell = line.below[0]
            recorder.close_pass()
            seen = len(line.starts) < self._seen
            cell_begins(session, cell not in self._ran or (self._whole and not seen), seen)
            self._ran.add(cell)
            self.provided += needed(cell.names, self.namespace)
            error = self._run(partial(run_cell, cell, self.namespace, self.script.loop), cell)
            self._note(cell, error)
            if isinstance(error, SystemExit) and is_leaving(error):
                raise Quit

    def _note(self, cell: Cell | None, error: BaseException | None) -> None:
        if error is not None:
            self.raised[cell] = error

    def _run(self, part: Callable[[], None], cell: Cell | None = None) -> BaseException | None:
        """Run a part of the program, itself or a cell. Returns what ended it."""
        session, before = self.session, self.session.changes.timelines.live.cut
        if not session.replaying and not self._whole:
            before.pop(cell, None)
        try:
            resume()
            with clean_walks(), self._cut_again(before.get(cell)):
                part()
        except Unwinding:
            raise
        except BaseException as error:
            if cell in before and error is before[cell].again:
                return error  # which has been shown
            if isinstance(error, KeyboardInterrupt) and session.replaying:
                raise CannotExchange("interrupted where it ran again") from error
            if self._forward is not None and self.session.replaying and self._forward.failed(error):
                raise NotKept("the program needs numbers that have not been kept") from error
            if isinstance(error, KeyboardInterrupt):
                from nnrepl.timeline.cut_short import cut_by

                session.changes.timelines.live.cut[cell] = cut_by(error)
            if not isinstance(error, SystemExit) and not session.replaying:
                print_exception(error)
            return error
        return None

    def _cut_again(self, cut: CutShort | None) -> AbstractContextManager[None]:
        """End the part that runs again inside where it was ended, if it was."""
        if cut is None:
            return nullcontext()
        from nnrepl.timeline.cut_short import cut_again

        return cut_again(cut, self._done)

    def _done(self) -> bool:
        """Whether the part that runs again has done all that is on the tape of it."""
        recorder, begun = self.session.recorder, len(self.session.changes.timelines.live.starts)
        if recorder is None:
            return False
        at = len(recorder.tape)
        if isinstance(recorder.intake, Replay):
            at = recorder.intake.opening.before(at)
        return at >= self._ends[min(begun, len(self._ends) - 1)]

    def _wait(self, cell: Cell | None, error: BaseException | None) -> None:
        """All has run that there is: the user has the floor, unless the call is to be made that was asked for."""
        call, self._call = self._call, ""
        if call and (error is None or isinstance(error, SystemExit)):
            append(self.session, (self.make(call),), stop=True)
            return
        self._waits = self._at_end = True
        self._over = None
        try:
            if cell is None:
                self.session.ended(error)
            else:
                cell_ended(self.session, cell, error)
        finally:
            self._waits = False

    def _load(self, script: Script) -> None:
        """Another program takes the place of this one, and of what has been typed at its end."""
        self.session.changes.timelines.live.cells.clear()
        self._reset()
        self._take(script)
        self._leave_names()
        said = (f"{script.title}: running to its first op", *script.notes, self.session.on_load(script.path))
        for line in filter(None, said):
            self.session.hooks.announce(line)

    def _strand(self, failure: Unwinding) -> None:
        """Note that the program went another way when it ran again: the user looks at what there was."""
        resume()
        self.session.changes.failed()
        self.session.strand(f"{failure}; the program is over, restart runs it anew")

    def _reset(self) -> None:
        """Put things back, so that the program does again what it did: the random states, its input, and the
        modules that it had imported."""
        self._random.restore()
        if self._reads_input:
            reset_stdin()
        forget_modules(self._modules, self.session.tape)

    @contextmanager
    def _breakpoints(self) -> Iterator[None]:
        """`breakpoint()` in the program stops it under nnrepl, unless PYTHONBREAKPOINT names something else, or the
        program has its standard input to itself (`--batch`): then nobody is there to be asked, as under Python."""
        before = sys.breakpointhook
        if "PYTHONBREAKPOINT" not in os.environ and not self._reads_input:
            sys.breakpointhook = lambda *args, **kwargs: self.session.break_here("breakpoint()")
        try:
            yield
        finally:
            sys.breakpointhook = before


def _inside(run: Run) -> bool:
    """Whether a cell that begins right where something else happens has begun before that."""
    return not run.ops or run.position < len(run.old)


def _alone(wish: Unwinding) -> Unwinding:
    """Return what ended a run without its frames: they hold the run and its tape, and the wish that began it."""
    wish.__context__ = None
    return wish.with_traceback(None)
