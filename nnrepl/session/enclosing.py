"""Enclosing: statements at the prompt in which a function says `nonlocal`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

RESULT = "__result__"
"""The variable that is given what the last of several statements gives."""


def enclosed(tree: ast.Module) -> tuple[ast.Module, set[str]]:
    """Statements in which a function says `nonlocal`: they are put into a function that has these variables, as pdb
    does it. Returns the statements, and the variables. What the last of several gives is kept under `RESULT`."""
    if len(tree.body) > 1 and isinstance(last := tree.body[-1], ast.Expr):
        kept_under = ast.copy_location(ast.Assign([ast.Name(RESULT, ast.Store())], last.value), last)
        tree = ast.fix_missing_locations(ast.Module([*tree.body[:-1], kept_under], []))
    names = {name for node in ast.walk(tree) if isinstance(node, ast.Nonlocal) for name in node.names}
    if not names:
        return tree, names
    body = ast.parse("def __outer__():\n    return").body[0]
    assert isinstance(body, ast.FunctionDef)
    kept = names | {name for statement in tree.body for name in _set_by(statement)}
    begin = [ast.parse(f"{name} = globals()[{name!r}]").body[0] for name in sorted(names)]
    end = [ast.parse(f"globals()[{name!r}] = {name}").body[0] for name in sorted(kept)]
    body.body = [*begin, *tree.body, *end]
    call = ast.parse("__outer__()").body
    return ast.fix_missing_locations(ast.Module([body, *call], [])), names


def _set_by(node: ast.AST) -> Iterator[str]:
    """Yield the variables that a statement sets itself, not in a function of its own."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif not isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        for child in ast.iter_child_nodes(node):
            yield from _set_by(child)
