"""Output: what the program prints is kept while a pass is recorded, and shown when the cursor comes by; and it is
shown once, however often the program runs again."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Any

from nnrepl.record.process import this_process


@dataclass(frozen=True, slots=True)
class _Piece:
    """Something that was printed.

    Attributes:
        position: The position of the op that came next.
        stream: Where to.
        data: What.
    """

    position: int
    stream: _Stream
    data: bytes


class _Held(io.RawIOBase):
    """The raw end of the stream that stands in for standard output, or for standard error."""

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
            write(self._real, kept)
            if getattr(self._real, "line_buffering", False):
                self._real.flush()
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


class _Stream:
    """One of the program's two streams, and what stands in for it.

    The program may keep the stream that stands in (a logger and a progress bar do): once nothing is held, that passes
    everything on. A program that has put its own object in the place of the stream keeps that.
    """

    def __init__(self, name: str, keep: Callable[[_Stream, bytes], bool]) -> None:
        self.name = name
        self.real: Any = None
        self._keep = keep
        self._stand_in: io.TextIOWrapper | None = None

    def enter(self) -> None:
        """Put a stream of ours in the place of the real one."""
        real = getattr(sys, self.name)
        real = getattr(real, "behind", real)  # at the prompt, whose own stand-in is taken away with the command
        if real is None or real is self._stand_in or not is_held(real):
            return
        if self._stand_in is None or self.real is not real:
            self.real = real
            raw: Any = _Held(real, lambda data: self._keep(self, data))  # unbuffered: each piece gets its position
            self._stand_in = io.TextIOWrapper(
                raw, encoding=real.encoding, errors=real.errors, newline="", write_through=True
            )
        setattr(sys, self.name, self._stand_in)

    def leave(self) -> None:
        """Put the real one back."""
        if self._stand_in is not None and getattr(sys, self.name) is self._stand_in:
            self._stand_in.flush()
            setattr(sys, self.name, self.real)

    def show(self, data: bytes) -> None:
        """Print something after all."""
        self.real.flush()
        write(self.real, data)
        self.real.flush()

    def text(self, data: bytes) -> str:
        """Return what was printed, as text."""
        return data.decode(self.real.encoding, "replace")


class HeldOutput:
    """Keeps what goes to standard output and standard error, piece by piece.

    Args:
        position: Tells where the tape ends now.

    Attributes:
        holds: Whether what is printed is kept.
    """

    def __init__(self, position: Callable[[], int]) -> None:
        self._position = position
        self._pieces: list[_Piece] = []
        self._streams = [_Stream(name, self._keep) for name in ("stdout", "stderr")]
        self.holds = False
        self._unwinding = False
        self._tell: Callable[[str], None] | None = None
        self._seen = -1
        self._shown: list[_Piece] = []
        self._expected: list[bytes] = []
        self._elsewhere: set[bytes] = set()
        self._quitting = False
        self._ended: _Piece | None = None
        self._process = this_process()

    # -- when -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Note that a program begins of which nothing has been shown."""
        self.settle()
        self._unwinding = False
        self._pieces, self._shown, self._expected, self._seen = [], [], [], -1

    def stand_in(self) -> None:
        """Note that the program is about to run: its streams are ours, and pass everything on until something is
        held."""
        for stream in self._streams:
            stream.enter()

    def hold(self) -> None:
        """Begin to keep."""
        self.stand_in()
        self.holds = True

    def watch(self, tell: Callable[[str], None]) -> None:
        """From now on, until `settle`, also tell what is printed and not kept."""
        self.stand_in()
        self._tell = tell

    def settle(self) -> None:
        """Stop keeping; what was kept waits for `show`."""
        self._tell = None
        self.holds = False

    def leave(self) -> None:
        """Note that the program does not run now: the streams are the real ones."""
        self.settle()
        for stream in self._streams:
            stream.leave()

    def unwinding(self) -> None:
        """Note that the program is taken apart, to run again: what it prints on the way (in a `finally`) it would not
        have printed."""
        self.hold()
        self._unwinding = True

    def quitting(self) -> None:
        """Note that the program is taken apart for good: of what it still prints, only what nobody has seen is
        shown."""
        if self._elsewhere:
            self.hold()
            self._quitting = True

    def begin_again(self, position: int, cursor: int) -> None:
        """Note that the program runs again.

        Args:
            position: What it prints up to there has been shown; what waits will be printed anew.
            cursor: What it printed between `position` and there has been shown too: it is shown again only where
                the program prints something else now.
        """
        self._unwinding = False
        self._pieces = []
        later = [piece for piece in self._shown if piece.position > cursor]
        self._elsewhere.update([line for _, data in self._runs(later) for line in data.splitlines(keepends=True)])
        again = [piece for piece in self._shown if position < piece.position <= cursor]
        self._shown = [piece for piece in self._shown if piece.position <= position]
        self._expected = b"".join([piece.data for piece in again]).splitlines(keepends=True)
        self._seen = position
        self.hold()

    # -- what -------------------------------------------------------------------------------------------

    def _keep(self, stream: _Stream, data: bytes) -> bool:
        if this_process() != self._process:
            return False
        if self._unwinding:
            return True
        piece = _Piece(self._position(), stream, data)
        if not self.holds:
            if data:
                self._remember(piece)
                if self._tell is not None:
                    self._tell(stream.text(data))
            return False
        if data and (piece.position > self._seen or self._quitting):
            self._pieces.append(piece)
        return True

    def show(self, position: int | None = None, say: Callable[[str], None] | None = None) -> str:
        """Print what the program printed before `position` (all of it by default) and has not been shown;
        returns it.

        Args:
            say: What to do with it instead of printing it.
        """
        if not self._pieces:  # as after nearly every op
            return ""
        shown: list[_Piece] = []
        while self._pieces and (position is None or self._pieces[0].position <= position):
            shown.append(self._pieces.pop(0))
        said = []
        for stream, data in self._runs(self._new(shown)):
            said.append(stream.text(data))
            if say is None:
                stream.show(data)
        for piece in shown:
            self._remember(piece)
        text = "".join(said)
        if text and say is not None:
            say(text)
        return text

    @property
    def midline(self) -> bool:
        """Whether the program has left the terminal in the middle of a line: a progress bar, a `print(end="")`."""
        last = self._shown[-1] if self._shown else None
        if last is None or last is self._ended:
            return False
        return bool(_CODES.sub(b"", last.data.rpartition(b"\n")[2]).strip(b"\r"))

    def ended(self) -> None:
        """Note that the line is ended: what nnrepl shows begins on one of its own."""
        self._ended = self._shown[-1]

    def moved(self, moved: Callable[[int], int], seen: int) -> None:
        """Positions of the tape have moved; what was printed up to `seen` has been shown."""
        self._shown = [replace(piece, position=moved(piece.position)) for piece in self._shown]
        self._seen = seen

    def begin_anew(self) -> None:
        """Note that what is printed from now on has never been seen: it is shown at once."""
        self._seen, self._expected = -1, []
        self.settle()

    def _new(self, pieces: list[_Piece]) -> list[_Piece]:
        """Return what has not been shown before, word for word, by the run that the user saw; line by line."""
        if self._quitting:
            lines = [(stream, line) for stream, data in self._runs(pieces) for line in data.splitlines(keepends=True)]
            return [_Piece(0, stream, line) for stream, line in lines if line not in self._elsewhere]
        while pieces and self._expected:
            line = self._expected[0]
            taken = length = 0
            while length < len(line) and taken < len(pieces):
                length += len(pieces[taken].data)
                taken += 1
            if b"".join([piece.data for piece in pieces[:taken]]) != line:
                self._expected = []
                break
            self._expected.pop(0)
            pieces = pieces[taken:]
        return pieces

    @staticmethod
    def _runs(pieces: list[_Piece]) -> list[tuple[_Stream, bytes]]:
        """Pieces for the same stream, together."""
        runs: list[tuple[_Stream, bytes]] = []
        for piece in pieces:
            if runs and runs[-1][0] is piece.stream:
                runs[-1] = (piece.stream, runs[-1][1] + piece.data)
            else:
                runs.append((piece.stream, piece.data))
        return runs

    def _remember(self, piece: _Piece) -> None:
        """Something has been shown. A long run may print without end; the oldest is forgotten."""
        self._shown.append(piece)
        if len(self._shown) > _REMEMBERED:
            del self._shown[: _REMEMBERED // 2]


_REMEMBERED = 20_000
_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
