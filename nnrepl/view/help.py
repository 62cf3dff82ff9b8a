"""Help: the list of commands, and the manual of one. Both come from the table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from nnrepl.commands.table import Command, Table
from nnrepl.session.errors import UserError


def help_view(table: Table, topic: str = "") -> RenderableType:
    """The whole list, or one manual."""
    if not topic:
        return _overview(table)
    if topic in table:
        return _manual(table[topic])
    from difflib import get_close_matches

    close = get_close_matches(topic, table.by_name, 1)
    hint = f"; did you mean {close[0]}?" if close else "; help lists them"
    raise UserError(f"there is no command {topic}{hint}")


def _overview(table: Table) -> RenderableType:
    parts: list[RenderableType] = []
    groups = dict.fromkeys(command.group for command in table.commands)
    for group in groups:
        grid = Grid(
            title=group, title_justify="left", title_style="heading", box=None, show_header=False,
            padding=(0, 2, 0, 0), pad_edge=False,
        )  # fmt: skip
        grid.add_column(no_wrap=True)
        grid.add_column()
        for command in table.commands:
            if command.group == group:
                names = ", ".join(command.names)
                usage = f"{names} {command.grammar.name}".rstrip()
                grid.add_row(Text(usage, style="op.name"), command.summary)
        parts.append(grid)
    parts.append(
        Text(
            "Anything else is Python; ! forces Python. Enter repeats a motion. help COMMAND tells more.",
            style="hint",
        )
    )
    return Group(*parts)


def _manual(command: Command) -> RenderableType:
    title = Text(command.usage, style="op.name")
    if len(command.names) > 1:
        title.append("   also: " + ", ".join(command.names[1:]), style="dim")
    return Group(title, Text(command.help))
