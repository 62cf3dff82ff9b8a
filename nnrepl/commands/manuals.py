"""Manuals: the list of commands, the manual of one, topics, and what a word is found in. All come from the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from nnrepl.commands.table import Command, Table

if TYPE_CHECKING:
    from nnrepl.learn.glossary import GlossaryWord
from nnrepl.session.errors import UserError
from nnrepl.view.prose import prose
from nnrepl.view.topics import ALIASES, GROUPS, TOPICS, Topic

FIRST = (
    ("learn", "a lesson: read, predict, see (learn 1 is the first)"),
    ("step, back", "to the next operation, and one back; Enter repeats it"),
    ("p NAME", "show a tensor, or any Python: p z1, p grad(z1)"),
    ("explain NAME", "how a number was computed, with the real numbers"),
    ("why QUESTION", "why something is 0, NaN, large: why grad(w) == 0"),
    ("break PLACE, c", "stop at a line, a function, a value; run on to it"),
    ("NAME = VALUE", "change a tensor and see what follows; undo takes it back"),
    ("help WORD", "a command, a topic, a word of the trade: help gradient"),
)
"""The eight lines with which a user begins."""


def help_view(table: Table, topic: str = "", here: Callable[[GlossaryWord], str] = lambda word: "") -> RenderableType:
    """Return the first page, the whole list (`all`), one manual, one topic, or a word of the trade.

    Args:
        here: Where such a word is met on the tape.

    Raises:
        UserError: For an unknown word.
    """
    if not topic:
        return _first_page()
    if topic == "all":
        return _overview(table)
    from nnrepl.learn.glossary import glossary, word_of

    word = word_of(topic)
    if topic in table:
        manual = _manual(table[topic])
        return manual if word is None else Group(manual, Text(""), word_view(word, here(word)))
    if topic in TOPICS:
        return _topic(table, topic, TOPICS[topic])
    if word is not None:
        return word_view(word, here(word))
    name = ALIASES.get(topic, topic)
    if name in TOPICS:
        return _topic(table, name, TOPICS[name])
    close = get_close_matches(topic, [*table.names, *TOPICS, *ALIASES], 1) or get_close_matches(topic, glossary(), 1)
    hint = f"did you mean {close[0]}?" if close else f"apropos {topic} searches all manuals"
    raise UserError(f"there is no command and no topic {topic}; {hint}")


def groups(table: Table) -> dict[str, list[Command]]:
    """Return the commands by group, in the order in which people need them."""
    found: dict[str, list[Command]] = {name: [] for name in GROUPS[:-1]}
    for command in table.commands:
        if command.group != GROUPS[-1]:
            found.setdefault(command.group, []).append(command)
    found[GROUPS[-1]] = [command for command in table.commands if command.group == GROUPS[-1]]
    return {name: commands for name, commands in found.items() if commands}


def _first_page() -> RenderableType:
    topics = Text("topics  ", style="heading").append(" · ".join(TOPICS), style="")
    return Group(_grid(list(FIRST)), topics, Text("help all lists every command.", style="hint"))


def word_view(word: GlossaryWord, here: str = "") -> RenderableType:
    """Return a word of the trade, and where it is met."""
    parts: list[RenderableType] = [Text(word.name, style="op.name"), prose(word.text)]
    if here:
        parts.append(Text("here    ", style="dim").append(here, style=""))
    return Group(*parts)


def _overview(table: Table) -> RenderableType:
    parts: list[RenderableType] = []
    for group, commands in groups(table).items():
        parts += [Text(group, style="heading"), _commands(commands, short=True)]
    parts.append(Text("topics", style="heading"))
    parts.append(_grid([(f"help {name}", topic.title) for name, topic in TOPICS.items()]))
    parts.append(
        Text(
            "Anything else is Python; ! forces Python. Enter repeats a motion. help COMMAND tells more, "
            "apropos WORD searches.",
            style="hint",
        )
    )
    return Group(*parts)


def _commands(commands: list[Command], short: bool = False) -> Grid:
    return _grid([(_usage(it), _clause(it.summary) if short else it.summary) for it in commands])


def _usage(command: Command) -> str:
    return f"{', '.join(command.names)} {command.grammar.name}".rstrip()


def _clause(summary: str) -> str:
    """Return the first clause of a summary: `Go to the next op, into modules`."""
    return re.split(r"[:;.] ", summary.rstrip("."), maxsplit=1)[0]


def _grid(rows: list[tuple[str, str]]) -> Grid:
    grid = Grid(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(max_width=38)
    grid.add_column()
    for name, text in rows:
        grid.add_row(Text(name, style="op.name"), text)
    return grid


def flowing(text: str) -> str:
    """Return a text whose lines are as long as the terminal is wide: what is indented stays as it is."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and line and lines[-1] and not line.startswith(" ") and not lines[-1].startswith(" "):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _manual(command: Command) -> RenderableType:
    title = Text(command.usage, style="op.name")
    if len(command.names) > 1:
        title.append("   also: " + ", ".join(command.names[1:]), style="dim")
    gone = [Text(f"It is to go away; type instead: {command.instead}", style="hint")] if command.instead else []
    return Group(title, *gone, Text(flowing(command.help)))


def _topic(table: Table, name: str, topic: Topic) -> RenderableType:
    parts: list[RenderableType] = [
        Text(name, style="op.name").append(f": {topic.title}", style="dim"),
        Text(flowing(topic.text)),
    ]
    belonging = [command for command in table.commands if command.group in topic.groups]
    belonging += [table[word] for word in topic.commands if word in table and table[word] not in belonging]
    if belonging:
        parts.append(_commands(belonging))
    return Group(*parts)


def apropos_view(table: Table, word: str) -> RenderableType:
    """Return the commands and topics in whose manuals a word occurs. Raises UserError if it occurs in none."""
    from nnrepl.learn.glossary import glossary

    wanted = re.compile(re.escape(word), re.IGNORECASE)
    rows = [
        (_usage(command), command.summary)
        for command in table.commands
        if wanted.search(f"{' '.join(command.names)} {command.help}")
    ]
    rows += [
        (f"help {name}", topic.title)
        for name, topic in TOPICS.items()
        if wanted.search(f"{name} {topic.title} {topic.text}")
    ]
    rows += [
        (f"help {name}", found.summary)
        for name, found in glossary().items()
        if wanted.search(f"{name} {' '.join(found.aliases)} {found.text}")
    ]
    if not rows:
        raise UserError(f"no manual says anything about {word}; help all lists all commands")
    return _grid(rows)
