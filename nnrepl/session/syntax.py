"""Syntax: what is written in a line of the prompt, told without running it."""

from __future__ import annotations

import ast
import re

TOKEN = re.compile(
    r"""(?P<string>[rbfuRBFU]{0,2}(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))"""
    r"""|(?P<number>(?:(?<![\w.])(?:\d+|setup))?\#\d+(?:\.\d+)?)"""
    r"""|(?P<partial>∂L/∂)?(?<![\w.])(?P<path>[A-Za-z_]\w*(?:\.(?:[A-Za-z_]\w*|\d+))*)"""
    r"""(?P<version>@(?:(?:\d+|setup)?\#)?\d+\b)?""",
    re.DOTALL,
)


def speaks_of_a_name(text: str) -> bool:
    """Whether an expression speaks of something by name, so that its result can be shown under it: `loss.item()`,
    and not `6 * 7`, `"text"`, `[1, 2]`."""
    try:
        body = ast.parse(masked(text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return len(text) <= 80 and any(isinstance(node, ast.Name) for node in ast.walk(body))


def is_condition(text: str) -> bool:
    """Whether a text is a comparison, or several with `and`, `or`, `not`: no place on the tape is written so."""
    try:
        body = ast.parse(masked(text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(body, (ast.Compare, ast.BoolOp)) or (
        isinstance(body, ast.UnaryOp) and isinstance(body.op, ast.Not)
    )


def parts(text: str) -> list[str]:
    """The expressions in `a, b[0], f(x, y)`: what `print` shows one by one."""
    try:
        tree = ast.parse(masked(text), mode="eval")
    except SyntaxError:
        return [text]
    if isinstance(tree.body, ast.Tuple) and not text.lstrip().startswith("("):
        flat = masked(text).encode()
        return [cut(text, flat, node) for node in tree.body.elts]
    return [text]


def names_in(text: str) -> list[str]:
    """The names and dotted paths in an expression, those within strings left out."""
    return [match["path"] for match in TOKEN.finditer(text) if match["path"]]


def masked(text: str) -> str:
    """The text with everything that is not Python replaced by names of the same length."""

    def mask(match: re.Match[str]) -> str:
        return match[0] if match["string"] else re.sub(r"[^\w]|^\d", "_", match[0])

    return TOKEN.sub(mask, text)


def cut(text: str, flat: bytes, node: ast.expr) -> str:
    """The piece of a text that a node of its syntax tree stands for."""
    start = len(flat[: node.col_offset].decode())
    end = len(flat[: node.end_col_offset].decode()) if node.end_col_offset is not None else len(text)
    return text[start:end]
