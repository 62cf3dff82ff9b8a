"""Output: what the program prints is kept while a pass is recorded, and shown when the cursor comes by; and it is
shown once, however often the program runs again."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from typing import IO, Any

from nnrepl.programs.printed import Printed, PrintedPiece, TapeOutput
from nnrepl.record.process import this_process
from nnrepl.tape import Tape


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
        tape: Tells which tape the program writes.

    Attributes:
        holds: Whether what is printed is kept.
    """

    def __init__(self, tape: Callable[[], Tape]) -> None:
        self._tape = tape
        self._printed = Printed()
        self._streams = [_Stream(name, self._keep) for name in ("stdout", "stderr")]
        self.holds = False
        self._unwinding = False
        self._tell: Callable[[str], None] | None = None
        self._elsewhere: set[bytes] | None = None
        self._last: PrintedPiece | None = None
        self._process = this_process()

    # -- when -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Note that a program begins of which nothing has been shown."""
        self.settle()
        self._unwinding = False
        self._printed.forget()

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
        """Show, now that the program is taken apart for good, only what nobody has seen of what it still prints."""
        elsewhere = self._printed.elsewhere(self._tape(), self._streams)
        if elsewhere:
            self.hold()
            self._elsewhere = elsewhere

    def begin_again(self, tape: Tape, old: Tape, position: int, seen: int) -> None:
        """Take note that the program runs again.

        Args:
            tape: The one that it writes now.
            old: Along which tape.
            position: What it printed there up to this position has been shown.
            seen: Up to which position on the new tape that is.
        """
        self._unwinding = False
        self._printed.begin_again(tape, old, position, seen, self._streams)
        self.hold()

    def goes_on(self, tape: Tape, old: Tape) -> None:
        """Take note that the program writes another tape from now on, which shares all with the old one."""
        self._printed.goes_on(tape, old)

    # -- what -------------------------------------------------------------------------------------------

    def _keep(self, stream: _Stream, data: bytes) -> bool:
        if this_process() != self._process:
            return False
        if self._unwinding or not data:
            return self.holds
        tape = self._tape()
        output, piece = self._printed.on(tape), PrintedPiece(len(tape), stream, data)
        if piece.position <= output.seen and self._elsewhere is None:
            return True
        if self.holds:
            output.waiting.append(piece)
            return True
        fresh = self._printed.passing(tape, self._streams).fresh(piece)
        for part in fresh:
            self._last = part
            if self._tell is not None:
                self._tell(stream.text(part.data))
            if part is not piece:
                stream.show(part.data)
        return not fresh or fresh[-1] is not piece

    def show(
        self, tape: Tape | None = None, position: int | None = None, say: Callable[[str], None] | None = None
    ) -> str:
        """Print what the program printed before `position` (all of it by default) and has not been shown;
        returns it.

        Args:
            tape: On which tape; by default the one that it writes.
            say: What to do with it instead of printing it.
        """
        tape = self._tape() if tape is None else tape
        if not self._printed.on(tape).waiting:  # as behind nearly every op
            return ""
        output = self._printed.passing(tape, self._streams)
        said = []
        for stream, data in self._runs(self._new(output, output.take(position))):
            said.append(stream.text(data))
            if say is None:
                stream.show(data)
        text = "".join(said)
        if text and say is not None:
            say(text)
        return text

    @property
    def midline(self) -> bool:
        """Whether the program has left the terminal in the middle of a line: a progress bar, a `print(end="")`."""
        return self._last is not None and bool(_CODES.sub(b"", self._last.data.rpartition(b"\n")[2]).strip(b"\r"))

    def ended(self) -> None:
        """End the line: what nnrepl shows begins on one of its own."""
        self._last = None

    def moved(self, moved: Callable[[int], int], seen: int) -> None:
        """Positions of the tape have moved; what was printed up to `seen` has been shown."""
        self._printed.moved(self._tape(), moved, seen)

    def begin_anew(self) -> None:
        """Show at once what is printed from now on: it has never been seen."""
        output = self._printed.on(self._tape())
        output.seen = -1
        self._printed.new(output)
        self.settle()

    def _new(self, output: TapeOutput, pieces: list[PrintedPiece]) -> list[PrintedPiece]:
        """Return what is to be shown of what the cursor has passed."""
        if self._elsewhere is None:
            shown = [part for piece in pieces for part in output.fresh(piece)]
        else:
            lines = [(stream, line) for stream, data in self._runs(pieces) for line in data.splitlines(keepends=True)]
            shown = [PrintedPiece(0, stream, line) for stream, line in lines if line not in self._elsewhere]
        self._last = shown[-1] if shown else self._last
        return shown

    @staticmethod
    def _runs(pieces: list[PrintedPiece]) -> list[tuple[_Stream, bytes]]:
        """Pieces for the same stream, together."""
        runs: list[tuple[_Stream, bytes]] = []
        for piece in pieces:
            if runs and runs[-1][0] is piece.stream:
                runs[-1] = (piece.stream, runs[-1][1] + piece.data)
            else:
                runs.append((piece.stream, piece.data))
        return runs


_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
