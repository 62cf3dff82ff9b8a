"""The documentation: what it shows is so, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import make
from nnrepl.commands import load_all
from nnrepl.commands.table import TABLE, classify
from nnrepl.session.errors import UserError
from tests.support import ROOT

load_all()
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_made" not in path.parts)
WRITTEN = [path for path in PAGES if path.stem not in ("changelog", "architecture")]


@pytest.mark.parametrize("name", make.PICTURES)
def test_no_command_of_a_picture_fails(name: str) -> None:
    picture = make.PICTURES[name]
    log, failed = make.log_of(picture)
    assert not failed
    assert len([entry for entry in log.entries if entry.typed]) >= min(2, len(picture.lines))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_file_that_a_page_shows_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\{(?:literalinclude|include|image)\} (\S+)", text):
        if "_made/" in target:
            assert Path(target).stem in (make.EXCERPTS if target.endswith(".txt") else make.PICTURES), target
        else:
            assert (path.parent / target).resolve().exists(), target
    for target in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"\{doc\}`([^`<>]+)`", text):
        assert (path.parent / f"{target}.md").exists(), target


@pytest.mark.parametrize("name", make.EXCERPTS)
def test_an_excerpt_is_a_piece_of_a_tested_transcript(name: str) -> None:
    _, first, last = make.EXCERPTS[name]
    assert make.excerpt(name).count("\n(nnrepl) ") + make.excerpt(name).startswith("(nnrepl)") == last - max(
        first - 1, 0
    )


def test_every_link_of_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_what_is_typed_on_a_page_is_a_command_or_python(path: Path) -> None:
    for line in re.findall(r"^\(nnrepl\) (.*?)(?:   +#.*)?$", path.read_text(encoding="utf-8"), re.MULTILINE):
        classify(line)


def test_the_cheat_sheet_names_no_command_that_there_is_not() -> None:
    text = (ROOT / "docs" / "cheatsheet.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    places = text[text.index("| places") : text.index("| look")]
    for typed in re.findall(r"`([^`]+)`", " ".join(row for row in rows if row not in places)):
        if typed in TABLE:
            continue
        filled = typed.replace("EXPR", "z1").replace("COND", "z1 > 0").replace("PLACE", "z1")
        try:
            line = classify(filled)
        except UserError as error:
            raise AssertionError(f"{typed}: {error}") from None
        assert line.command is not None or "=" in typed or "(" in typed, typed


def test_the_page_of_commands_has_each_of_them() -> None:
    page = make.command_pages()
    for command in TABLE.commands:
        assert f"### {command.names[0]}\n" in page
        assert command.help in page
