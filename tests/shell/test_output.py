"""Long output, and the session as a file."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from rich.console import Console, Group
from rich.text import Text

import nnrepl
from nnrepl.commands.export import KINDS
from nnrepl.session.errors import UserError
from nnrepl.shell import pager
from nnrepl.shell.consoles import lines_of
from nnrepl.shell.progress_line import Progress
from nnrepl.shell.shell import Shell, _Tee
from nnrepl.view.theme import DARK
from tests.shell.screen import Screen
from tests.support import OpenSession, nnrepl_cli


def test_long_output_pages() -> None:
    with Screen(rows=20) as screen:
        screen.until("(nnrepl)")
        screen.line("pp list(range(100))")
        screen.until("more: Space")
        assert "[\n" in screen.text
        screen.press(" ")
        seen = screen.until(lambda text: " 20," in text and "more" in text)
        screen.press("Enter")
        screen.until(lambda text: text != seen and "more" in text)
        screen.press("q")
        screen.until(lambda text: "more" not in text and text.rstrip().splitlines()[-1].startswith(" step"))
        assert "99" not in screen.text
        screen.line("config pager off")
        screen.line("pp list(range(100))")
        screen.until("99\n]")
        screen.line("config pager on")
        screen.line("pp list(range(100))")
        screen.until("more: Space")
        screen.press("Ctrl-C")
        screen.line("p 40 + 2")
        screen.until("42")


def test_lines_are_made_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Endless:
        def __rich_console__(self, console: Console, options: object) -> Iterator[Text]:
            number = 0
            while True:
                made.append(number)
                yield Text(str(number))
                number += 1

    answers = iter([pager.PAGE, pager.LINE, pager.STOP])
    monkeypatch.setattr(pager, "ask", lambda theme: next(answers))
    console = Console(file=io.StringIO(), width=80, height=12)
    shown = list(pager.paged(lines_of(console, Group(Endless())), 12, "dark"))
    assert len(shown) == 21
    assert len(made) <= 23


class _Lines:
    echoes = False
    pages = False
    screen = None

    def __init__(self, *lines: str) -> None:
        self._lines = iter(lines)

    def read(self, prompt: str = "") -> str | None:
        return next(self._lines, None)


@pytest.mark.parametrize("suffix", ["html", "svg", "md", "txt"])
def test_a_session_is_written(tmp_path: Path, suffix: str) -> None:
    def loss(w: mx.array) -> mx.array:
        return (w * 2).sum()

    path = tmp_path / f"session.{suffix}"
    session = OpenSession(nnrepl.trace(loss, mx.array([1.0, 2.0]), wrt=0))
    console = Console(file=io.StringIO(), width=80, theme=DARK, highlight=False)
    reader = _Lines("s", "p w * 3", "print('<tag> ```')", f"export {path}", f"export {path}", f"export -f {path}")
    shell = Shell(session, console, lambda interpreter: reader)
    shell.interact()
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "export -f" in said
    assert f"written as {KINDS[f'.{suffix}']}" in said
    text = path.read_text(encoding="utf-8")
    assert "export" in text
    for wanted in ("w * 3", "[3 6]"):
        assert wanted in text.replace("&#160;", " ")
    if suffix == "txt":
        assert "(nnrepl) p w * 3\nw * 3 = [3 6]\n(nnrepl) print('<tag> ```')\n<tag> ```\n" in text
    elif suffix == "md":
        assert "````\n(nnrepl) print('<tag> ```')\n<tag> ```\n````" in text
    elif suffix == "html":
        assert "&lt;tag&gt;" in text
        assert "<h2>forward 2 of 2</h2>" in text or re.search(r"<h2>step 1 · forward \d of \d</h2>", text)
        assert "prefers-color-scheme: dark" in text
        assert not re.search(r"(src|href)=|https?:", text)
        ET.fromstring(re.sub(r"<meta[^>]*>", "", text.split("\n", 1)[1]))  # well formed
    else:
        assert text.startswith("<svg")
        assert ">p w * 3<" in text.replace("&#160;", " ")


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_a_picture_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"session.{suffix}"
    session = OpenSession(nnrepl.trace(lambda w: w * 2, mx.array([[1.0, -2.0], [0.5, 2.0]])))
    console = Console(
        file=io.StringIO(), width=80, theme=DARK, highlight=False, force_terminal=True, color_system="truecolor"
    )
    reader = _Lines("heatmap w", f"export {path}")
    Shell(session, console, lambda interpreter: reader).interact()
    text = path.read_text(encoding="utf-8")
    if suffix == "html":
        assert "background:#b2182b" in text
    else:
        assert "# test_output.py in nnrepl" in text
        assert re.search(r"## \S.*forward 1 of 1", text)
        assert "0 ##\n1 **@@\n" in text


def test_an_export_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    result = nnrepl_cli(stdin=f"export {tmp_path}/no/where.txt\nexport {tmp_path}\nexport x.pdf\nq\n")
    lines = [line for line in result.stdout.splitlines() if "export" in line or "cannot" in line]
    assert result.returncode == 1
    assert "No such file or directory" in " ".join(result.stdout.split())
    assert any("export writes .html, .svg, .md, .txt, .py or .ipynb" in line for line in lines)
    assert "Traceback" not in result.stdout + result.stderr
    with pytest.raises(UserError, match="is none of them"):
        OpenSession(nnrepl.trace(lambda: mx.ones(2) * 2)).run("export x.pdf")


def test_how_long_a_program_runs_again_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line that is gone when the user has the floor."""
    now = iter([100.0, 101.0, 102.0])
    monkeypatch.setattr("nnrepl.shell.progress_line.time.monotonic", lambda: next(now))
    console = Console(file=io.StringIO(), width=80, force_terminal=True, _environ={"TERM": "xterm"})
    progress = Progress(console)
    progress.begin()
    progress.come(0.25, "running again, step 500 of 2000")
    progress.here()
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "running again, step 500 of 2000: 25%, about 6 s more, Ctrl-C interrupts" in written
    assert written.endswith("\r\x1b[K")


def test_what_is_shown_does_not_follow_a_line_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop may evaluate as it is drawn: how far that is stands in a line that is gone before anything is written."""
    monkeypatch.setattr("nnrepl.shell.progress_line._AFTER", 0.0)
    monkeypatch.setattr("nnrepl.shell.progress_line._EVERY", 0.0)
    session = OpenSession(nnrepl.trace(lambda w: w * 2, mx.ones(2)))
    console = Console(file=io.StringIO(), width=80, theme=DARK, force_terminal=True, _environ={"TERM": "xterm"})
    shell = Shell(session, console, lambda interpreter: _Lines())

    def drawn() -> Iterator[str]:
        shell.progress(0.73)
        yield "interrupted"

    shell.show(Group(*drawn()))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "evaluating: 73%, Ctrl-C interrupts\r\x1b[K" in written
    assert written.index("\r\x1b[K", written.index("73%")) < written.index("interrupted\n")


def test_what_python_prints_without_a_stream_is_said_all_the_same() -> None:
    """Where Python has no standard output (`pythonw`), each whole line is still part of the session."""
    said: list[str] = []
    assert _Tee(None, said.append).write("one\n\ntwo") == 8
    assert said == ["one", " "]
    below = io.StringIO()
    assert _Tee(below, said.append).write("three\n") == 6
    assert below.getvalue() == "three\n"
