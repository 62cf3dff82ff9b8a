"""Waiting: a tape on which there is more to put as soon as somebody looks at it.

Where a program runs natively and nothing but the user can stop it, what is noted of a call is a few words. They become
ops and passes when anybody asks the tape for those: so a step costs less while it runs, and a tape can never be seen
without them.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from nnrepl.tape.tape import Tape


class WaitingTape(Tape):
    """A tape of which the ops and passes are not all there yet. Whoever asks for them makes it a tape like any other.

    Attributes:
        arrive: Puts there what is not there yet.
        thread: The one in which that can be done; others see what is there.
    """

    arrive: Callable[[Tape], None]
    thread: int

    # They are attributes of a tape: nobody pays for a call of a property where nothing waits.
    @property
    def ops(self) -> Any:  # type: ignore[override]
        """The ops in order of execution."""
        return self._all()["ops"]

    @property
    def passes(self) -> Any:  # type: ignore[override]
        """The passes in order."""
        return self._all()["passes"]

    def _all(self) -> dict[str, Any]:
        if get_ident() == self.thread:
            self.__class__ = Tape  # type: ignore[assignment]
            self.arrive(self)
        return vars(self)


def wait(tape: Tape, arrive: Callable[[Tape], None]) -> None:
    """Have what is not on a tape yet put there when somebody looks at it."""
    tape.__class__ = WaitingTape
    assert isinstance(tape, WaitingTape)
    tape.arrive, tape.thread = arrive, get_ident()
