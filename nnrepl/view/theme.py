"""Theme: the names of the styles, and what they look like on a dark and on a light terminal."""

from __future__ import annotations

from rich.theme import Theme

_COMMON = {
    "op.number": "bold",
    "value.name": "bold",
    "source.mark": "bold",
    "error": "bold red",
    "tensor.nan": "bold red",
    "tensor.mark": "bold reverse",
    "source.line": "",
    "source.segment": "reverse",
}

DARK = Theme(
    {
        **_COMMON,
        "op.name": "bold cyan",
        "value.shape": "green",
        "value.dtype": "green",
        "gradient": "magenta",
        "dim": "bright_black",
        "hint": "bright_black",
        "source.current": "yellow",
        "tensor.zero": "bright_black",
        "heading": "bold blue",
        "good": "green",
        "warning": "yellow",
    },
    inherit=True,
)

LIGHT = Theme(
    {
        **_COMMON,
        "op.name": "bold blue",
        "value.shape": "dark_green",
        "value.dtype": "dark_green",
        "gradient": "dark_magenta",
        "dim": "grey50",
        "hint": "grey50",
        "source.current": "dark_orange3",
        "tensor.zero": "grey50",
        "heading": "bold blue",
        "good": "dark_green",
        "warning": "dark_orange3",
    },
    inherit=True,
)

THEMES = {"dark": DARK, "light": LIGHT}
