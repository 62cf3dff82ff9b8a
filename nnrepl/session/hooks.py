"""Hooks: what a session tells the outside, and why the user has the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Any

from nnrepl.classes import dataclass
from nnrepl.session.stops import Hit
from nnrepl.tape import Face, Op, Tape

if TYPE_CHECKING:
    from nnrepl.replay.run import Run

START_OF_TAPE, END_OF_TAPE, END_OF_PROGRAM, EXCEPTION = "start of tape", "end of tape", "end of program", "exception"
OPENED = "opened"
CELL_DONE, CELL_FAILED = "end of cell", "exception in a cell"


@dataclass(frozen=True, slots=True)
class Stop(Face):
    """Why the user has the floor.

    Attributes:
        reason: "first op", "" for a motion that arrived, "end of program", "exception", ...
        position: Where the cursor stands.
        passed: The op that was just gone over, if it was a motion from op to op.
        error: The exception, where one is the reason.
        missed: What was sought and not found, in words.
        failed: Whether what the user wanted could not be done; the reason says why.
        hits: The breakpoints, watches and catches that were hit.
        session: Whose stop it is, if that is to be shown.
    """

    reason: str
    position: int
    passed: tuple[Op, ...] = ()
    error: BaseException | None = None
    missed: str = ""
    hits: tuple[Hit, ...] = ()
    failed: bool = False
    session: Any = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<Stop at position {self.position}{f': {self.reason}' if self.reason else ''}>"


class Hooks:
    """What a session tells the outside. The defaults do nothing."""

    def interact(self) -> None:
        """Give the user the floor (`TapeSession.stop` says why); return when the program is to run on."""

    def pass_started(self) -> None:
        """Note that a gradient pass is being recorded; nothing is said until its end."""

    def program_begins(self) -> None:
        """Note that the program is about to run from its start."""

    def unwinding(self) -> None:
        """Note that the program is about to be taken apart, to run again from its start."""

    def quitting(self) -> None:
        """Note that the program is about to be taken apart for good."""

    def running_again(self, run: Run, tape: Tape, from_start: bool) -> None:
        """Take note that the program runs again, and writes another tape; what it printed before the run's position has
        been seen."""

    def going_on(self, tape: Tape, old: Tape) -> None:
        """Take note that the program goes on, and writes another tape than the one so far."""

    def opening(self, title: str, line: str = "") -> None:
        """Note that a step that is closed is about to be opened, since the command that runs needs it: it is to be run
        once more when that has been done, or `line` instead."""

    def looks(self) -> bool:
        """Whether somebody looks at the program when it fails."""
        return True

    def opened(self, moved: Callable[[int], int], seen: int) -> None:
        """Note that a step has been opened: positions of the tape have moved, and what the program printed before
        `seen` has been seen."""

    def moved(self, moved: Callable[[int], int]) -> None:
        """Note that positions of the tape have moved, since old steps of it have been closed."""

    def has_printed(self, position: int) -> bool:
        """Whether the program has printed since it made the last op before a position."""
        return False

    def cell_begins(self) -> None:
        """Note that what was typed at the prompt begins to run for the first time."""

    def cursor_moved(self, position: int) -> None:
        """Note that the cursor stands at another place."""

    def announce(self, text: str) -> None:
        """Something is about to happen that takes a while."""

    def confirm(self, question: str, otherwise: bool = False) -> bool:
        """Whether the user agrees; where nobody can be asked, `otherwise`."""
        return otherwise

    def lend_terminal(self, run: Callable[[], int]) -> int:
        """Let another program have the terminal meanwhile. Returns its exit status."""
        return run()

    def progress(self, share: float, doing: str = "evaluating") -> None:
        """Note that a long evaluation has come so far."""
