"""Exporting: a session as a program that plain Python runs: the script's own source, and after it what was typed."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnrepl.classes import dataclass
from nnrepl.programs.cells import import_line
from nnrepl.programs.debuggee import Debuggee
from nnrepl.session.errors import UserError
from nnrepl.timeline.code import CodeChange
from nnrepl.timeline.timelines import Timeline
from nnrepl.timeline.typed_cells import Cell

if TYPE_CHECKING:
    from nnrepl.session.session import TapeSession

_FLAGS = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_AWAITS = (ast.Await, ast.AsyncFor, ast.AsyncWith)
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


@dataclass
class ExportPart:
    """One cell of what is written, or the source that the program came with.

    Attributes:
        title: `prompt 3`, or the name of a file.
        text: The source.
        typed: Whether it was typed: then its results are shown.
        error: What it raised.
    """

    title: str
    text: str
    typed: bool = False
    error: BaseException | None = None


@dataclass
class Export:
    """A session as a program.

    Attributes:
        parts: In order.
        before: Lines that put `sys.argv`, `sys.path` and the package as the program expects them.
        left_out: The changes that no line stands for where they were made.
        cells: How many cells were typed.
    """

    parts: list[ExportPart] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    cells: int = 0


def write(session: TapeSession, folder: Path) -> Export:
    """Put together what was typed on the timeline that the user looks at.

    Args:
        folder: Where it is to lie: what it imports from beside the program is found from there.

    Raises:
        UserError: If there is no program to which anything could have been typed.
    """
    debuggee = session.debuggee
    if not isinstance(debuggee, Debuggee):
        raise UserError(
            "there is no program here that plain Python could run; export session.txt writes what was shown"
        )
    line, script = session.changes.timelines.current, debuggee.script
    made = Export(before=script.surroundings(folder))
    error = debuggee.raised.get(None)
    texts = script.texts()
    made.parts += [ExportPart(title, text, error=error if text is texts[-1][1] else None) for title, text in texts]
    if debuggee.provided:
        made.parts.append(ExportPart("", "\n".join(import_line(name) for name in debuggee.provided) + "\n"))
    changes = _changes(line)
    for cell, start in zip(line.cells, line.starts):
        _changed_before(made, changes, start, _is_last_at(line, cell, start))
        made.parts.append(ExportPart(f"prompt {cell.number}", cell.text, True, debuggee.raised.get(cell)))
        made.cells += 1
    made.left_out += [text for _, text in changes]
    return made


def _changes(line: Timeline) -> list[tuple[int, str]]:
    """Return what was changed on a timeline, and where, in order; -1 for a reload, which is in the source that is
    written from its start."""
    found: list[tuple[int, str]] = []
    at: Timeline | None = line
    while at is not None and at.began is not None:
        began = at.began
        source = isinstance(began, CodeChange) and bool(began.texts)
        found.append((-1 if source else began.position, began.text))
        at = at.parent
    return sorted(found, key=lambda change: change[0])


def _is_last_at(line: Timeline, cell: Cell, start: int) -> bool:
    """Whether of the cells that begin at an op this is the last one: the one that makes it."""
    return [other for other, begun in zip(line.cells, line.starts) if begun == start][-1] is cell


def _changed_before(made: Export, changes: list[tuple[int, str]], start: int, last: bool) -> None:
    """Note that a change between two cells is a line of its own; one in the middle of a call is none."""
    while changes and (changes[0][0] < start or (changes[0][0] == start and last)):
        position, text = changes.pop(0)
        if position == start and _is_statement(text):
            made.parts.append(ExportPart("changed here", text, True))
        else:
            made.left_out.append(text)


def _is_statement(text: str) -> bool:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return not any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "grad"
        for node in ast.walk(tree)
    )


# -- as a script -------------------------------------------------------------------------------------------------


def as_script(written: Export) -> str:
    """Return the text of a Python file. Raises UserError for what only a notebook can hold."""
    head: list[str] = []
    body: list[str] = []
    needs: set[str] = {"import sys"} if written.before else set()
    for part in written.parts:
        first, text = _split_head(part, bare=not head and not body)
        head += first
        if part.typed:
            text = _showing(part, text)
            needs |= {"import sys"} if "sys.displayhook(" in text else set()
        text = _guarded(part, text)
        needs |= {"import traceback"} if "traceback.print_exc()" in text else set()
        if text.strip():
            title = f"# {part.title}\n" if part.title else ""
            body.append(f"{title}{text.strip(chr(10))}\n")
    start = "\n".join([*dict.fromkeys(head), *sorted(needs), *written.before])
    notes = "".join(f"# left out, in the middle of a call: {text}\n" for text in written.left_out)
    return "\n".join([piece for piece in (start and f"{start}\n", notes, *body) if piece])


def _tree(part: ExportPart) -> ast.Module:
    tree: ast.Module = compile(part.text, part.title, "exec", _FLAGS, dont_inherit=True)
    return tree


def _split_head(part: ExportPart, bare: bool) -> tuple[list[str], str]:
    """Return what has to stand at the head of a file (a docstring, `from __future__`), and the rest, on the same
    lines."""
    lines = part.text.splitlines()
    head: list[str] = []
    for number, node in enumerate(_tree(part).body):
        is_doc = bare and number == 0 and not part.typed and _is_text(node)
        if not (is_doc or (isinstance(node, ast.ImportFrom) and node.module == "__future__")):
            continue
        head.append(_cut(lines, node))
    return head, "\n".join(lines) + "\n"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _cut(lines: list[str], node: ast.stmt) -> str:
    """Take a statement out of some lines, with the `;` after it."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    start, end = _column(lines[first], node.col_offset), _column(lines[last], node.end_col_offset or 0)
    taken = "\n".join([*lines[first:last], lines[last][:end]])[start:]
    rest = lines[last][end:].lstrip()
    lines[first] = lines[first][:start] + rest.removeprefix(";").lstrip()
    for number in range(first + 1, last + 1):
        lines[number] = ""
    return taken


def _column(line: str, offset: int) -> int:
    """Return a column in characters, of one in bytes of UTF-8."""
    return len(line.encode()[:offset].decode())


def _showing(part: ExportPart, text: str) -> str:
    """Return what was typed, with the results shown that Python's prompt shows: of the last statement, or of the only
    one."""
    tree = compile(text, part.title, "exec", _FLAGS, dont_inherit=True)
    if any(isinstance(node, _AWAITS) for node in _outside(tree.body)):
        raise UserError(f"{part.title} has an await at its top level, which no .py file can have: export session.ipynb")
    last = tree.body[-1:] if len(tree.body) == 1 or isinstance((tree.body or [None])[-1], ast.Expr) else []
    shown = [node for node in _outside(last) if isinstance(node, ast.Expr) and not _prints(node.value)]
    lines = text.splitlines()
    for node in sorted(shown, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        before, after = ("(", ")") if isinstance(node.value, ast.Tuple) else ("", "")
        _insert(lines, node.end_lineno or node.lineno, node.end_col_offset or 0, f"{after})")
        _insert(lines, node.lineno, node.col_offset, f"sys.displayhook({before}")
    return "\n".join(lines) + "\n"


def _insert(lines: list[str], number: int, offset: int, text: str) -> None:
    line = lines[number - 1]
    column = _column(line, offset)
    lines[number - 1] = line[:column] + text + line[column:]


def _outside(body: list[Any]) -> list[ast.AST]:
    """Return the nodes of some statements that are in no function and no class."""
    found: list[ast.AST] = []
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if not isinstance(node, _INNER):
            found.append(node)
            pending.extend(ast.iter_child_nodes(node))
    return found


def _prints(node: ast.expr) -> bool:
    """Whether an expression is a call of `print`, whose result nobody misses."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def _guarded(part: ExportPart, text: str) -> str:
    """Mark a part that raised as one that may: what comes after it was typed all the same."""
    if part.error is None or not text.strip():
        return text
    if isinstance(part.error, KeyboardInterrupt):
        return "".join(f"# {line}".rstrip() + "\n" for line in ["it was interrupted:", *text.splitlines()])
    inside = _strings(text)
    lines = [line if at in inside or not line else f"    {line}" for at, line in enumerate(text.splitlines(), 1)]
    leaves = isinstance(part.error, SystemExit)
    tail = "except SystemExit:\n    pass" if leaves else "except Exception:\n    traceback.print_exc()"
    return "\n".join(["try:", *lines, tail]) + "\n"


def _strings(text: str) -> set[int]:
    """Return the lines that begin inside of a string: a margin would change it."""
    found: set[int] = set()
    begun: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ("STRING", "FSTRING_MIDDLE", "TSTRING_MIDDLE"):
            found.update(range(token.start[0] + 1, token.end[0] + 1))
        elif kind in ("FSTRING_START", "TSTRING_START"):
            begun.append(token.start[0])
        elif kind in ("FSTRING_END", "TSTRING_END"):
            found.update(range(begun.pop() + 1, token.end[0] + 1))
    return found


# -- as a notebook -----------------------------------------------------------------------------------------------


def as_notebook(written: Export) -> str:
    """Return the JSON of a notebook: a cell for each that was typed; those that raised are marked as such."""
    cells = [_cell("\n".join(["import sys", *written.before]))] if written.before else []
    for part in written.parts:
        if part.text.strip():
            interrupted = isinstance(part.error, KeyboardInterrupt)
            cells.append(_cell(_guarded(part, part.text) if interrupted else part.text, part.error is not None))
    cells += [_note(f"Left out, in the middle of a call: `{text}`") for text in written.left_out]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number + 1}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _cell(text: str, raises: bool = False) -> dict[str, Any]:
    metadata = {"tags": ["raises-exception"]} if raises else {}
    source = text.strip("\n").splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source}


def _note(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": [text]}
