"""Margin: what Enter does in several lines of Python, typed by hand or sent by a terminal that pastes key by key."""

from __future__ import annotations

import re

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.key_binding import KeyPressEvent

from nnrepl.commands.blocks import COMPLETE, CONTINUABLE, ends, state_of, takes_any
from nnrepl.commands.table import Table

_GOES_ON = re.compile(r"\n*[ \t]+\S")


def unfinished(text: str, table: Table, own: bool = False) -> bool:
    """Whether Python needs another line: an open bracket, or a block that no empty line has ended.

    Args:
        own: Whether the lines came with their own margin. Else one from which the margin was deleted ends a block.
    """
    state, lines = state_of(text, table), text.split("\n")
    if state == COMPLETE:
        return False
    if state == CONTINUABLE:
        return len(lines) > 1 and (own or lines[-1] != "") and not ends(lines)
    return takes_any(state, lines) or not ends(lines)


class Margin:
    """Indents the next line, unless lines come with a margin of their own.

    The user types one key at a time; what arrives as a whole line that begins with a blank was written elsewhere.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._fresh = -1
        self._own = False

    def is_fresh(self, buffer: Buffer) -> bool:
        """Whether nothing has been typed after the margin yet."""
        return buffer.cursor_position == self._fresh

    def blank(self, event: KeyPressEvent) -> None:
        """Note that a blank comes after a fresh margin: more keys right after it are a line with its own margin."""
        buffer = event.current_buffer
        if event.key_processor.input_queue:
            buffer.delete_before_cursor(len(buffer.document.current_line_before_cursor))
            self._own = True
        self._fresh = -1
        buffer.insert_text(event.data)

    def enter(self, event: KeyPressEvent) -> None:
        """Go to a further line of unfinished Python, or run the line."""
        buffer = event.current_buffer
        self._own &= "\n" in buffer.text
        coming = "".join("\n" if key.key == "c-m" else key.data for key in event.key_processor.input_queue)
        goes_on = self._own and _GOES_ON.match(coming) is not None and not unfinished(buffer.text, self._table, True)
        if goes_on and state_of(buffer.text, self._table) == CONTINUABLE:
            buffer.newline(copy_margin=False)
        elif not unfinished(buffer.text, self._table, self._own):
            self._own = False
            buffer.validate_and_handle()
        else:
            buffer.newline(copy_margin=not self._own)
            if not self._own:
                if buffer.document.text_before_cursor.rstrip().endswith(":"):
                    buffer.insert_text("    ")
                self._fresh = buffer.cursor_position
