"""A frame that is being watched: what its variables held when they were looked at last."""

from __future__ import annotations

from types import FrameType
from typing import Any

from nnrepl.record.containers import Watched
from nnrepl.record.frame_variables import OPTIMIZED, looked_at
from nnrepl.tape import UNBOUND, Activation
from nnrepl.tape.bindings import Bindings, Noted


class WatchedFrame:
    """A frame that is being watched: its variables, what they held last, and the small containers among them."""

    __slots__ = (
        "bindings", "coming", "containers", "kept", "library", "names", "noted", "optimized", "others", "scope",
        "shared", "values",
    )  # fmt: skip

    def __init__(self, frame: FrameType) -> None:
        code = frame.f_code
        self.optimized = bool(code.co_flags & OPTIMIZED)
        self.names, self.library = looked_at(code)
        self.values: list[Any] = [UNBOUND] * len(self.names)
        self.kept: list[Any] = [UNBOUND] * len(self.names)
        """What was noted of the values."""
        self.noted: Noted | None = None
        self.bindings: Bindings | None = None
        """Of which tape that is."""
        self.coming: list[Any] = []
        self.containers: list[tuple[Any, Watched]] = []
        self.others = False
        """Whether it reads variables that other code has set: a function of the program's, or a cell."""
        self.shared: list[tuple[Any, Watched]] | None = []
        self.scope: Activation
