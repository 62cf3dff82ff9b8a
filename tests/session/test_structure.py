"""The files of the session stand on each other without a circle, those of which only the types are known included."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nnrepl.session

PACKAGE = "nnrepl.session"


def _imports(text: str) -> tuple[set[str], set[str]]:
    """The files of the package that a file imports, at any place in it; and those of which it only knows the types."""
    tree = ast.parse(text)
    nodes = [*ast.walk(tree)]
    guarded = {
        inner
        for node in nodes
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    real: set[str] = set()
    types: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(PACKAGE):
            name = node.module.removeprefix(PACKAGE).removeprefix(".")
            (types if node in guarded else real).update([name] if name else [alias.name for alias in node.names])
    return real, types


@cache
def _files() -> dict[str, tuple[set[str], set[str]]]:
    folder = Path(nnrepl.session.__file__).parent
    return {path.stem: _imports(path.read_text(encoding="utf-8")) for path in folder.glob("*.py")}


def _circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_imports_and_none_of_types() -> None:
    files = _files()
    assert not _circle({name: real | types for name, (real, types) in files.items()})
    assert not [name for name, (real, types) in files.items() if "session" in real | types]
    assert not files["errors"][0] | files["errors"][1]


def test_a_circle_is_seen() -> None:
    real, types = _imports(f"if TYPE_CHECKING:\n    from {PACKAGE}.a import A\nfrom {PACKAGE} import b\n")
    assert (real, types) == ({"b"}, {"a"})
    assert _circle({"a": {"b"}, "b": {"a"}})


def test_whoever_explains_takes_a_reading() -> None:
    """Only what makes a session of its own (`into`, `debug`) knows the Session."""
    room = Path(nnrepl.session.__file__).parents[1] / "explain"
    files = [*room.rglob("*.py")]
    assert len(files) > 30
    assert {path.stem for path in files if "session" in _imports(path.read_text("utf-8"))[0]} == {
        "beside",
        "taken_apart",
    }


def test_views_take_data() -> None:
    """What they show is read by `nnrepl.seen`, and handed to them as plain values."""
    files = [*(Path(nnrepl.session.__file__).parents[1] / "view").rglob("*.py")]
    assert len(files) > 30
    known = {path.stem: set.union(*_imports(path.read_text("utf-8"))) for path in files}
    assert not {name for name, imports in known.items() if imports & {"session", "reading", "standing", "lookup"}}
