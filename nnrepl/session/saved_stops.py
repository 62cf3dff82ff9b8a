"""Saved: breakpoints, watches and catches in a file, one for each program, so that they are there again next time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnrepl.session.events import EVENTS
from nnrepl.session.files import write_private
from nnrepl.session.settings import file_name, state_directory
from nnrepl.session.stops import Breakpoint, Catch, Stops, Trigger, Watch

_KINDS: dict[str, type[Trigger]] = {kind.kind: kind for kind in (Breakpoint, Watch, Catch)}


def stops_file(program: str) -> Path:
    """Where the stops of a program are kept."""
    return state_directory() / "stops" / f"{file_name(program)}.json"


class Keeper:
    """Keeps a list of stops in a file, and writes it when it has changed.

    Args:
        stops: The list.
        path: The file.
    """

    def __init__(self, stops: Stops, path: Path) -> None:
        self._stops = stops
        self._path = path
        self._written = dumped(stops)

    def restore(self) -> str:
        """Enter what the file holds; a line for the user, "" if there was nothing."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            return f"cannot read {self._path}: {error}; no breakpoints were restored"
        try:
            count = load(self._stops, text)
        except ValueError as error:
            return f"{self._path} is broken ({error}); no breakpoints were restored"
        self._written = dumped(self._stops)
        what = "breakpoint, watch or catch" if count == 1 else "breakpoints, watches and catches"
        return f"{count} {what} from last time: info breakpoints lists, clear deletes" if count else ""

    def move(self, path: Path) -> str:
        """Another program is debugged from now on: what was kept for it joins what there is. Returns a line, or ""."""
        self._path = path
        return self.restore()

    def save(self) -> str:
        """Write the file if something has changed; a line for the user if that fails."""
        text = dumped(self._stops)
        if text == self._written:
            return ""
        self._written = text
        try:
            write_private(self._path, text)
        except OSError as error:
            return f"breakpoints are not kept for next time: cannot write {self._path}: {error.strerror}"
        return ""


def dumped(stops: Stops) -> str:
    """Return a list of stops as text."""
    return json.dumps([_row(entry) for entry in stops], indent=1)


def _row(entry: Trigger) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": entry.kind, "text": entry.text}
    if isinstance(entry, Breakpoint):
        row |= {"condition": entry.condition, "temporary": entry.temporary}
    return row | {"enabled": entry.enabled, "ignore": entry.ignore, "commands": entry.commands}


def load(stops: Stops, text: str) -> int:
    """Enter what a text holds. Returns how many entries that were.

    Raises:
        ValueError: If it is not what `dumped` writes; then nothing is entered.
    """
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("it is no list")
    entries = [_entry(row) for row in rows]
    for entry in entries:
        stops.add(entry)
    return len(entries)


def _entry(row: Any) -> Trigger:
    if not isinstance(row, dict) or row.get("kind") not in _KINDS or not isinstance(row.get("text"), str):
        raise ValueError("an entry has no kind or no text")
    entry = _KINDS[row["kind"]](row["text"])
    if isinstance(entry, Catch) and entry.text not in EVENTS:
        raise ValueError(f"there is nothing to catch that is called {entry.text}")
    entry.enabled = bool(row.get("enabled", True))
    entry.ignore = int(row.get("ignore", 0))
    entry.commands = [str(line) for line in row.get("commands", ())]
    if isinstance(entry, Breakpoint):
        entry.condition = str(row.get("condition", ""))
        entry.temporary = bool(row.get("temporary", False))
    return entry
