"""State: whose turn it is, the user's or the program's, and how it goes from one to the other.

    Waiting ── give ──▶ Going ── rest ──▶ Waiting        a program runs under the session
       │                 │  ▲
       │                end caught_up
       │                 ▼  │
       └── follow ──▶  Over  Replaying                   it has ended, or does again what is on the tape

Everything else that tells how things stand (`Session.running`, `replaying`, `waits`, `stop`, `goal`) is read from here.
"""

from __future__ import annotations

from nnrepl.classes import dataclass
from nnrepl.record.intake import Unwinding
from nnrepl.replay.run import Run
from nnrepl.session.goals import Goal
from nnrepl.session.hooks import Stop


@dataclass(frozen=True, slots=True)
class Waiting:
    """The user has the floor; the program stands between two of its ops."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class Over:
    """The user has the floor; no program runs: it has ended, or there never was one."""

    stop: Stop


@dataclass(slots=True)
class Going:
    """The program runs, and what it does is new.

    Attributes:
        goal: What it runs on for.
        interrupted: Whether the user wants it to stop at its next op.
        unstopped: Whether nothing but the user can stop it before its end; False as long as that is not known.
        alone: Whether it is known besides that no change of its source waits for it, and that it can run again.
    """

    goal: Goal
    interrupted: bool = False
    unstopped: bool = False
    alone: bool = False


@dataclass(slots=True)
class Replaying:
    """The program does again what is on the tape.

    Attributes:
        goal: Up to where.
        then: What it runs on for from there; None: it waits there.
        interrupted: Whether it is to stop at its next op, since the user wants that, or since what it ran again for
            cannot be.
        why: What is said then.
    """

    goal: Goal
    then: Goal | None
    interrupted: bool = False
    why: str = "interrupted; everything is as it was"


State = Waiting | Over | Going | Replaying


class RunAgain(Unwinding):
    """Unwinds the program so that it runs again from its start, along the tape as far as that holds.

    Attributes:
        run: What has to run again.
        then: What it is to run on for afterwards; None: it waits where the run leads.
        failure: What went wrong on the way to another timeline, which the program leaves for the one before; "" if
            nothing has.
    """

    def __init__(self, run: Run, failure: str = "") -> None:
        super().__init__("run again")
        self.run = run
        self.then: Goal | None = None
        self.failure = failure


class Course:
    """The state of a session. It changes by these methods and by no other way.

    Attributes:
        now: The state.
        error: The exception that ended the program; None if it ended by itself, or has not ended yet. The cells that
            follow leave it as it is.
    """

    def __init__(self) -> None:
        self.now: State = Over(Stop("", 0))
        self.error: BaseException | None = None

    def begin(self, goal: Goal) -> None:
        """Note that the program is about to run from its start, for the first time or anew."""
        assert isinstance(self.now, (Waiting, Over)), self.now
        self.now, self.error = Going(goal), None

    def follow(self, goal: Goal, then: Goal | None, failure: str = "") -> None:
        """Note that the program is about to run again along the tape; after a failure only to be there."""
        assert isinstance(self.now, (Waiting, Over)), self.now
        self.now = Replaying(goal, then)
        if failure:
            self.now = Replaying(goal, then, True, failure)

    def give(self, goal: Goal) -> None:
        """Give the program the floor, until it has come to a goal; one that has it already goes on to that goal."""
        if isinstance(self.now, Replaying):
            self.now.then = self.now.then or goal
        else:
            self.now = Going(goal)

    def redirect(self, goal: Goal) -> None:
        """Note that the program itself asks to be stopped elsewhere."""
        assert isinstance(self.now, Going), self.now
        self.now.goal, self.now.unstopped = goal, False

    def caught_up(self) -> bool:
        """All has been done again: what comes is new. Returns whether there is something to run on for."""
        now = self.now
        assert isinstance(now, Replaying), now
        self.now = Going(now.then or now.goal, now.interrupted)
        return now.then is not None

    def end(self, position: int) -> Goal | None:
        """Note that the program has come to its end, at a position. Returns what it was to come to."""
        assert not isinstance(self.now, Replaying), self.now
        goal = self.now.goal if isinstance(self.now, Going) else None
        self.now = Over(Stop("", position))
        return goal

    def strand(self) -> None:
        """Note that the program went another way when it ran again: it is over."""
        self.now = Over(Stop("", 0))

    def rest(self, stop: Stop) -> None:
        """Give the user the floor."""
        self.now = Over(stop) if isinstance(self.now, Over) else Waiting(stop)

    def interrupt(self) -> bool:
        """Let the program stop at its next op. Returns False if it does not run, or was told so already."""
        now = self.now
        if isinstance(now, (Waiting, Over)):
            return False
        now.interrupted = not now.interrupted
        return now.interrupted
