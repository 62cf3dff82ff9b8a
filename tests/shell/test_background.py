"""Background: the colours follow the terminal's, if it says what it is."""

from __future__ import annotations

import os
import pty
import select
import threading
import time
from argparse import Namespace
from pathlib import Path

import pytest

from nnrepl import cli
from nnrepl.session.settings import defaults
from nnrepl.shell import background
from nnrepl.shell.background import ask, from_environment, theme_in, typed_meanwhile


@pytest.mark.parametrize(
    ("said", "theme"),
    [("15;0", "dark"), ("0;15", "light"), ("0;default;7", "light"), ("7;8", "dark"), ("", ""), ("15", ""), ("a;b", "")],
)
def test_what_the_environment_says(said: str, theme: str) -> None:
    assert from_environment(said) == theme


@pytest.mark.parametrize(
    ("answer", "theme"),
    [
        (b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\\x1b[?62;4c", "light"),
        (b"\x1b]11;rgb:1e/1e/2e\x07\x1b[?1;2c", "dark"),
        (b"\x1b]11;rgba:fdf6/e3e3/e3e3/ffff\x1b\\\x1b[?6c", "light"),
        (b"\x1b[?62;c", ""),
        (b"", ""),
    ],
)
def test_what_a_terminal_answers(answer: bytes, theme: str) -> None:
    """The answers of xterm, of one that ends in BEL, of one with an alpha channel; of one that knows no colours."""
    terminal, program = pty.openpty()

    def reply() -> None:
        asked = b""
        while not asked.endswith(b"\x1b[c"):
            asked += os.read(terminal, 64)
        os.write(terminal, b"st" + answer if answer else b"")

    thread = threading.Thread(target=reply)
    thread.start()
    began = time.monotonic()
    try:
        assert theme_in(ask(program, program, 60 if answer else 0.1)) == theme
        assert time.monotonic() - began < 30  # it does not wait any longer when there is an answer
        assert typed_meanwhile == (["st"] if answer else [])
    finally:
        thread.join()
        typed_meanwhile.clear()
        os.close(terminal)
        os.close(program)


def test_somebody_types_already() -> None:
    terminal, program = pty.openpty()
    os.write(terminal, b"step\n")
    assert select.select([program], [], [], 60)[0]
    assert ask(program, program, 60) == b""
    assert os.read(program, 64) == b"step\n"  # nothing was taken away
    os.close(terminal)
    os.close(program)


def test_nobody_is_asked_where_no_colours_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> str:
        raise AssertionError

    monkeypatch.setattr(background, "_asked", never)
    monkeypatch.setenv("TERM", "dumb")
    assert background.theme_of_terminal() == "dark"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert background.theme_of_terminal() == "dark"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert background.theme_of_terminal() == "light"


@pytest.mark.parametrize(
    ("kept", "there", "theme"),
    [("", True, "light"), ("theme dark\n", True, "dark"), ("", False, "dark"), ("keys vi\n", True, "light")],
)
def test_what_the_user_keeps_goes_before_what_the_terminal_says(
    kept: str, there: bool, theme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no terminal, none is asked."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(background, "is_terminal", lambda: there)
    monkeypatch.setattr(background, "theme_of_terminal", lambda: "light")
    (tmp_path / "nnrepl").mkdir()
    (tmp_path / "nnrepl" / "config").write_text(kept)
    settings = defaults()
    assert background.adopt(settings) == ""
    assert settings["theme"] == theme
    monkeypatch.setattr(cli, "is_interactive", lambda options: there)
    found, notes = cli.settings_of(Namespace(theme=None, history=None))
    assert (found.get("theme", "dark"), notes) == (theme, [])
