"""Loading: from what is typed behind `load` to the program that it names."""

from __future__ import annotations

import shlex
from pathlib import Path

from nnrepl.programs.arrays import SUFFIX
from nnrepl.programs.examples import example
from nnrepl.programs.script import CannotLoad, Script, load_module, load_script
from nnrepl.session.errors import UserError


def program_of(text: str) -> Script | None:
    """The program that a line names: `train.py --steps 20`, `-m package.module`, `lesson.ipynb`, `example transformer`.

    Returns None for what is no program: a saved tape.

    Raises:
        UserError: If there is no such program, or it cannot be run.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"load takes a file and its arguments as a shell does; this line has {error}".lower()) from None
    try:
        if words[0] == "-m":
            if len(words) < 2:
                raise UserError("load -m needs a module: load -m package.module")
            return load_module(words[1], words[2:])
        if words[0] == "example" and not Path("example").exists():
            if len(words) < 2:
                raise UserError("load example needs a name; examples lists them")
            found = example(words[1])
            script = load_script(str(found.path), words[2:])
            script.title = f"example {found.name}"
            return script
        path = str(Path(words[0]).expanduser())
        return load_script(path, words[1:]) if _is_program(Path(path)) else None
    except CannotLoad as error:
        raise UserError(str(error)) from None


def _is_program(path: Path) -> bool:
    """Whether a file is to be run, and not to be looked at."""
    if path.suffix in (".py", ".ipynb") or path.is_dir():
        return True
    if path.suffix in (SUFFIX, ".npz", ".npy") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return True  # what is wrong with it is said when it is read
    return b"\0" not in start
