"""Output: what the program prints while a pass is recorded is kept, and shown when the cursor comes by."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import IO, Any


class _Held(io.RawIOBase):
    """The raw end of a stream that keeps what is written."""

    def __init__(self, real: IO[str], keep: Callable[[bytes], None]) -> None:
        self._real = real
        self._keep = keep

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._real.isatty()

    def fileno(self) -> int:
        return self._real.fileno()

    def write(self, data: Any) -> int:
        kept = bytes(data)
        self._keep(kept)
        return len(kept)


class HeldOutput:
    """Keeps what goes to `sys.stdout`, piece by piece with the position of the op that came next.

    Args:
        position: Tells where the tape ends now.
    """

    def __init__(self, position: Callable[[], int]) -> None:
        self._position = position
        self._pieces: list[tuple[int, bytes]] = []
        self._real: IO[str] | None = None
        self._stream: io.TextIOWrapper | None = None

    def hold(self) -> None:
        """Begin to keep. A program that has put its own object in the place of `sys.stdout` keeps it."""
        real = sys.stdout
        if self._real is not None or real is None or not isinstance(real, io.TextIOWrapper):
            return
        self._real = real
        raw = _Held(real, lambda data: self._pieces.append((self._position(), data)))
        self._stream = io.TextIOWrapper(
            raw,  # type: ignore[arg-type]  # unbuffered, so that each piece gets its position
            encoding=real.encoding,
            errors=real.errors,
            newline="",
            write_through=True,
        )
        sys.stdout = self._stream

    def release(self) -> None:
        """Stop keeping; what was kept waits for `show`."""
        if self._real is None or self._stream is None:
            return
        self._stream.flush()
        if sys.stdout is self._stream:
            sys.stdout = self._real
        self._stream.detach()
        self._stream = None

    def show(self, position: int | None = None) -> None:
        """Print what the program printed before `position` (all of it by default) and has not been shown."""
        real: Any = self._real
        if real is None:
            return
        while self._pieces and (position is None or self._pieces[0][0] <= position):
            _, data = self._pieces.pop(0)
            real.flush()
            real.buffer.write(data)
        real.flush()
        if self._stream is None and not self._pieces:
            self._real = None
