"""Log: the session so far, commands and what they showed, to be written as HTML, SVG, Markdown or text."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import field

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI

from nnrepl.classes import dataclass

Line = list[Segment]

KEPT = 50_000
"""So many lines are kept; older ones are forgotten."""


@dataclass(slots=True)
class Logged:
    """A command and what it showed.

    Attributes:
        typed: The line that was typed, "" for what came unasked (a stop, the program's output).
        shown: Lines of what was shown.
        drawn: Pictures among them, which are nothing without their colours: first and last line, and lines of letters
            that stand for them in a text.
    """

    typed: str
    shown: list[Line] = field(default_factory=list)
    drawn: list[tuple[int, int, list[Line]]] = field(default_factory=list)

    def plain(self) -> list[str]:
        """Its lines as text."""
        lines: list[Line] = []
        at = 0
        for first, end, instead in self.drawn:
            lines += [*self.shown[at:first], *instead]
            at = end
        return [_plain(line) for line in [*lines, *self.shown[at:]]]


class Log:
    """What was typed and shown."""

    def __init__(self) -> None:
        self.entries: deque[Logged] = deque()
        self._lines = 0

    def typed(self, line: str) -> None:
        """Note that a line was typed."""
        self.entries.append(Logged(line))
        self._count(1)

    def showed(self, line: Line) -> None:
        """Note that a line was shown."""
        if not self.entries:
            self.entries.append(Logged(""))
        self.entries[-1].shown.append(line)
        self._count(1)

    def drew(self, count: int, instead: list[Line]) -> None:
        """Note that the last `count` lines were a picture: in a text, other lines stand for it."""
        entry = self.entries[-1]
        entry.drawn.append((len(entry.shown) - count, len(entry.shown), instead))

    def said(self, text: str) -> None:
        """Note that the program, or Python at the prompt, printed something."""
        for line in text.splitlines():
            self.showed([Segment(line)])

    def last(self) -> str:
        """Return what was shown last, in one line."""
        lines = self.entries[-1].shown if self.entries else []
        return " ".join("".join(segment.text for segment in line).strip() for line in lines)

    def _count(self, lines: int) -> None:
        self._lines += lines
        while self._lines > KEPT and len(self.entries) > 1:
            self._lines -= 1 + len(self.entries.popleft().shown)

    # -- writing -----------------------------------------------------------------------------------------

    def text(self, prompt: str) -> str:
        """All of it as plain text, as a pipe would show it."""
        parts: list[str] = []
        for entry in self.entries:
            parts += [prompt + entry.typed] if entry.typed else []
            parts += entry.plain()
        return "\n".join(parts) + "\n"

    def markdown(self, prompt: str, title: str, about: str) -> str:
        """Each command and what it showed as a block, under a heading where it led to a stop."""
        from nnrepl.view.log_page import stop_of

        parts = [f"# {title}\n", f"{about}\n"]
        for entry in self.entries:
            shown = "\n".join(entry.plain()).strip("\n")
            stop = stop_of(entry.shown)
            parts += [f"## {stop}\n"] if stop else []
            typed = f"{prompt}{entry.typed}\n" if entry.typed else ""
            fence = "`" * max(3, _longest_ticks(typed + shown) + 1)
            parts.append(f"{fence}\n{typed}{shown}\n{fence}\n")
        return "\n".join(parts)

    def html(self, prompt: str, title: str, about: str) -> str:
        """Return a page of its own, light or dark as its reader wishes."""
        from nnrepl.view.log_page import log_page

        return log_page(title, about, prompt, [(entry.typed, entry.shown) for entry in self.entries])

    def svg(self, prompt: str, title: str, dark: bool) -> str:
        """Return a picture of the terminal."""
        return self._recorded(prompt).export_svg(title=title, theme=MONOKAI if dark else DEFAULT_TERMINAL_THEME)

    def _recorded(self, prompt: str) -> Console:
        """Return a console that was shown everything."""
        width = max((Segment.get_line_length(line) for entry in self.entries for line in entry.shown), default=80)
        typed = max((len(prompt + entry.typed) for entry in self.entries), default=0)
        console = Console(
            record=True, file=io.StringIO(), width=max(width, typed, 40), highlight=False, markup=False,
            force_terminal=True, color_system="truecolor", no_color=False, _environ={},
        )  # fmt: skip
        for entry in self.entries:
            if entry.typed:
                line = [Segment(prompt, Style(bold=True)), Segment(entry.typed), Segment.line()]
                console.print(Segments(line), end="", soft_wrap=True)
            for shown in entry.shown:
                console.print(Segments([*shown, Segment.line()]), end="", soft_wrap=True)
        return console


def _plain(line: Line) -> str:
    return "".join(segment.text for segment in line if not segment.control).rstrip()


def _longest_ticks(text: str) -> int:
    """Return the longest run of backticks: the fence around it must be longer."""
    longest = run = 0
    for letter in text:
        run = run + 1 if letter == "`" else 0
        longest = max(longest, run)
    return longest
