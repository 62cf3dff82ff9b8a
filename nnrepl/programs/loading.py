"""Loading: from what is typed after `load` to the program that it names, or to the names that a file defines."""

from __future__ import annotations

import ast
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from nnrepl.programs.arrays import SUFFIX
from nnrepl.programs.examples import example
from nnrepl.programs.notebook import is_in_cells
from nnrepl.programs.script import CannotLoad, Script, load_module, load_script
from nnrepl.session.errors import UserError


def program_of(text: str) -> Script | None:
    """Return the program that a line names: `train.py --steps 20`, `-m package.module`, `lesson.ipynb`, `example
    transformer`.

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
    if path.suffix == ".py" or is_in_cells(str(path)) or path.is_dir():
        return True
    if path.suffix in (SUFFIX, ".npz", ".npy") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return True  # what is wrong with it is said when it is read
    return b"\0" not in start


_QUIET = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign,
    ast.Pass,
)  # fmt: skip


def import_of(script: Script) -> str:
    """Return the lines that import what a file defines, where it does nothing else; "" for a program that does
    something.

    Raises:
        UserError: If another module of that name is there already.
    """
    texts = script.texts()
    if script.arguments or len(texts) != 1 or not texts[0][0].endswith(".py"):
        return ""
    tree = ast.parse(texts[0][1])
    module = script.module
    names = list(dict.fromkeys(_bound(tree)))
    if not names or not all(part.isidentifier() for part in module.split(".")) or not _only_defines(tree):
        return ""
    known = getattr(sys.modules.get(module), "__file__", None) if module in sys.modules else script.path
    if known is None or os.path.realpath(known) != os.path.realpath(script.path):
        where = f", {known}" if known else ""
        raise UserError(f"there is another module {module} already{where}; rename {os.path.basename(script.path)}")
    line = f"from {module} import {', '.join(names)}"
    if script.folder in sys.path or (script.folder == os.getcwd() and "" in sys.path):
        return line
    return f"import sys; sys.path.insert(0, {script.folder!r})\n{line}"


def _bound(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a file defines, without those that it imports and those that are its own."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and getattr(node, "value", None) is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)]
        else:
            found = []
        yield from (name for name in found if not name.startswith("_"))


def _only_defines(tree: ast.Module) -> bool:
    """Whether a file does nothing but to import, to define and to name things: it calls nothing of MLX, and of its own
    only its classes."""
    imported = {
        alias.asname or alias.name.partition(".")[0]: getattr(node, "module", None) or alias.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    own = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    quiet = own | {name for name, module in imported.items() if module.partition(".")[0] != "mlx"}
    for node in tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not isinstance(node, _QUIET) and not is_text:
            return False
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        calls = [inner for inner in ast.walk(value) if isinstance(inner, ast.Call)] if value is not None else []
        if any(_root(call.func) not in quiet for call in calls):
            return False
    return True


def _root(node: ast.expr) -> str:
    """Return `logging` for `logging.getLogger`."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
