"""Table: every command, its spelling, its grammar, and its help (the docstring).

A new command is one decorated function in one of this package's modules.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nnrepl.session.assignments import assignment
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import masked
from nnrepl.session.lookup import NUMBER

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nnrepl.commands.interpreter import Interpreter

Run = Callable[["Interpreter", str], "RenderableType | None"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What may follow a command.

    Attributes:
        name: As the usage line shows it: `[n]`, `PLACE`, `EXPR`.
        accepts: Whether a text is so.
        completes: What the prompt offers: "names", "places", "modules", "commands", "help", "files",
            "words", "".

        words: Those that it offers for "words".
        options: Whether `/4f` may stand right behind the command's name.
    """

    name: str
    accepts: Callable[[str], bool]
    completes: str = ""
    words: tuple[str, ...] = ()
    options: bool = False


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


NOTHING = Grammar("", lambda text: not text)
COUNT = Grammar("[n]", _matches(r"\d*"))
PLACE = Grammar("PLACE", _matches(r"\S.*"), "places")
PLACE_OR_NOTHING = Grammar("[PLACE]", lambda text: True, "places")
EXPRESSION = Grammar("EXPR", _matches(r"(?s)\S.*"), "names")
EXPRESSION_OR_NOTHING = Grammar("[EXPR]", lambda text: True, "names")
ANYTHING = Grammar("[...]", lambda text: True, "words")
FILE = Grammar("FILE", _matches(r"\S.*"), "files")
OUTPUT_FILE = Grammar("[-f] FILE", _matches(r"\S.*"), "files")
_PATH = re.compile(r"(?:-f\s+)?(?:/[^\s/]|~|\.\.?/)")


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        names: What it is called, the longest first.
        grammar: What may follow.
        run: Does it, on the interpreter and what followed; returns what to show.
        group: Under which heading `help` lists it.
        repeats: Whether an empty line repeats it (motions only).
        help: Its manual: the docstring of the function.
    """

    names: tuple[str, ...]
    grammar: Grammar
    run: Run
    group: str
    repeats: bool
    help: str

    @property
    def usage(self) -> str:
        """`step [n]`."""
        return f"{self.names[0]} {self.grammar.name}".rstrip()

    @property
    def summary(self) -> str:
        """The first line of its manual."""
        return self.help.split("\n", 1)[0]


@dataclass
class Table:
    """All commands by name."""

    commands: list[Command] = field(default_factory=list)
    by_name: dict[str, Command] = field(default_factory=dict)

    def add(self, command: Command) -> None:
        """Enter a command under all its names."""
        for name in command.names:
            if name in self.by_name:
                raise ValueError(f"two commands are called {name}")
            self.by_name[name] = command
        self.commands.append(command)

    def __contains__(self, name: str) -> bool:
        return name in self.by_name

    def __getitem__(self, name: str) -> Command:
        return self.by_name[name]


TABLE = Table()


def command(*names: str, takes: Grammar = NOTHING, group: str, repeats: bool = False) -> Callable[[Run], Run]:
    """Enter a function into the table as a command; its docstring is its manual."""

    def enter(run: Run) -> Run:
        TABLE.add(Command(names, takes, run, group, repeats, inspect.cleandoc(run.__doc__ or "")))
        return run

    return enter


@dataclass(frozen=True, slots=True)
class Line:
    """What a line at the prompt is.

    Attributes:
        kind: "command", "python" or "empty".
        command: The command, where it is one.
        text: What follows the command's name, or the Python.
    """

    kind: str
    text: str
    command: Command | None = None


def classify(line: str, table: Table = TABLE) -> Line:
    """Decide by its syntax, never by what is in scope, whether a line is a command or Python.

    A bare known word is a command. A known word followed by what its grammar accepts is a command, unless the
    whole line is valid Python (`n = 5`, `w @ x`, `s(1)`). `!` always means Python.

    Raises:
        UserError: If it is neither.
    """
    stripped = line.strip()
    if not stripped:
        return Line("empty", "")
    if stripped.startswith("!"):
        return Line("python", stripped[1:].strip())
    if stripped.startswith("?"):
        stripped = f"help {stripped[1:]}".strip()
    word, _, rest = stripped.partition(" ")
    rest = rest.strip()
    word, slash, form = word.partition("/")
    if slash and word in table and table[word].grammar.options and not is_python(stripped):
        return Line("command", f"/{form} {rest}", table[word])
    if slash:
        word = f"{word}/{form}"
    if word in table:
        known = table[word]
        only_comment = rest.startswith("#") and not NUMBER.match(rest)
        path = "FILE" in known.grammar.name and _PATH.match(rest) is not None  # and no division
        if known.grammar.accepts(rest) and (not rest or only_comment or path or not is_python(stripped)):
            return Line("command", rest, known)
        if not rest:
            raise UserError(f"{word} needs more; it is written: {known.usage}")
    if is_python(stripped):
        return Line("python", stripped)
    if word in table:
        raise UserError(f"{word} cannot take {rest!r}; it is written: {table[word].usage}")
    raise unknown(stripped, table)


def is_python(text: str) -> bool:
    """Whether a line is valid Python, the names of the tape (`#3`, `layers.0.weight`) and assignments to
    gradients (`grad(z1) = ...`) included."""
    if assignment(text) is not None:
        return True
    try:
        ast.parse(masked(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def unknown(line: str, table: Table = TABLE) -> UserError:
    """What to say of a line that is neither a command nor Python."""
    from difflib import get_close_matches

    word = line.partition(" ")[0]
    try:
        ast.parse(masked(line))
    except (SyntaxError, ValueError) as error:
        reason = str(getattr(error, "msg", error))
    except (RecursionError, MemoryError):
        reason = "it is too deeply nested"
    close = get_close_matches(word, table.by_name, 1)
    if close and " " not in word and re.fullmatch(r"[\w-]+", word):
        return UserError(f"there is no command {word}; did you mean {close[0]}?")
    if re.fullmatch(r"[A-Za-z][\w-]*", word) and word != line and not keyword.iskeyword(word):
        return UserError(f"there is no command {word}, and as Python it does not parse ({reason}); type help")
    return UserError(f"this does not parse: {reason}")
