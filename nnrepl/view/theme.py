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
    "value.fresh": "bold reverse",
}

DARK = Theme(
    {
        **_COMMON,
        "op.name": "bold cyan",
        "value.shape": "green",
        "value.dtype": "green",
        "value.put": "cyan",
        "gradient": "magenta",
        "dim": "bright_black",
        "hint": "bright_black",
        "source.current": "yellow",
        "tensor.zero": "bright_black",
        "heading": "bold blue",
        "good": "green",
        "curve.1": "yellow",
        "curve.2": "cyan",
        "curve.3": "magenta",
        "curve.4": "green",
        "curve.5": "bright_blue",
        "curve.6": "red",
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
        "value.put": "blue",
        "gradient": "dark_magenta",
        "dim": "grey50",
        "hint": "grey50",
        "source.current": "#af5f00",
        "tensor.zero": "grey50",
        "heading": "bold blue",
        "good": "dark_green",
        "curve.1": "dark_orange3",
        "curve.2": "blue",
        "curve.3": "dark_magenta",
        "curve.4": "dark_green",
        "curve.5": "dark_cyan",
        "curve.6": "red3",
        "warning": "#af5f00",
    },
    inherit=True,
)

THEMES = {"dark": DARK, "light": LIGHT}
