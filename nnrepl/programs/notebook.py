"""Notebook: the code cells of an .ipynb file as one program."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnrepl.record.source import register_cell


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


def read_notebook(path: str) -> Notebook:
    """Read a notebook of any version.

    Raises:
        ValueError: If it is not a notebook, or the package that reads notebooks is missing; with one line
            that says what to do.
        OSError: If the file cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        import nbformat
    except ImportError:
        raise ValueError("reading notebooks needs nbformat: pip install 'nnrepl[notebook]'") from None
    try:
        document = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
        sources = [str(cell.source) for cell in document.cells if cell.cell_type == "code"]
    except Exception as error:  # nbformat raises whatever its parsers raise
        raise ValueError(f"{path} is not a notebook: {type(error).__name__} while reading it") from None
    notebook = Notebook()
    for number, source in enumerate(sources, 1):
        kept = _without_magics(source, number, notebook.notes)
        cell = NotebookCell(number, kept, f"{Path(path).resolve()}#{number}")
        register_cell(cell.filename, str(Path(path).resolve()), number, kept)
        notebook.cells.append(cell)
    return notebook


def _without_magics(source: str, number: int, notes: list[str]) -> str:
    """A cell's source with IPython's magics blanked out, so that every line keeps its number."""
    lines = source.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%"):
        if first.split()[0] not in ("%%time", "%%timeit", "%%capture"):
            notes.append(f"cell {number} was skipped: {first.split()[0]} needs IPython")
            return "\n" * len(lines)
        lines[lines.index(first)] = ""
        notes.append(f"cell {number}: {first.split()[0]} was skipped")
    kept = []
    for line in lines:
        bare = line.lstrip()
        if bare.startswith(("%", "!")):
            notes.append(f"cell {number}: {bare.split()[0]} was skipped")
            indent = line[: len(line) - len(bare)]
            kept.append(f"{indent}pass" if indent else "")
        else:
            kept.append(line)
    return "\n".join(kept) + "\n"
