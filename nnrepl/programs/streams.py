"""Streams: what stands in for standard output and standard error while the program runs.

The real streams are nnrepl's own: whatever a program does to those that it sees (it replaces, wraps, detaches, closes
them, opens their descriptors anew), the prompt stays. One that begins again from its start finds them as they were.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import IO, Any, cast

Keep = Callable[[bytes], bool]

_AS_FILES = {"/dev/stdout": 1, "/dev/fd/1": 1, "/dev/stderr": 2, "/dev/fd/2": 2}
_STANDING: dict[int, HeldRaw] = {}
"""By the descriptor of the real stream: what stands in for it, while the program runs."""


class HeldRaw(io.RawIOBase):
    """The raw end of a stream of the program.

    Args:
        real: The stream on which it is shown.
        keep: Takes what is written. Returns whether that is kept, and not to be shown now.

    Attributes:
        shut: Whether the program has closed its descriptor: that is open still, for nnrepl.
    """

    def __init__(self, real: IO[str], keep: Keep) -> None:
        self.real = real
        self.keep = keep
        self.name = real.name
        self.mode = "wb"
        self.shut = False

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.real.isatty()

    def fileno(self) -> int:
        return self.real.fileno()

    def flush(self) -> None:
        if not self.closed and not self.real.closed and not self.keep(b""):  # a finalizer asks, too
            self.real.flush()

    def write(self, data: Any) -> int:
        if self.shut:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        kept = bytes(data)
        if not self.keep(kept):
            self.real.flush()
            write(self.real, kept)
            if getattr(self.real, "line_buffering", False):
                self.real.flush()
        return len(kept)


def write(real: Any, data: bytes) -> None:
    """Write to a text stream; that of a notebook's kernel has no bytes behind it."""
    if isinstance(real, io.TextIOWrapper):
        real.buffer.write(data)
    else:
        real.write(data.decode(real.encoding, "replace"))


def is_held(real: Any) -> bool:
    """Whether a stream is the real one: a text stream of Python's own, or the one that a notebook's kernel made."""
    return isinstance(real, io.TextIOWrapper) or type(real).__module__.partition(".")[0] == "ipykernel"


class ProgramStream:
    """One of the program's two streams: the real one, and what the program has in its place.

    The program may keep the stream that stands in (a logger and a progress bar do): once nothing is held, that passes
    everything on. What the program has put in its place is put back whenever it runs on.

    Args:
        name: `stdout` or `stderr`.
        keep: Takes the stream and what was written.
    """

    def __init__(self, name: str, keep: Callable[[ProgramStream, bytes], bool]) -> None:
        self.name = name
        self.real: Any = None
        self._keep = keep
        self._raw: HeldRaw | None = None
        self._stand_in: io.TextIOWrapper | None = None
        self._own: Any = None

    def enter(self) -> None:
        """Let the program have its stream: at first one that stands in for the real one."""
        now = getattr(sys, self.name)
        now = getattr(now, "behind", now)  # at the prompt, whose own stand-in is taken away with the command
        if self._stand_in is None and now is not None and is_held(now):
            self.real = now
            self._raw = HeldRaw(now, lambda data: self._keep(self, data))  # unbuffered: each piece gets its position
            self._own = self._stand_in = io.TextIOWrapper(
                cast(Any, self._raw), encoding=now.encoding, errors=now.errors, newline="", write_through=True
            )
        if self._stand_in is not None and now is self.real:
            setattr(sys, self.name, self._own)
            self._original(self.real, self._stand_in)
            self._stands(True)

    def leave(self) -> None:
        """Put the real one back; what the program has there waits for `enter`."""
        now = getattr(sys, self.name)
        if self._stand_in is None:
            return
        if now is not self.real:
            self._own = now
            if isinstance(now, io.TextIOWrapper):
                _flush(now)
            setattr(sys, self.name, self.real)
        self._original(self._stand_in, self.real)
        self._stands(False)

    def give_back(self) -> None:
        """Leave for good: what the program has put in the stream's place is what others find there."""
        self.leave()
        if self._stand_in is not None and self._own is not self._stand_in:
            setattr(sys, self.name, self._own)
        self._own = self._stand_in = None

    def begin(self) -> None:
        """Note that the program begins at its start: it finds the stream as it was."""
        self.leave()
        self._own = self._stand_in = None

    def _original(self, before: Any, after: Any) -> None:
        """Put one in the other's place in `sys.__stdout__`."""
        if getattr(sys, f"__{self.name}__") is before:
            setattr(sys, f"__{self.name}__", after)

    def _stands(self, now: bool) -> None:
        try:
            number = self.real.fileno()
        except (OSError, ValueError):  # one without a descriptor: a notebook's
            return
        if now and self._raw is not None:
            _STANDING[number] = self._raw
        elif _STANDING.get(number) is self._raw:
            del _STANDING[number]

    def show(self, data: bytes) -> None:
        """Print something after all."""
        self.real.flush()
        write(self.real, data)
        self.real.flush()

    def goes_with(self, other: ProgramStream) -> bool:
        """Whether what is printed on both comes out in one place: a terminal, one file."""
        try:
            return self is other or os.path.sameopenfile(self.real.fileno(), other.real.fileno())
        except (OSError, ValueError, AttributeError):  # one without a descriptor
            return True

    def text(self, data: bytes) -> str:
        """Return what was printed, as text."""
        return data.decode(self.real.encoding, "replace")


def _flush(stream: io.TextIOWrapper) -> None:
    """Flush a stream of the program, which may have closed it, or taken its end away."""
    try:
        stream.flush()
    except ValueError:
        return


def shut(number: int) -> bool:
    """Close the descriptor of one of the program's two streams, as far as the program sees it; returns whether it is
    one."""
    raw = _STANDING.get(number)
    if raw is None:
        return False
    if raw.shut:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    raw.shut = True
    return True


def opened(
    file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, *_: Any, **__: Any,
) -> IO[Any] | None:  # fmt: skip
    """Return what `open` gives a program for one of its two streams, by descriptor or as a file; None for others.

    It is a stream on ours: to close it, as Python does when nobody holds it any more, takes nothing from nnrepl.
    """
    number = _AS_FILES.get(os.fspath(file)) if isinstance(file, (str, os.PathLike)) else file
    if not isinstance(number, int) or ("r" in mode and "+" not in mode):
        return None
    raw = _STANDING.get(number)
    if raw is None:
        return None
    end: Any = HeldRaw(raw.real, raw.keep)
    if "b" in mode and buffering == 0:
        return cast(IO[Any], end)
    buffer = io.BufferedWriter(end, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
    if "b" in mode:
        return buffer
    lines = buffering == 1 or (buffering < 0 and end.isatty())
    return io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=lines)
