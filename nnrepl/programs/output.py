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
        self._tell: Callable[[str], None] | None = None
        self._seen = -1
        self._process = os.getpid()

    def hold(self) -> None:
        """Begin to keep. A program that has put its own object in the place of `sys.stdout` keeps it."""
        if not self._holding and self._stand_in():
            self._holding = True

    def watch(self, tell: Callable[[str], None]) -> None:
        """From now on, until `release`, also tell what is printed and not kept."""
        if self._stand_in():
            self._tell = tell

    def _stand_in(self) -> bool:
        """Put a stream of ours in the place of standard output."""
        real = sys.stdout
        if real is self._stream and real is not None:
            return True
        if not isinstance(real, io.TextIOWrapper):
            return False
        if self._stream is None or self._real is not real:
            self._real = real
            raw: Any = _Held(real, self._keep)  # unbuffered, so that each piece gets its position
            self._stream = io.TextIOWrapper(
                raw, encoding=real.encoding, errors=real.errors, newline="", write_through=True
            )
        sys.stdout = self._stream
        return True

    def _keep(self, data: bytes) -> bool:
        if not self._holding or os.getpid() != self._process:
            if data and self._tell is not None and self._stream is not None:
                self._tell(data.decode(self._stream.encoding, "replace"))
            return False
        if data and self._position() > self._seen:
            self._pieces.append((self._position(), data))
        return True

    def release(self) -> None:
        """Stop keeping; what was kept waits for `show`."""
        self._tell = None
        if self._stream is None or sys.stdout is not self._stream:
            self._holding = False
            return
        self._stream.flush()
        self._holding = False
        if self._real is not None:
            sys.stdout = self._real

    def show(self, position: int | None = None, say: Callable[[str], None] | None = None) -> str:
        """Print what the program printed before `position` (all of it by default) and has not been shown;
        returns it.

        Args:
            say: What to do with it instead of printing it.
        """
        real: Any = self._real
        shown: list[bytes] = []
        while real is not None and self._pieces and (position is None or self._pieces[0][0] <= position):
            shown.append(self._pieces.pop(0)[1])
        if not shown:
            return ""
        text = b"".join(shown).decode(real.encoding, "replace")
        if say is not None:
            say(text)
        else:
            real.flush()
            real.buffer.write(b"".join(shown))
            real.flush()
        return text

    def begin_again(self, position: int) -> None:
        """The program runs again: what it prints up to `position` has been shown, what waits from there on will
        be printed anew."""
        self._pieces = [piece for piece in self._pieces if piece[0] <= position]
        self._seen = position
        self.hold()

    def begin_anew(self) -> None:
        """What is printed from now on has never been seen: it is shown at once."""
        self._seen = -1
        self.release()
