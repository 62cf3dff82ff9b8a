"""Keys: motions on function keys, Enter that knows unfinished Python, Tab that inserts what is certain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition, has_completions, has_focus, has_selection, is_searching
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from nnrepl.commands.table import Table
from nnrepl.shell.margin import Margin

MOTIONS = {
    "f10": "next",
    "f11": "step",
    "f22": "reverse-next",  # Shift-F10, as terminals send it
    "f23": "reverse-step",  # Shift-F11
    "f5": "continue",
    "f17": "reverse-continue",  # Shift-F5
    "f6": "reverse-next",
    "f7": "reverse-step",
    "f8": "step",
    "f9": "next",
    "c-l": "redraw",
}
"""What a function key does. F6 to F9 are for terminals and desktops that keep F10, F11 or Shift for themselves."""


def bindings(
    table: Table,
    settings: dict[str, Any],
    run: Callable[[KeyPressEvent, str], None],
    asked: Callable[[str], str] = lambda typed: "help",
) -> KeyBindings:
    """Return the keys of the prompt.

    Args:
        table: The commands, which a line may begin with.
        settings: `keys` is changed by F4.
        run: Runs a command for a key.
        asked: The line that F1 stands for, by what has been typed so far.
    """
    keys, margin = KeyBindings(), Margin(table)
    typing = has_focus("DEFAULT_BUFFER")
    for key, line in MOTIONS.items():
        keys.add(key)(lambda event, line=line: _redraw(event, run) if line == "redraw" else run(event, line))
    keys.add("f1")(lambda event: run(event, asked(get_app().current_buffer.document.text_before_cursor)))

    @keys.add("enter", filter=typing & ~is_searching)
    def _(event: KeyPressEvent) -> None:
        _enter(event, margin)

    @keys.add(" ", filter=typing & Condition(lambda: margin.is_fresh(get_app().current_buffer)))
    def _(event: KeyPressEvent) -> None:
        margin.blank(event)

    @keys.add("escape", "enter", filter=typing & ~is_searching)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=True)

    completes = keys.add("tab", filter=typing & ~has_selection & ~has_completions & Condition(_at_word))
    completes(lambda event: _tab(event.current_buffer))

    @keys.add("f4")
    def _(event: KeyPressEvent) -> None:
        settings["keys"] = "emacs" if event.app.editing_mode == EditingMode.VI else "vi"
        event.app.editing_mode = editing_mode(settings)

    @keys.add(Keys.BracketedPaste, filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text(event.data.replace("\r\n", "\n").replace("\r", "\n"))

    return keys


def _redraw(event: KeyPressEvent, run: Callable[[KeyPressEvent, str], None]) -> None:
    event.app.renderer.clear()
    run(event, "redraw")


def editing_mode(settings: dict[str, Any]) -> EditingMode:
    """Return what the setting `keys` stands for."""
    return EditingMode.VI if settings["keys"] == "vi" else EditingMode.EMACS


def _at_word() -> bool:
    """Whether Tab completes: not in the margin of a further line, where it indents."""
    document = get_app().current_buffer.document
    return not (document.cursor_position_row and not document.current_line_before_cursor.strip())


def _tab(buffer: Buffer) -> None:
    """Insert as much as all prefixed completions share; where that is nothing, show the choice."""
    completer, document = buffer.completer, buffer.document
    found = list(completer.get_completions(document, CompleteEvent(completion_requested=True)))
    prefixed = [item for item in found if _continues(item.text, item.start_position, document)]
    common = _common([item.text[-item.start_position :] for item in prefixed])
    if common:
        buffer.insert_text(common)
    elif found:
        buffer.start_completion(select_first=len(found) == 1)


def _continues(text: str, start: int, document: Document) -> bool:
    return text.startswith(document.text_before_cursor[len(document.text_before_cursor) + start :])


def _common(endings: list[str]) -> str:
    shared = ""
    for letters in zip(*endings):
        if len(set(letters)) > 1:
            break
        shared += letters[0]
    return shared


def _enter(event: KeyPressEvent, margin: Margin) -> None:
    """Take the completion that is selected, go to a further line of unfinished Python, or run the line."""
    buffer = event.current_buffer
    state = buffer.complete_state
    if state is not None and state.current_completion is not None:
        buffer.complete_state = None
        return
    margin.enter(event)
