"""Notebook: the code cells of an .ipynb file as one program."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Callable
from dataclasses import field
from pathlib import Path

from nnrepl.classes import dataclass
from nnrepl.late import late
from nnrepl.record.segments import register_cell


@dataclass(frozen=True, slots=True)
class NotebookCell:
    """One code cell: its number (counted from 1 among all code cells), its source, and a name for it."""

    number: int
    text: str
    filename: str


@dataclass(slots=True)
class Notebook:
    """The code cells of a notebook, and notes about what was left out."""

    cells: list[NotebookCell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_notebook(path: str, *, known: bool = False) -> Notebook:
    """Read a program in cells: `.ipynb` of any version, or what else READERS has.

    Args:
        known: Whether its cells are known already, and what is shown of them stays what it is.

    Raises:
        ValueError: If it is none, or the package that reads it is missing; with one line that says what to do.
        OSError: If the file cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    sources = READERS[Path(path).suffix](path, text)
    notebook = Notebook()
    for number, source in enumerate(sources, 1):
        kept = _without_magics(source, number, notebook.notes)
        cell = NotebookCell(number, kept, f"{Path(path).resolve()}#{number}")
        if not known:
            register_cell(cell.filename, str(Path(path).resolve()), number, kept)
        notebook.cells.append(cell)
    return notebook


def _ipynb(path: str, text: str) -> list[str]:
    """Return the sources of the code cells of a Jupyter notebook."""
    try:
        nbformat = late("nbformat")
    except ImportError:
        raise ValueError("reading notebooks needs nbformat: pip install 'nnrepl[notebook]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about cells without ids, which nobody here needs
            document = nbformat.reads(text, as_version=4)
        return [str(cell.source) for cell in document.cells if cell.cell_type == "code"]
    except Exception:  # nbformat raises whatever its parsers raise
        raise ValueError(f"{path} is not a notebook: it does not hold a notebook's JSON") from None


READERS: dict[str, Callable[[str, str], list[str]]] = {".ipynb": _ipynb}
"""The kinds of programs in cells, by the ends of their files' names: each gives the sources of the cells, from the path
and the text of a file, or raises ValueError with one line. A kind that is entered here is run, loaded, reloaded and
listed as notebooks are."""


def is_in_cells(path: str) -> bool:
    """Whether a file is a program in cells."""
    return Path(path).suffix in READERS


def _without_magics(source: str, number: int, notes: list[str]) -> str:
    """Return a cell's source with IPython's own syntax blanked out, so that every line keeps its number.

    A line is looked at only where a statement begins: inside of a string or of brackets, `%` is Python.
    """
    lines = source.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%"):
        magic = first.split()[0]
        if magic not in ("%%time", "%%timeit", "%%capture"):
            notes.append(f"cell {number} was skipped: {magic} needs IPython")
            return "\n" * len(lines)
        lines[lines.index(first)] = ""
        notes.append(f"cell {number}: {magic} was skipped")
    if _parses("\n".join(lines)):
        return "\n".join(lines) + "\n"
    kept: list[str] = []
    begun = 0
    goes_on = False
    for line in lines:
        if goes_on:  # of a command to the shell, which a backslash carries to the next line
            goes_on, line = line.endswith("\\"), ""
        elif not is_open("\n".join(kept[begun:])):
            begun, whole = len(kept), line
            line, skipped = _plain(line)
            if skipped:
                goes_on = whole.endswith("\\")
                notes.append(f"cell {number}: {skipped} was skipped")
        kept.append(line)
    return "\n".join(kept) + "\n"


_MAGIC = re.compile(r"(?P<indent>\s*)(?P<target>[\w\s,.\[\]]+=\s*)?(?P<magic>[%!]\S*).*")
_QUESTION = re.compile(r"\s*(\?\??[\w.]+|[\w.]+\?\??)\s*")


def _plain(line: str) -> tuple[str, str]:
    """Return a line that begins a statement, without IPython's syntax; and what was left out, "" if nothing."""
    if _QUESTION.fullmatch(line):
        return "", line.strip()
    magic = _MAGIC.fullmatch(line)
    if magic is None:
        return line, ""
    indent, target = magic["indent"], magic["target"]
    if target:
        return f"{indent}{target.strip()} None", magic["magic"]
    return (f"{indent}pass" if indent else ""), magic["magic"]


def _parses(source: str) -> bool:
    try:
        compile(source, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError):
        return False
    return True


def is_open(source: str) -> bool:
    """Whether a piece of source ends inside of brackets or of a string."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(source + "\n").readline):
            pass
    except (tokenize.TokenError, IndentationError) as error:
        return "EOF in multi-line" in str(error)
    except SyntaxError as error:
        return "was never closed" in str(error) or "unterminated triple" in str(error)
    return source.endswith("\\")
