"""Log page: a session as a page: a heading for each command or stop, what it showed under it, to be folded away."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from rich.segment import Segment
from rich.style import Style

from nnrepl.view.page import page

_STOP = re.compile(r"^(?:(?:step|turn) \d+ · )*(?:setup|forward|backward|update) \d+(?: of \d+)?\b")
_NAMES = {
    "red": "bad", "red3": "bad", "green": "good", "dark_green": "good", "yellow": "mark", "dark_orange3": "mark",
    "#af5f00": "mark", "blue": "heading", "bright_blue": "heading", "magenta": "gradient",
    "dark_magenta": "gradient", "cyan": "name", "dark_cyan": "name", "bright_black": "dim", "grey50": "dim",
}  # fmt: skip
"""What stands for the colours of both themes: those of the page, which are light or dark as the reader's system is."""
_STYLE = """
details { border-left: 2px solid var(--line); padding-left: .8em; margin: .8em 0; } summary { cursor: pointer; }
summary h2 { display: inline; } summary code { font: 14px ui-monospace, Menlo, Consolas, monospace; }
.prompt { color: var(--dim); } .rev { background: var(--text); color: var(--back); }
""" + "".join(f".c-{name} {{ color: var(--{name}); }} " for name in dict.fromkeys(_NAMES.values()))


def log_page(title: str, about: str, prompt: str, entries: Iterable[tuple[str, list[list[Segment]]]]) -> str:
    """Return the page.

    Args:
        prompt: What stands before a command.
        entries: What was typed ("" for what came unasked), and the lines that it showed.
    """
    return page(title, about, "\n".join(_section(prompt, typed, lines) for typed, lines in entries), _STYLE)


def _section(prompt: str, typed: str, lines: list[list[Segment]]) -> str:
    stop = stop_of(lines)
    command = f'<code><span class="prompt">{escape(prompt)}</span>{escape(typed)}</code> ' if typed else ""
    heading = f"<h2>{escape(stop)}</h2>" if stop else ""
    shown = "\n".join("".join(_span(segment) for segment in line) for line in lines)
    if not shown.strip():
        return f"<p>{command}</p>"
    head = f"{command}{heading}" or "<h2>program</h2>"
    return f'<details open=""><summary>{head}</summary><pre>{shown}</pre></details>'


def stop_of(lines: list[list[Segment]]) -> str:
    """Return the heading of a stop among some lines, `step 1 · forward 2 of 8`; "" if there is none."""
    return next((found[0] for line in lines if (found := _STOP.match(_text(line)))), "")


def _text(line: list[Segment]) -> str:
    return "".join(segment.text for segment in line if not segment.control).rstrip()


def _span(segment: Segment) -> str:
    if segment.control:
        return ""
    text, style = escape(segment.text, quote=False), segment.style
    if style is None or style == Style.null():
        return text
    classes, inline = [], []
    for colour, kind in ((style.color, "color"), (style.bgcolor, "background")):
        if colour is None or colour.is_default:
            continue
        name = _NAMES.get(colour.name)
        if name is not None and kind == "color":
            classes.append(f"c-{name}")
        else:
            inline.append(f"{kind}:{colour.get_truecolor().hex}")
    inline += ["font-weight:bold"] if style.bold else []
    inline += ["text-decoration:underline"] if style.underline else []
    classes += ["rev"] if style.reverse else []
    if not classes and not inline:
        return text
    told = f' class="{" ".join(classes)}"' if classes else ""
    told += f' style="{";".join(inline)}"' if inline else ""
    return f"<span{told}>{text}</span>"
