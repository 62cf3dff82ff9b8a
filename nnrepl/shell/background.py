"""Background: whether the terminal is dark or light, so that the colours can follow it.

A setting and `--theme` come first. Else COLORFGBG is believed, and else the terminal is asked for its background
(OSC 11) and then what it is (DA1), which every terminal answers: if the second answer comes first, there is no first
one, and nobody waits for it.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from typing import Any

from nnrepl.late import late
from nnrepl.session.settings import adopt_settings, config_file, load_settings

PATIENCE = 0.5
"""So many seconds a terminal has for its answer."""
_QUESTION = b"\x1b]11;?\x1b\\\x1b[c"
_COLOUR = re.compile(
    rb"\x1b\]11;rgba?:([0-9a-fA-F]{2,4})/([0-9a-fA-F]{2,4})/([0-9a-fA-F]{2,4})[^\x07\x1b]*(?:\x07|\x1b\\)"
)
_DEVICE = re.compile(rb"\x1b\[\?[\d;]*c")

typed_meanwhile: list[str] = []
"""What the user typed while the terminal was asked."""


def theme_of_terminal() -> str:
    """ "dark" or "light", as the terminal is; "dark" where that is not known."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb", "unknown", "linux"):
        return "dark"
    return from_environment(os.environ.get("COLORFGBG", "")) or _asked() or "dark"


def from_environment(text: str) -> str:
    """Return what COLORFGBG says (`15;0`: the numbers of the colours of text and background), "" for nothing."""
    last = text.rpartition(";")[2]
    if ";" not in text or not last.isdigit():
        return ""
    return "light" if int(last) in (7, *range(9, 16)) else "dark"


def adopt(settings: dict[str, Any]) -> str:
    """Take over the user's settings; the theme is the terminal's, if they have not said otherwise. Returns notes."""
    notes = adopt_settings(settings)
    if "theme" not in load_settings(config_file())[0] and is_terminal():
        settings["theme"] = theme_of_terminal()
    return notes


def is_terminal() -> bool:
    """Whether there is a terminal at both ends."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _asked() -> str:
    try:
        answer = ask(sys.stdin.fileno(), sys.stdout.fileno())
    except (ImportError, OSError, ValueError):
        return ""
    return theme_in(answer)


def ask(given: int, shown: int, patience: float = PATIENCE) -> bytes:
    """Ask the terminal on two file descriptors. Returns its answers; what is typed meanwhile is kept.

    Raises:
        ImportError, OSError: If there is no terminal that can be asked.
    """
    termios = late("termios")

    if select.select([given], [], [], 0)[0]:
        return b""  # somebody types already: that is not to be mistaken for an answer
    before = termios.tcgetattr(given)
    quiet = list(before)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    answer = b""
    try:
        termios.tcsetattr(given, termios.TCSANOW, quiet)
        os.write(shown, _QUESTION)
        end = time.monotonic() + patience
        while not _DEVICE.search(answer) and (left := end - time.monotonic()) > 0:
            if select.select([given], [], [], left)[0]:
                answer += os.read(given, 1024)
    finally:
        termios.tcsetattr(given, termios.TCSANOW, before)
    rest = _DEVICE.sub(b"", _COLOUR.sub(b"", answer)).decode(errors="replace")
    typed_meanwhile[:] = [rest] if rest.isprintable() and rest else []
    return answer


def theme_in(answer: bytes) -> str:
    """Return what a terminal's answer says of its background; "" for nothing."""
    found = _COLOUR.search(answer)
    if found is None:
        return ""
    red, green, blue = (int(part, 16) / (16 ** len(part) - 1) for part in found.groups())
    return "light" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "dark"
