"""Below: the program under a session, as far as the session knows it."""

from __future__ import annotations

from typing import Any, Protocol

from nnrepl.timeline.typed_cells import Cell


class TakesCells(Protocol):
    """The program under a session, as the prompt sees it.

    Attributes:
        namespace: The variables of its `__main__`.
        before: The variables as it had left them at its end, where it was to run again and has not come there; None
            where it has.
        waits: Whether it is over, so that it can take another cell.
        upcoming: The number that the next cell will have.
        bare: Whether it has no line but those that are typed.
    """

    @property
    def namespace(self) -> dict[str, Any]: ...

    @property
    def before(self) -> dict[str, Any] | None: ...

    @property
    def waits(self) -> bool: ...

    @property
    def upcoming(self) -> int: ...

    @property
    def bare(self) -> bool: ...

    def make(self, text: str) -> Cell:
        """Compile what was typed as the next cell. Raises SyntaxError."""
