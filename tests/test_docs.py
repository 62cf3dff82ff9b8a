"""The documentation: what it shows is so, and what it names is there.

`python -m tests.test_docs` writes the answers in the how-tos and the text of the pictures anew; read the difference.
"""

from __future__ import annotations

import contextlib
import re
import runpy
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from docs import make, played
from nnrepl.cli import main as run
from nnrepl.commands import load_all
from nnrepl.commands.table import TABLE, classify
from nnrepl.session.errors import UserError
from nnrepl.shell.lessons import lessons_parser
from tests.shell.notebook import Notebook
from tests.support import ROOT

load_all()
SEEN = ROOT / "tests" / "pictures"
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_made" not in path.parts)
WRITTEN = [path for path in PAGES if path.stem not in ("changelog", "architecture")]


@pytest.mark.parametrize("name", make.PICTURES)
def test_a_picture_shows_what_a_real_session_shows(name: str) -> None:
    picture = make.PICTURES[name]
    log, failed = make.log_of(picture)
    assert not failed
    assert len([entry for entry in log.entries if entry.typed]) >= min(2, len(picture.lines))
    assert make.text(picture) == (SEEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_picture_is_seen_on_a_page() -> None:
    shown = {
        Path(it).stem for path in PAGES for it in re.findall(r"_made/(\w+\.svg)", path.read_text(encoding="utf-8"))
    }
    assert shown == set(make.PICTURES) == {path.stem for path in SEEN.glob("*.txt")}


def reference(folder: Path) -> None:
    """What the how-tos compare with: attention as it was computed elsewhere, the scores without their scale."""
    x = mx.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    q = x @ mx.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.0, 0.0]])
    k = x @ mx.array([[2.0, 0.0], [0.0, 2.0], [1.0, -1.0], [0.0, 0.0]])
    mx.save_safetensors(str(folder / "ref.safetensors"), {"q": q, "k": k, "scores": q @ k.T})


@pytest.mark.parametrize("path", [path for path in PAGES if played.sessions(path)[0]], ids=lambda path: path.stem)
def test_what_a_page_types_works_and_shows_what_it_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference(tmp_path)
    monkeypatch.chdir(tmp_path)
    text, worked = played.rewritten(path)
    assert worked
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_no_command_of_a_page_is_left_unplayed(path: Path) -> None:
    assert not played.sessions(path)[1]
    outside = re.sub(r"```console\n.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"^\(nnrepl\) ", outside, re.MULTILINE)


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


def test_the_how_to_for_a_lesson_works_word_by_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "howto" / "lesson.md").read_text(encoding="utf-8")
    for name, fence in (("mynet.py", r"```python\n(.*?)^```$"), ("my_lesson.md", r"````markdown\n(.*?)^````$")):
        found = re.search(fence, text, re.DOTALL | re.MULTILINE)
        assert found is not None
        (tmp_path / name).write_text(found[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^\$ nnrepl (learn \S+(?: html)? \S+)", text, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        words = line.split()
        assert set(words) <= {"learn", "html", "my_lesson.md", *lessons_parser()._option_string_actions}
        if words[1] not in ("--present", "--tui"):  # these wait for somebody
            assert run(words) == 0, line
    said = capsys.readouterr().out
    assert "✓ all hold" in said
    assert "What only you read" in said
    assert "is computed before it is asked for" not in said
    assert "<details>" in (tmp_path / "my_lesson.html").read_text(encoding="utf-8")


def test_the_how_to_for_a_notebook_works(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "howto" / "notebook.md").read_text(encoding="utf-8")
    namespace = runpy.run_path(str(ROOT / "examples" / "simple_nn.py"))
    namespace["y"] = namespace["y_true"]
    made = Notebook(monkeypatch)
    nnrepl.load_ipython_extension(made)
    made.user_ns.update(namespace)
    cells = re.findall(r"^```(?:python)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(cells) >= 5
    for cell in cells:
        if "load_ext" not in cell:
            given = made.run(cell.replace("nnrepl.debug(loss_fn, x, y, wrt=model)", "").rstrip("\n"))
            assert not isinstance(given, BaseException), (cell, given)


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


CODE = [path for room in ("nnrepl", "tests", "docs") for path in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize("page", ["docs/architecture.md", ".github/CONTRIBUTING.md"])
def test_what_a_page_for_contributors_names_is_there(page: str) -> None:
    """Files, and names in files: `record/watch.py`, `session/events.EVENTS`, `tests/record/samples_*.py`."""
    for told in re.findall(r"`([^`\n ]*[/.][^`\n ]*)`", (ROOT / page).read_text(encoding="utf-8")):
        path, _, name = told.rpartition(".") if re.fullmatch(r"[\w/]+/\w+\.[A-Za-z_]+", told) else (told, "", "")
        if name in ("py", "md", "txt", "run"):
            path, name = told, ""
        if name:
            file = ROOT / f"{path}.py" if (ROOT / f"{path}.py").is_file() else ROOT / "nnrepl" / f"{path}.py"
            assert re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")), told
        elif re.fullmatch(r"[\w./*]+(\.\w+|/)", told) and ("/" in told or told.endswith(".py")):
            found = [*ROOT.glob(told), *(ROOT / "nnrepl").glob(told), *(one for one in CODE if one.name == told)]
            assert found or "NN_" in told, told


def main() -> None:
    """Write what is made of sessions anew."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        reference(Path(folder))
        for path in PAGES:
            text, worked = played.rewritten(path)
            if not worked:
                sys.exit(f"{path}: a command in it fails")
            path.write_text(text, encoding="utf-8")
        for name, picture in make.PICTURES.items():
            (SEEN / f"{name}.txt").write_text(make.text(picture), encoding="utf-8")


if __name__ == "__main__":
    main()
