"""The house: no file and no function so long that nobody reads it, each word for one thing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from nnrepl.ops import ENTRIES
from tests.record.samples import SAMPLES
from tests.support import ROOT

FILES = sorted((ROOT / "nnrepl").rglob("*.py"))
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 500, 50


class Facts(NamedTuple):
    """What the tests ask of a file, which is parsed once for all of them."""

    lines: int
    functions: dict[str, int]
    classes: list[str]
    imports: list[tuple[str, set[str], bool]]
    """From where (or what, whole), which names, and whether for types alone."""


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """What is made of statements, with all that stands in it: nine tenths of a tree are expressions."""
    yield tree
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        for node in getattr(tree, field, ()):
            yield from statements(node)


@cache
def facts(file: Path) -> Facts:
    text = file.read_text(encoding="utf-8")
    nodes = list(statements(ast.parse(text)))
    blocks = [node for node in nodes if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    types = {id(node) for block in blocks for node in statements(block)}
    functions = {
        f"{node.name}, line {node.lineno}": (node.end_lineno or 0) - node.lineno + 1
        for node in nodes
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    classes = [node.name for node in nodes if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    imports: list[tuple[str, set[str], bool]] = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            imports.append((node.module, {alias.name for alias in node.names}, id(node) in types))
        elif isinstance(node, ast.Import):
            imports += [(alias.name, set(), id(node) in types) for alias in node.names]
    return Facts(text.count("\n"), functions, classes, imports)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_size(file: Path) -> None:
    assert facts(file).lines <= LINES_OF_A_FILE
    assert not {name: lines for name, lines in facts(file).functions.items() if lines > LINES_OF_A_FUNCTION}


def test_a_file_name_stands_in_one_room() -> None:
    rooms: dict[str, list[Path]] = {}
    for file in FILES:
        if file.stem not in ("__init__", "__main__"):
            rooms.setdefault(file.name, []).append(file.relative_to(ROOT))
    assert not {name: places for name, places in rooms.items() if len(places) > 1}


TIED = {"bindings", "native_run", "notes", "op", "passes", "steps", "tape", "value"}
"""The files of `tape/` that name each other's classes, see docs/architecture.md; no others may."""


def _imported(file: Path, names: set[str], types: bool) -> set[str]:
    """Return the files that a file imports, wherever in it, with or without what only names a type."""
    found: set[str] = set()
    for module, imported, for_types in facts(file).imports:
        if types or not for_types:
            found |= ({f"{module}.{name}" for name in imported} & names) or {module}
    return found & names


@pytest.mark.parametrize("types", [False, True])
def test_imports_make_no_circle(types: bool) -> None:
    """Nor those in functions, nor those of types: a file can be read, and moved, with what lies below it alone."""
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
    below = {name: _imported(file, set(modules), types) - {name} for name, file in modules.items()}
    while free := [name for name, wanted in below.items() if not wanted & below.keys()]:
        for name in free:
            del below[name]
    while ends := [name for name in below if not any(name in wanted for wanted in below.values())]:
        for name in ends:
            del below[name]
    assert below.keys() == ({f"nnrepl.tape.{name}" for name in TIED} if types else set()), below


def test_dataclasses_are_light() -> None:
    """Written in full when they are made, they were half of what the start took."""
    heavy = [file for file in FILES if "from dataclasses import dataclass" in file.read_text(encoding="utf-8")]
    assert [file.name for file in heavy] == ["classes.py"]


def test_every_public_name_has_a_home() -> None:
    import nnrepl

    assert {name: getattr(nnrepl, name).__name__ for name in nnrepl.__all__} == {name: name for name in nnrepl.__all__}
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        _ = nnrepl.nosuch


def test_a_class_is_called_like_no_other() -> None:
    """A name means one thing: whoever reads `Step` in a message of mypy's, or searches for it, finds one class."""
    where: dict[str, list[str]] = {}
    for file in FILES:
        for name in facts(file).classes:
            where.setdefault(name, []).append(str(file.relative_to(ROOT)))
    assert not {name: files for name, files in where.items() if len(files) > 1}


NAMED = {
    "doing": ({"matmul"}, "how Python writes it: a @ b"),
    "words": ({"matmul", "getitem", "transpose"}, "how Python writes it: a @ b, a[i], a.T"),
    "in_place": ({"matmul", "getitem"}, "how Python writes it, in the source of the program"),
    "failed_call": ({"matmul", "addmm", "stack", "concatenate", "reshape"}, "each asks another thing of shapes"),
    "taken_apart": ({"stack"}, "an attribute of the recorder"),
    "activations": ({"astype", "maximum", "sigmoid", "tanh"}, "a unit that is dead or saturated"),
    "arrears": ({"add"}, "a sum of gradients over steps"),
    "axes": ({"add", "subtract", "multiply", "divide", "matmul", "reshape", "fast.rope", "fast.rms_norm",
              "fast.layer_norm", "fast.scaled_dot_product_attention"}, "how an attention is written"),
    "frozen_parts": ({"astype"}, "a cast to whole numbers"),
    "gradient_findings": ({"maximum", "softmax"}, "a ReLU, a router"),
    "kept_out": ({"stop_gradient"}, "what it is about"),
    "own_numbers": ({"add", "addmm", "divide", "multiply", "subtract"}, "a number of the program's own in it"),
    "picks": ({"fast.cross_entropy", "log", "multiply", "softmax", "take_along_axis"}, "how a loss is written"),
    "precision": ({"astype"}, "a cast"),
    "program_findings": ({"addmm", "matmul"}, "a layer"),
    "results": ({"add", "divide", "multiply", "negative", "subtract"}, "how an update is written"),
    "shares": ({"sigmoid", "softmax"}, "how its sentence calls what a loss takes"),
    "signs": ({"abs", "divide", "logaddexp", "multiply", "negative", "positive", "power", "square", "subtract"},
              "how a loss is written"),
    "update_findings": ({"add", "subtract"}, "how an update is written"),
    "wholes": ({"add", "multiply", "negative", "subtract"}, "done again in whole numbers of any size"),
}  # fmt: skip
"""The files of `explain/` in which ops are named, which, and what for: this list may become shorter, and no longer.

What an op is stands in `ops/`, as its traits; whoever adds one writes them there, and all questions know it."""


def test_ops_are_named_in_their_own_room() -> None:
    names = set(ENTRIES) | {key.removeprefix("mx.") for key in SAMPLES}
    found: dict[str, set[str]] = {}
    for file in (ROOT / "nnrepl" / "explain").rglob("*.py"):
        tree = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        nodes = [call.args[0] for call in tree if isinstance(call, ast.Call) and call.args
                 and isinstance(call.func, ast.Name) and call.func.id == "Node"]  # fmt: skip
        kinds = [part for sides in tree if isinstance(sides, ast.Compare)
                 and isinstance(sides.left, ast.Attribute) and sides.left.attr == "kind"
                 for part in ast.walk(sides)]  # fmt: skip
        other = {id(node) for node in (*nodes, *kinds)}
        for node in tree:
            if isinstance(node, ast.Constant) and node.value in names and id(node) not in other:
                found.setdefault(file.stem, set()).add(node.value)
    more = {name: which - NAMED.get(name, (set(), ""))[0] for name, which in found.items()}
    assert {name: which for name, which in more.items() if which} == {}, "a trait in nnrepl/ops, instead of the name"
