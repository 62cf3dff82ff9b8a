"""Output: what the program prints while a pass is recorded is kept, and shown when the cursor comes by."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import IO, Any


class _Held(io.RawIOBase):
    """The raw end of the stream that stands in for standard output."""

    def __init__(self, real: IO[str], keep: Callable[[bytes], bool]) -> None:
        self._real = real
        self._keep = keep
        self.name = real.name
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._real.isatty()

    def fileno(self) -> int:
        return self._real.fileno()

    def flush(self) -> None:
        if not self._keep(b""):
            self._real.flush()

    def write(self, data: Any) -> int:
        kept = bytes(data)
        if not self._keep(kept):
            self._real.flush()
            self._real.buffer.write(kept)  # type: ignore[attr-defined]  # only real text streams are held
        return len(kept)


class HeldOutput:
    """Keeps what goes to `sys.stdout`, piece by piece with the position of the op that came next.

    The program may keep the stream that stands in (a logger does): once nothing is held, that passes
    everything on.

    Args:
        position: Tells where the tape ends now.
    """

    def __init__(self, position: Callable[[], int]) -> None:
        self._position = position
        self._pieces: list[tuple[int, bytes]] = []
        self._real: IO[str] | None = None
        self._stream: io.TextIOWrapper | None = None
        self._holding = False
        self._seen = -1
        self._process = os.getpid()

    def hold(self) -> None:
        """Begin to keep. A program that has put its own object in the place of `sys.stdout` keeps it."""
        real = sys.stdout
        if self._holding or not isinstance(real, io.TextIOWrapper):
            return
        if self._stream is None or self._real is not real:
            self._real = real
            raw: Any = _Held(real, self._keep)  # unbuffered, so that each piece gets its position
            self._stream = io.TextIOWrapper(
                raw, encoding=real.encoding, errors=real.errors, newline="", write_through=True
            )
        self._holding = True
        sys.stdout = self._stream

    def _keep(self, data: bytes) -> bool:
        if not self._holding or os.getpid() != self._process:
            return False
        if data and self._position() > self._seen:
            self._pieces.append((self._position(), data))
        return True

    def release(self) -> None:
        """Stop keeping; what was kept waits for `show`."""
        if not self._holding or self._stream is None:
            return
        self._stream.flush()
        self._holding = False
        if sys.stdout is self._stream and self._real is not None:
            sys.stdout = self._real

    def show(self, position: int | None = None) -> str:
        """Print what the program printed before `position` (all of it by default) and has not been shown;
        returns it."""
        real: Any = self._real
        shown: list[bytes] = []
        if real is None or not self._pieces:
            return ""
        while self._pieces and (position is None or self._pieces[0][0] <= position):
            _, data = self._pieces.pop(0)
            real.flush()
            real.buffer.write(data)
            shown.append(data)
        real.flush()
        return b"".join(shown).decode(real.encoding, "replace")

    def begin_again(self, position: int) -> None:
        """The program runs again: what it prints up to `position` has been shown, what waits from there on will
        be printed anew."""
        self._pieces = [piece for piece in self._pieces if piece[0] <= position]
        self._seen = position
        self.hold()
