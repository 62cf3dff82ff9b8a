"""Export: write the session to a file."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import OUTPUT_FILE, command
from nnrepl.session.errors import UserError
from nnrepl.session.files import write_text

PROMPT = "(nnrepl) "
KINDS = {".html": "HTML", ".htm": "HTML", ".svg": "SVG", ".md": "Markdown", ".txt": "text"}


@command("export", takes=OUTPUT_FILE, group="general")
def export(it: Interpreter, text: str) -> RenderableType | None:
    """Write the session, commands and what they showed, as HTML, SVG, Markdown or text.

    The end of the name decides: `export lesson.html`, `.svg`, `.md` or `.txt`. A file that exists already is
    written over only with `export -f lesson.html`.
    """
    force = text.startswith("-f ")
    path = Path(text.removeprefix("-f ").strip()).expanduser()
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"export writes .html, .svg, .md or .txt; {path.name} is none of them")
    if path.exists() and not force:
        raise UserError(f"{path} exists; export -f {path} writes over it")
    dark = it.session.settings["theme"] == "dark"
    try:
        write_text(path, _written(it, kind, dark))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return Text(f"written as {kind}: {path}", style="hint")


def _written(it: Interpreter, kind: str, dark: bool) -> str:
    log, title = it.log, "nnrepl"
    if kind == "HTML":
        return log.html(PROMPT, title, dark)
    if kind == "SVG":
        return log.svg(PROMPT, title, dark)
    return log.markdown(PROMPT) if kind == "Markdown" else log.text(PROMPT)
