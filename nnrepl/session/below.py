"""Below: the program under a session and its files, as far as the session knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from nnrepl.timeline.cells import Cell

if TYPE_CHECKING:
    from nnrepl.session.session import Session


class TakesCells(Protocol):
    """The program under a session, as the prompt sees it.

    Attributes:
        namespace: The variables of its `__main__`.
        waits: Whether it is over, so that it can take another cell.
        upcoming: The number that the next cell will have.
        bare: Whether it has no line but those that are typed.
    """

    @property
    def namespace(self) -> dict[str, Any]: ...

    @property
    def waits(self) -> bool: ...

    @property
    def upcoming(self) -> int: ...

    @property
    def bare(self) -> bool: ...

    def make(self, text: str) -> Cell:
        """Compile what was typed as the next cell. Raises SyntaxError."""


class Files(Protocol):
    """The files of the program, which may change while it runs."""

    def reload(self, session: Session, everything: bool = False) -> list[str]:
        """Take what has changed over; returns what to say if nothing was. Raises UserError."""

    def notice(self, session: Session) -> str:
        """That a file has changed since it was read, said once for each change; "" if none has."""

    def read_again(self) -> None:
        """The program is about to start anew, from the files as they are now. Raises UserError."""
