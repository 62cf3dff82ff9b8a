"""Help: every command is found, in the order that people need, and every topic tells the truth about commands."""

from __future__ import annotations

import re

import pytest

from nnrepl.commands import load_all
from nnrepl.commands.manuals import apropos_view, groups, help_view
from nnrepl.commands.table import TABLE
from nnrepl.session.errors import UserError
from nnrepl.shell.keys import MOTIONS
from nnrepl.view.topics import ALIASES, TOPICS
from tests.view.test_tensor import screen

load_all()


def test_every_command_is_listed_motions_first() -> None:
    shown = screen(help_view(TABLE), 120)
    for command in TABLE.commands:
        assert f"{', '.join(command.names)}" in shown
    found = list(groups(TABLE))
    assert found[:3] == ["forwards", "backwards", "jumps"]
    assert found[-1] == "general"
    assert sum(len(commands) for commands in groups(TABLE).values()) == len(TABLE.commands)


def test_every_manual_and_topic_is_shown() -> None:
    for name in (*TABLE.by_name, *TOPICS, *ALIASES):
        assert screen(help_view(TABLE, name), 60).strip()
    assert not set(TOPICS) & set(TABLE.by_name), "a topic that nobody can reach"


def test_the_keys_that_help_names_are_bound() -> None:
    row = re.compile(r"((?:Shift-)?F\d+(?:, (?:Shift-)?F\d+)*)\s+(step|next|continue|reverse-\w+)")
    told = {}
    for keys, line in row.findall(TOPICS["keys"].text):
        for key in keys.split(", "):
            number = int(key.rpartition("F")[2]) + 12 * key.startswith("Shift")
            told[f"f{number}"] = line
    assert told == MOTIONS


def test_unknown_words_get_a_hint() -> None:
    with pytest.raises(UserError, match="did you mean breakpoints"):
        help_view(TABLE, "breakpoint")
    with pytest.raises(UserError, match="no manual says anything about qqqq"):
        apropos_view(TABLE, "qqqq")
