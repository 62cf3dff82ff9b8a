"""Export: write the session to a file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import mlx.core as mx
from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl._version import VERSION
from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import OUTPUT_FILE, command
from nnrepl.session.errors import UserError
from nnrepl.session.files import write_text

PROMPT = "(nnrepl) "
PROGRAMS = {".py": "a program", ".ipynb": "a notebook"}
KINDS = {".html": "HTML", ".htm": "HTML", ".svg": "SVG", ".md": "Markdown", ".txt": "text", **PROGRAMS}


@command("export", takes=OUTPUT_FILE, group="general")
def export(it: Interpreter, text: str) -> RenderableType | None:
    """Write the session, commands and what they showed, as HTML, SVG, Markdown or text; or as a program.

    The end of the name decides: `export lesson.html` is a page with a heading for each command and stop, light or dark
    as its reader wishes; `.svg`, `.md` or `.txt`; `export session.py` or `.ipynb` writes
    the program's own source and, after it, the cells of this timeline, for plain Python to run. A file that exists
    already is written over only with `export -f lesson.html`.
    """
    force = text.startswith("-f ")
    path = Path(text.removeprefix("-f ").strip()).expanduser()
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"export writes .html, .svg, .md, .txt, .py or .ipynb; {path.name} is none of them")
    if path.exists() and not force:
        raise UserError(f"{path} exists; export -f {path} writes over it")
    said = ""
    if kind in PROGRAMS.values():
        from nnrepl.programs.exporting import as_notebook, as_script, write

        written = write(it.session, path.resolve().parent)
        whole = as_script(written) if kind == "a program" else as_notebook(written)
        said = f" ({written.cells} cell{'' if written.cells == 1 else 's'} of what was typed)"
    else:
        whole = _written(it, kind, it.session.settings["theme"] == "dark")
    try:
        write_text(path, whole)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    done = Text(f"written as {kind}: {path}{said}", style="hint")
    if kind not in PROGRAMS.values() or not written.left_out:
        return done
    lost = f"left out, since no line of plain Python stands for it: {', '.join(written.left_out)}"
    return Group(done, Text(lost, style="warning"))


def _written(it: Interpreter, kind: str, dark: bool) -> str:
    log, program = it.log, it.session.program_name
    title = f"{program or 'A session'} in nnrepl"
    mlx: str = mx.__version__  # type: ignore[attr-defined]  # its stubs do not know it
    about = f"{date.today():%Y-%m-%d} · nnrepl {VERSION} · mlx {mlx}"
    if kind == "HTML":
        return log.html(PROMPT, title, about)
    if kind == "SVG":
        return log.svg(PROMPT, f"{title} · {about}", dark)
    return log.markdown(PROMPT, title, about) if kind == "Markdown" else log.text(PROMPT)
