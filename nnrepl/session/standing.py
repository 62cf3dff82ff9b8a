"""Standing: a session as its own parts see it: what they may ask of it, and tell it to do.

The parts that edit, open closed calls, run cells and run the program again take this and not the `Session`, which
holds them: so the files stand on each other without a circle.
"""

from __future__ import annotations

from typing import Any, Protocol

from nnrepl.record.names import ProgramNames
from nnrepl.replay.opening import Opening
from nnrepl.session.goals import Goal
from nnrepl.session.motions import Motions
from nnrepl.session.passing import Passing
from nnrepl.session.place import Place
from nnrepl.session.stops import Trigger
from nnrepl.tape import Tape
from nnrepl.timeline.code import CodeChange, SourceChanges
from nnrepl.timeline.history import History
from nnrepl.timeline.timelines import Timeline, Timelines


class Edits(Protocol):
    """The timelines of a session, and who makes new ones (`nnrepl.session.changes`)."""

    @property
    def timelines(self) -> Timelines:
        """All of them."""

    @property
    def can_run_again(self) -> bool:
        """Whether there is a program that can run again from its start."""

    def reload(self, change: CodeChange) -> Timeline:
        """Take a change of the program's source in. Raises UserError."""

    def open(self, steps: frozenset[int], cursor: int, then: Goal | None = None, losses: bool = False) -> None:
        """Let the program run again with some closed steps recorded. Raises RunAgain, UserError."""


class Standing(Motions):
    """A user's place on a tape, and what can be done with the program there.

    Attributes:
        codes: The changes of the program's source that hold in it.
        process: The process in which the session is; a child that the program forks is not debugged.
        opening: The steps that the program is running again for, to open them; `stood` is where the user is to stand
            then, if they had the floor.
        many: How many steps the command that runs opens at once where it is not known which it needs.
        surprises: How often the program has gone another way about its weights natively than where it was recorded.
        passing: What Python tells of the program as it runs.
        scouts: Who looks out while it runs natively: for what goal and which stops, None in the last place where that
            takes recording.
        openings: How often steps have been opened for the command that runs.
        awaited: The places where the program is wanted, as they were known when it was last let go.
        alarms: How many steps have been opened for a command because something might have been hit there.
        history: What keeps the values of the tape that is recorded within the budget, once there is one.
        wary: Up to which step all are recorded after the last alarm, since many are for nothing.
    """

    codes: SourceChanges
    process: int
    opening: Opening | None
    stood: int | None
    many: int
    openings: int
    surprises: int
    passing: Passing
    scouts: tuple[Goal, tuple[Trigger, ...], list[Any] | None] | None
    awaited: list[Place]
    alarms: int
    wary: int
    history: History | None

    @property
    def edits(self) -> Edits:
        """The timelines, and who makes new ones."""
        raise NotImplementedError

    def look_at(self, tape: Tape, names: ProgramNames, cursor: int) -> None:
        """Stand on another tape."""
        raise NotImplementedError

    def let_go(self, goal: Goal) -> None:
        """Let the program run on to a goal, on the timeline that the user looks at. Raises UserError, RunAgain."""
        raise NotImplementedError

    def give_floor(self) -> None:
        """Let the user look around, until the program is to go on."""
        raise NotImplementedError

    def may_run_natively(self) -> bool:
        """Whether calls may run natively."""
        raise NotImplementedError

    def call_left(self) -> None:
        """Note that a call has been made that is closed on the tape, or was."""
        raise NotImplementedError

    def caught_up(self, position: int) -> bool:
        """All that was on the tape has been done again: what is recorded from a position on is new, and looked at.
        Returns whether the program has something to run on for."""
        raise NotImplementedError


class Files(Protocol):
    """The files of the program, which may change while it runs."""

    def reload(self, session: Standing, everything: bool = False) -> list[str]:
        """Take what has changed over; returns what to say if nothing was. Raises UserError."""

    def notice(self, session: Standing) -> str:
        """Return that a file has changed since it was read, said once for each change; "" if none has."""

    def read_again(self) -> None:
        """Note that the program is about to start anew, from the files as they are now. Raises UserError."""
