"""Table: every command, its spelling, its grammar, and its help (the docstring).

A new command is one decorated function in one of this package's modules.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from difflib import get_close_matches
from enum import Flag, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nnrepl.classes import dataclass
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import Parsed, parse

if TYPE_CHECKING:
    from rich.console import RenderableType

Handler = Callable[[Any, str], "RenderableType | None"]
"""What does a command: takes the `Interpreter`, which stands on this table, and what follows on the line."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What may follow a command.

    Attributes:
        name: As the usage line shows it: `[n]`, `PLACE`, `EXPR`.
        accepts: Whether a text is so.
        completes: What the prompt offers: "names", "places", "commands", "help", "files", "words", "".

        words: Those that it offers for "words".
        options: Whether `/4f` may stand right after the command's name.
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
SIGNED_COUNT = Grammar("[n]", _matches(r"(-?\d+)?"))
PLACE = Grammar("PLACE", _matches(r"\S.*"), "places")
PLACE_OR_NOTHING = Grammar("[PLACE]", lambda text: True, "places")
EXPRESSION = Grammar("EXPR", _matches(r"(?s)\S.*"), "names")
EXPRESSION_OR_NOTHING = Grammar("[EXPR]", lambda text: True, "names")
ANYTHING = Grammar("[...]", lambda text: True, "words")
FILE = Grammar("FILE", _matches(r"\S.*"), "files")
OUTPUT_FILE = Grammar("[-f] FILE", _matches(r"\S.*"), "files")
_PATH = re.compile(r"(?:-f\s+)?(?:/[^\s/]|~|\.\.?/)")


class Opens(Flag):
    """What a command looks at: steps that ran natively are opened for it (`nnrepl.commands.looks`)."""

    NOTHING = 0
    PLACE = auto()
    """The places that it is given."""
    PYTHON = auto()
    """The names in the Python that it is given."""
    HERE = auto()
    """The step in which the user stands."""
    GRADIENTS = auto()
    """The gradients that were made last."""
    MADE = auto()
    """The op that made the value that it is given."""
    TAPE = auto()
    """All of the tape, perhaps: opens nothing more, but says what has stayed closed."""


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
        hidden: Whether it is listed and offered nowhere; typed, it works.
        instead: What to type instead, of one that is to go away: it is hidden, works, and says so.
        opens: What it looks at, for which closed steps are opened.
    """

    names: tuple[str, ...]
    grammar: Grammar
    run: Handler
    group: str
    repeats: bool
    help: str
    hidden: bool = False
    instead: str = ""
    opens: Opens = Opens.NOTHING

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
    """All commands by name.

    Attributes:
        commands: Those that are listed, in order.
        by_name: All, the hidden ones too.
    """

    commands: list[Command] = field(default_factory=list)
    by_name: dict[str, Command] = field(default_factory=dict)

    def add(self, command: Command) -> None:
        """Enter a command under all its names."""
        for name in command.names:
            if name in self.by_name:
                raise ValueError(f"two commands are called {name}")
            self.by_name[name] = command
        if not (command.hidden or command.instead):
            self.commands.append(command)

    @property
    def names(self) -> list[str]:
        """Every name of a command that is listed: what may be suggested."""
        return [name for command in self.commands for name in command.names]

    def __contains__(self, name: str) -> bool:
        return name in self.by_name

    def __getitem__(self, name: str) -> Command:
        return self.by_name[name]


TABLE = Table()


def command(
    *names: str,
    takes: Grammar = NOTHING,
    group: str,
    repeats: bool = False,
    hidden: bool = False,
    instead: str = "",
    opens: Opens | None = None,
    manual: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Handler], Handler]:
    """Enter a function into the table as a command; its docstring is its manual. See `Command` for the rest.

    Args:
        manual: What stands in the manual for words in braces: what another table lists.

    Raises:
        TypeError: If it takes places or names and does not say what it looks at: of closed steps it would know
            nothing.
    """
    if opens is None and takes.completes in ("names", "places"):
        raise TypeError(f"{names[0]} takes {takes.completes}: say what it looks at, opens=Opens.... or Opens.NOTHING")

    def enter(run: Handler) -> Handler:
        said = inspect.cleandoc(run.__doc__ or "")
        for word, text in manual.items():
            said = said.replace(f"{{{word}}}", text)
        TABLE.add(Command(names, takes, run, group, repeats, said, hidden, instead, opens or Opens.NOTHING))
        return run

    return enter


@dataclass(frozen=True, slots=True)
class TypedLine:
    """What a line at the prompt is.

    Attributes:
        kind: "command", "python" or "empty".
        text: What follows the command's name, or the Python.
        command: The command, where it is one.
        parsed: The Python, where it is that.
    """

    kind: str
    text: str
    command: Command | None = None
    parsed: Parsed | None = None

    @staticmethod
    def python(parsed: Parsed) -> TypedLine:
        """Return a line of Python."""
        return TypedLine("python", parsed.text, None, parsed)


def classify(line: str, table: Table = TABLE, is_name: Callable[[str], bool] = lambda word: False) -> TypedLine:
    """Decide by its syntax whether a line is a command or Python, and where both would do (`p (a)[0]`, `n -1`) by
    whether the word is a name of the program.

    A bare known word is a command. A known word followed by what its grammar accepts is a command, unless the
    line is Python that begins with a name of the program or assigns (`n = 5`, `w @ x`). `!` always means Python.

    Args:
        is_name: Whether the program, or the user, has something that is called so.

    Raises:
        UserError: If it is neither.
        DoesNotParse: If it begins as Python does, with a name of the program's.
    """
    stripped = line.strip()
    if not stripped:
        return TypedLine("empty", "")
    if stripped.startswith("!"):
        return TypedLine.python(parse(stripped[1:]))
    if stripped.startswith("?"):
        stripped = f"help {stripped[1:]}".strip()
    word, form, rest = _split(stripped, table)
    if word in table and not rest and not form:
        return _bare(table[word], word)
    parsed = parse(stripped)
    if not parsed.is_python and _ASSIGNS.match(stripped) and is_name(re.split(r"\W", stripped, maxsplit=1)[0]):
        raise DoesNotParse(f"this does not parse: {_reason(parsed)}")
    if word in table:
        known = table[word]
        if not parsed.is_python or _is_command(known, word, parsed, rest, is_name):
            for meant in (_unwrapped(rest), rest):
                if form or (meant and known.grammar.accepts(meant)):
                    return TypedLine("command", f"{form} {meant}" if form else meant, known)
    if parsed.is_python:
        return TypedLine.python(parsed)
    if word in table:
        raise UserError(f"{word} cannot take {rest!r}; it is written: {table[word].usage}")
    raise unknown(parsed, table)


class DoesNotParse(UserError):
    """A line that begins as Python, with a name of the program's, and is none."""


_ASSIGNS = re.compile(r"[A-Za-z_]\w*\s*(\*\*|//|<<|>>|[-+*/@%&|^=!<>])?=")
"""How Python begins that assigns to a name, or compares it, and no command."""


def _bare(known: Command, word: str) -> TypedLine:
    if not known.grammar.accepts(""):
        raise UserError(f"{word} needs more; it is written: {known.usage}")
    return TypedLine("command", "", known)


def _split(line: str, table: Table) -> tuple[str, str, str]:
    """Return the first word, its options (`/4f`) where the command takes some, and the rest. `p(x)` is `p (x)`."""
    word, _, rest = line.partition(" ")
    called = re.match(r"[A-Za-z][\w-]*(?=\()", line)
    if called is not None and called[0] in table and not hasattr(builtins, called[0]):
        word, rest = called[0], line[called.end() :]
    word, slash, form = word.partition("/")
    if slash and not (word in table and table[word].grammar.options):
        return f"{word}/{form}", "", rest.strip()
    return word, slash + form, rest.strip()


def _is_command(known: Command, word: str, parsed: Parsed, rest: str, is_name: Callable[[str], bool]) -> bool:
    """Whether a line that is valid Python is meant as a command."""
    if rest.startswith("#"):
        return True  # an op, or a comment
    if "FILE" in known.grammar.name and _PATH.match(rest) is not None:
        return True  # a path, and no division
    if is_name(word) or parsed.assignment is not None or len(parsed.body) != 1:
        return False
    only = parsed.body[0]
    if isinstance(only, ast.AnnAssign):
        return only.value is None  # `until :41`
    return parsed.expression is not None and parse(rest).expression is not None


def _unwrapped(text: str) -> str:
    """`z1` for `(z1)`; a tuple or a generator keeps its brackets."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    whole, inner = parse(text).expression, parse(text[1:-1])
    if whole is None or inner.expression is None or isinstance(whole, (ast.Tuple, ast.GeneratorExp, ast.NamedExpr)):
        return text
    return inner.text


def _reason(parsed: Parsed) -> str:
    """Return why a line is no Python."""
    if isinstance(parsed.error, (RecursionError, MemoryError)):
        return "it is too deeply nested"
    line = getattr(parsed.error, "lineno", None)
    where = f" (line {line})" if line and "\n" in parsed.text else ""
    return "" if parsed.error is None else f"{getattr(parsed.error, 'msg', parsed.error)}{where}"


def unknown(parsed: Parsed, table: Table = TABLE) -> UserError:
    """Return what to say of a line that is neither a command nor Python."""
    line = parsed.text
    word = line.partition(" ")[0]
    reason = _reason(parsed)
    if keyword.iskeyword(word) or "\n" in line:
        return UserError(f"this does not parse: {reason}")
    close = get_close_matches(word, table.names, 1)
    if close and " " not in word and re.fullmatch(r"[\w-]+", word):
        return UserError(f"there is no command {word}; did you mean {close[0]}?")
    if re.fullmatch(r"[A-Za-z][\w-]*", word) and word != line:
        return UserError(f"there is no command {word}, and as Python it does not parse ({reason}); type help")
    return UserError(f"this does not parse: {reason}")
