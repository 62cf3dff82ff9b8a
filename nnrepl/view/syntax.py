"""Syntax: the colours of Python's source, readable on a dark and on a light terminal."""

from __future__ import annotations

from functools import lru_cache

from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.text import Text


def _theme(comment: str, keyword: str, name: str, text: str, number: str) -> ANSISyntaxTheme:
    return ANSISyntaxTheme(
        {
            (): Style(),
            ("Comment",): Style(color=comment),
            ("Keyword",): Style(color=keyword),
            ("Keyword", "Constant"): Style(color=number),
            ("Operator", "Word"): Style(color=keyword),
            ("Name", "Function"): Style(color=name, bold=True),
            ("Name", "Class"): Style(color=name, bold=True),
            ("Name", "Decorator"): Style(color=name),
            ("Literal", "String"): Style(color=text),
            ("Literal", "String", "Interpol"): Style(),
            ("Literal", "Number"): Style(color=number),
        }
    )


SYNTAX = {
    "dark": _theme("bright_black", "bright_blue", "cyan", "green", "yellow"),
    "light": _theme("#6a6a6a", "blue", "#005f87", "#1b6b1b", "#8a4a00"),
}


@lru_cache(maxsize=32)
def coloured(code: str, theme: str) -> list[Text]:
    """Return the lines of some Python.

    Args:
        theme: "dark" or "light".
    """
    return list(Syntax("", "python", theme=SYNTAX[theme]).highlight(code).split("\n", allow_blank=True))
