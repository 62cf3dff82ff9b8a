"""Settings: `config`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import NOTHING, Grammar, command
from nnrepl.session.errors import UserError
from nnrepl.session.settings import SETTINGS, config_file, read_setting, save_settings

WORDS = ("save", *SETTINGS)


@command("config", takes=Grammar("[NAME [VALUE] | save]", lambda text: True, "words", WORDS), group="general")
def config(it: Interpreter, text: str) -> RenderableType | None:
    """Show the settings, or change one: `config peek 0`, `config theme light`; `config save` keeps them.

    Without anything: all of them, and the file in which `config save` keeps them. That file has lines such as
    `theme light`. Beside it, a file `startup` may hold commands to begin each session with.
    """
    settings = it.session.settings
    name, _, value = text.partition(" ")
    if not name:
        width = max(map(len, SETTINGS))
        lines = [
            Text(f"{key.ljust(width)}  {str(settings[key]).ljust(7)}", style="op.name").append(
                f"  {SETTINGS[key].help}", style="hint"
            )
            for key in SETTINGS
        ]
        return Group(*lines, Text(f"config save writes them to {config_file()}", style="hint"))
    if name == "save":
        save_settings(config_file(), settings)
        return Text(f"written to {config_file()}", style="hint")
    if value.strip():
        settings[name] = read_setting(name, value.strip())
    elif name not in SETTINGS:
        read_setting(name, "")
    return Text(f"{name} {settings[name]}")


@command("tui", takes=NOTHING, group="general")
def tui(it: Interpreter, text: str) -> RenderableType | None:
    """Use the whole screen: source, ops, tensors, displays and the prompt; again: back to lines.

    F2 leads to the next pane: arrows move in it, Enter looks inside of what is marked, Space goes there, `b` sets a
    breakpoint, Esc leads back to the prompt. Clicks and the wheel work everywhere (`config mouse off`: the terminal's
    own selection again). F3 shows tensors as numbers or as pictures; every key of the prompt works as well, and what a
    key or a click did is shown as the command that does it.
    """
    if not it.can_full_screen:
        raise UserError("the full screen needs a terminal; this is none")
    it.full_screen = not it.full_screen
    return None
