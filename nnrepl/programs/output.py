"""Output: what the program prints is kept while a pass is recorded, and shown when the cursor comes by; and it is
shown once, however often the program runs again."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from nnrepl.programs.printed import Printed, PrintedPiece, TapeOutput
from nnrepl.programs.streams import ProgramStream
from nnrepl.record.process import this_process
from nnrepl.record.quiet import is_quiet
from nnrepl.tape import Tape


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
        self._printed_at = -1
        self._streams = [ProgramStream(name, self._keep) for name in ("stdout", "stderr")]
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
        self.from_start()

    def from_start(self) -> None:
        """Note that the program begins at its start: whatever it did to its streams, they are as they were."""
        for stream in self._streams:
            stream.begin()

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

    def give_back(self) -> None:
        """Note that nothing is recorded any more: the streams are what the program has made of them."""
        self.settle()
        for stream in self._streams:
            stream.give_back()

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

    def begin_again(self, tape: Tape, old: Tape, position: int, seen: int, *, along: bool = False) -> None:
        """Take note that the program runs again.

        Args:
            tape: The one that it writes now.
            old: Along which tape.
            position: What it printed there up to this position has been shown.
            seen: Up to which position on the new tape that is.
            along: Whether the new tape is the same timeline.
        """
        self._unwinding = False
        self._printed.begin_again(tape, old, position, seen, self._streams, along=along)
        self.hold()

    def goes_on(self, tape: Tape, old: Tape) -> None:
        """Take note that the program writes another tape from now on, which shares all with the old one."""
        self._printed.goes_on(tape, old)

    # -- what -------------------------------------------------------------------------------------------

    def _keep(self, stream: ProgramStream, data: bytes) -> bool:
        if this_process() != self._process:
            return False
        if is_quiet():
            return True
        if self._unwinding or not data:
            return self.holds
        tape = self._tape()
        output, piece = self._printed.on(tape), PrintedPiece(len(tape), stream, data)
        if piece.position <= output.seen and self._elsewhere is None:
            if output.seen == sys.maxsize:
                output.again.append(piece)
            return True
        if self.holds:
            output.waiting.append(piece)
            return True
        self._printed_at = piece.position
        fresh = self._printed.passing(tape, self._streams).fresh(piece)
        self._left(fresh)
        for part in fresh:
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
        if not self._printed.on(tape).waiting:  # as after nearly every op
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

    def is_printed_at(self, position: int) -> bool:
        """Whether the program has printed since it made the last op before a position of its tape."""
        return self._printed_at >= position

    def ended(self) -> None:
        """End the line: what nnrepl shows begins on one of its own."""
        self._last = None

    def moved(self, moved: Callable[[int], int], seen: int) -> None:
        """Positions of the tape have moved; what was printed up to `seen` has been shown."""
        self._printed.moved(self._tape(), moved, seen)

    def move(self, moved: Callable[[int], int]) -> None:
        """Positions of the tape have moved, on which the program goes on."""
        self._printed.on(self._tape()).move(moved)
        self._printed_at = moved(self._printed_at)

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
        self._left(shown)
        return shown

    def _left(self, shown: list[PrintedPiece]) -> None:
        """Note what stands last where nnrepl prints as well: a progress bar in a file of its own is in nobody's way."""
        there = (piece for piece in reversed(shown) if piece.stream.goes_with(self._streams[0]))
        self._last = next(there, self._last)

    @staticmethod
    def _runs(pieces: list[PrintedPiece]) -> list[tuple[ProgramStream, bytes]]:
        """Pieces for the same stream, together."""
        runs: list[tuple[ProgramStream, bytes]] = []
        for piece in pieces:
            if runs and runs[-1][0] is piece.stream:
                runs[-1] = (piece.stream, runs[-1][1] + piece.data)
            else:
                runs.append((piece.stream, piece.data))
        return runs


_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
