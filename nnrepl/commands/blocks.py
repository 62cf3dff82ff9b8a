"""Blocks: lines that belong together, so that any Python can be piped in, pasted, or read from a file."""

from __future__ import annotations

import ast
import codeop
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable

from nnrepl.commands.table import Table, classify
from nnrepl.programs.notebook import is_open
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import masked

COMPLETE, OPEN, CONTINUABLE = "complete", "open", "continuable"
_COMPOUND = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While, ast.With,
    ast.AsyncWith, ast.Try, ast.TryStar, ast.Match,
)  # fmt: skip
_CONTINUES = re.compile(r"\s|$|#(?![\d!-])|(?:else|elif|except|finally)\b")
_ASSIGNS = re.compile(r"(?:[-+*/%@&|^]|//|\*\*|<<|>>)?=(?!=)")


def state_of(text: str, table: Table) -> str:
    """Whether some lines are COMPLETE, are OPEN (Python needs another one), or are a block that is CONTINUABLE."""
    if is_command(text.partition("\n")[0], table):
        return COMPLETE
    source = text.strip().removeprefix("!")
    found = _state(source)
    return _state(masked(source)) if found is None else found


def _state(source: str) -> str:
    """As `state_of`, for Python alone; what is none is COMPLETE."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if codeop.compile_command(source, "<prompt>", "exec") is None:
                return OPEN
            body = ast.parse(source).body
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return COMPLETE
    return CONTINUABLE if body and isinstance(body[-1], _COMPOUND) else COMPLETE


def is_command(line: str, table: Table) -> bool:
    """Whether a line is a command by itself, and no beginning of Python that goes on (`list = [`)."""
    word, _, rest = line.strip().partition(" ")
    if word in table and _ASSIGNS.match(rest.lstrip()):
        return False
    try:
        return classify(line, table).kind == "command"
    except UserError:
        return False


def ends(lines: list[str]) -> bool:
    """Whether a block that a user types is at its end: an empty line ends it, as at Python's own prompt; in a class,
    and in a function that has not returned yet, it takes two, since they have empty lines inside."""
    if len(lines) < 2 or lines[-1].strip():
        return False
    return not lines[-2].strip() or not _goes_on("\n".join(lines))


def _goes_on(text: str) -> bool:
    """Whether a block is one in which people leave lines empty, and more could follow."""
    try:
        last = ast.parse(text.strip().removeprefix("!")).body[-1]
    except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        return False
    if isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return not isinstance(last.body[-1], (ast.Return, ast.Raise))
    return isinstance(last, ast.ClassDef)


class Blocks:
    """Puts lines together.

    Args:
        read: Gives the next line, None at the end.
        table: The commands, which are lines by themselves.
        typed: Whether a user types the lines: then empty ones end a block.
    """

    def __init__(self, read: Callable[[], str | None], table: Table, typed: bool = False) -> None:
        self._read = read
        self._table = table
        self._typed = typed
        self._ahead: deque[str] = deque()
        self.inside = False

    def read(self) -> str | None:
        """Return the next command or piece of Python, None at the end. A block ends before the next line that is not
        indented and does not continue it."""
        line = self._next()
        if line is None:
            return None
        lines = [line]
        try:
            while (state := state_of("\n".join(lines), self._table)) != COMPLETE:
                self.inside = True
                if state == CONTINUABLE and self._typed and ends(lines):
                    break
                line = self._next()
                if line is None:
                    break
                if not _CONTINUES.match(line) and not takes_any(state, lines):
                    self._ahead.appendleft(line)
                    break
                lines.append(line)
        finally:
            self.inside = False
        if len(lines) > 1 and not _is_block(lines[0]) and not _parses(masked("\n".join(lines).removeprefix("!"))):
            self._ahead.extendleft(reversed(lines[1:]))  # the line that opened a bracket is wrong, not all that follow
            return lines[0]
        while len(lines) > 1 and not lines[-1].strip():
            lines.pop()
        return "\n".join(lines)

    def _next(self) -> str | None:
        return self._ahead.popleft() if self._ahead else self._read()


def split(lines: Iterable[str], table: Table) -> list[str]:
    """Return the commands and pieces of Python in some lines; `#!` begins a comment. What is Python throughout is one
    piece: a cell."""
    kept = [line for line in lines if not line.lstrip().startswith("#!")]
    rest = iter(kept)
    blocks = Blocks(lambda: next(rest, None), table)
    found: list[str] = []
    while (block := blocks.read()) is not None:
        if block.strip():
            found.append(block)
    whole = "\n".join(kept).strip("\n")
    if len(found) > 1 and not any(is_command(block, table) for block in found) and _parses(whole):
        return [whole]
    return found


def in_file(text: str, name: str, table: Table) -> list[str]:
    """Return the commands and pieces of Python in a file; one that is called `.py` is one piece, whatever it looks
    like."""
    if not name.endswith(".py"):
        return split(text.splitlines(), table)
    return [f"!{text}" if is_command(text.strip().partition("\n")[0], table) else text] if text.strip() else []


def takes_any(state: str, lines: list[str]) -> bool:
    """Whether any line may follow: in brackets, in a string, after a decorator."""
    text = "\n".join(lines).removeprefix("!")
    return state == OPEN and (lines[-1].lstrip().startswith("@") or is_open(text) or is_open(masked(text)))


def _is_block(line: str) -> bool:
    """Whether a line begins a block: what is wrong in it is said once."""
    return line.startswith("@") or line.partition("#")[0].rstrip().endswith(":")


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
