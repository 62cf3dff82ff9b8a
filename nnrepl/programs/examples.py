"""Examples: the programs that come with nnrepl."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from pathlib import Path

from nnrepl.classes import dataclass
from nnrepl.session.errors import UserError


@dataclass(frozen=True, slots=True)
class Example:
    """A built-in program.

    Attributes:
        name: As it is loaded: `transformer`, `broken/dead_relu`.
        path: Its file.
        summary: The first line of its docstring.
    """

    name: str
    path: Path
    summary: str

    @property
    def is_twin(self) -> bool:
        """Whether it is the sound twin of a faulty one."""
        return self.name.endswith("_sound")


def folder() -> Path:
    """Where they lie: in the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent.parent / "_examples"
    return installed if installed.exists() else Path(__file__).parent.parent.parent / "examples"


def example_path() -> Path:
    """Return the file of the example that runs where none is named."""
    return folder() / "living_nn.py"


def examples() -> list[Example]:
    """Every built-in program, those that are faulty on purpose after the others."""
    home = folder()
    files = sorted(home.glob("*.py")) + sorted(home.glob("*/*.py"))
    return [Example(file.relative_to(home).with_suffix("").as_posix(), file, _summary(file)) for file in files]


def example(name: str) -> Example:
    """Return the example of a name, with or without its folder and `.py`.

    Raises:
        UserError: If there is none.
    """
    known = examples()
    wanted = name.removesuffix(".py")
    for found in known:
        if wanted in (found.name, found.path.stem):
            return found
    names = [found.path.stem for found in known]
    close = get_close_matches(wanted, names, 1)
    instead = f"did you mean {close[0]}?" if close else "examples lists them"
    raise UserError(f"there is no example {name}; {instead}")


def _summary(file: Path) -> str:
    try:
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, UnicodeDecodeError):
        said = None
    return said.split("\n", 1)[0] if said else ""
