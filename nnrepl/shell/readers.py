"""Readers: where lines come from."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TextIO

from nnrepl.commands.blocks import Blocks
from nnrepl.commands.table import Table
from nnrepl.shell.prompts import PROMPT

if TYPE_CHECKING:
    from nnrepl.shell.full import FullScreen


class Reader(Protocol):
    """A source of lines.

    Attributes:
        echoes: Whether a line is to be printed as it is run, because nobody saw it being typed.
        pages: Whether a user is there to ask for the next page of long output.
    """

    @property
    def echoes(self) -> bool: ...

    @property
    def pages(self) -> bool: ...

    @property
    def screen(self) -> FullScreen | None:
        """The full screen, if the user wants one."""

    def read(self, prompt: str = PROMPT) -> str | None:
        """Return the next line, or lines that belong together; None at the end. Raises KeyboardInterrupt."""


class Queue:
    """Lines that were given beforehand: `-c COMMAND`, `-x FILE`."""

    echoes = True
    pages = False
    screen = None

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def read(self, prompt: str = PROMPT) -> str | None:
        return next(self._lines, None)


class Pipe:
    """Standard input that is no terminal, or a terminal that is to be treated as none."""

    pages = False
    screen = None

    def __init__(self, table: Table) -> None:
        self._stdin = _forgiving(sys.stdin)
        self.echoes = not (self._stdin is not None and self._stdin.isatty())
        self._blocks = Blocks(self._line, table, typed=not self.echoes)
        self._prompt = PROMPT

    def read(self, prompt: str = PROMPT) -> str | None:
        self._prompt = prompt
        return self._blocks.read()

    def _line(self) -> str | None:
        if self._stdin is None or self._stdin.closed:
            return None
        if not self.echoes:
            print("... ".rjust(len(self._prompt)) if self._blocks.inside else self._prompt, end="", flush=True)
        line = self._stdin.readline()
        if not line.isascii() and isinstance(self._stdin, io.TextIOWrapper):  # raises for what is no text
            line = line.encode(self._stdin.encoding, "surrogateescape").decode(self._stdin.encoding)
        return line.rstrip("\n") if line else None


def _forgiving(stream: TextIO | None) -> TextIO | None:
    """Have a stream go on after bytes that are no text: a strict one loses all the lines that it has read ahead. One
    from which the program has read before stays as it is, as Python wants it."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        with contextlib.suppress(io.UnsupportedOperation):
            stream.reconfigure(errors="surrogateescape")
    return stream


class Chain:
    """One reader after another."""

    def __init__(self, readers: Iterable[Reader]) -> None:
        self._readers = list(readers)

    @property
    def echoes(self) -> bool:
        return bool(self._readers) and self._readers[0].echoes

    @property
    def pages(self) -> bool:
        return bool(self._readers) and self._readers[0].pages

    @property
    def screen(self) -> FullScreen | None:
        return self._readers[-1].screen if self._readers else None

    def read(self, prompt: str = PROMPT) -> str | None:
        while self._readers:
            line = self._readers[0].read(prompt)
            if line is not None or len(self._readers) == 1:
                return line  # at a terminal, Ctrl-D may be a slip: it can be asked again
            self._readers.pop(0)
        return None
