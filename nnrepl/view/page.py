"""Page: an HTML page of ours: a title, what it is about, light or dark as the reader's system is, and nothing from
elsewhere. All colours have a contrast of at least 4.5 against their background."""

from __future__ import annotations

from html import escape

from nnrepl.view.glyphs import harmless

COLOURS = {
    "light": {
        "back": "#ffffff", "text": "#1c1c1c", "dim": "#5c5c5c", "line": "#dddddd", "good": "#1b6b2f", "mark": "#8a4b00",
        "gradient": "#9a1f73", "heading": "#1f4fa3", "name": "#0b5d7a", "bad": "#b3001b",
    },
    "dark": {
        "back": "#16181d", "text": "#e6e6e6", "dim": "#a4a8b0", "line": "#33373f", "good": "#7fd08f", "mark": "#f0c060",
        "gradient": "#f09ad6", "heading": "#8fb8ff", "name": "#7fd3ea", "bad": "#ff8f8f",
    },
}  # fmt: skip
_BASE = """
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 80em; padding: 1em 1.5em; }
h1 { font-size: 1.4em; margin: 0; } .about { color: var(--dim); margin: 0 0 1em; }
h2 { font: bold 1em ui-monospace, Menlo, Consolas, monospace; margin: 1.2em 0 .2em; color: var(--heading); }
pre { font: 14px/1.25 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto; margin: .2em 0; }
@media print { details { break-inside: avoid; } pre { white-space: pre-wrap; font-size: 8px; } }
"""


def page(title: str, about: str, body: str, style: str = "") -> str:
    """Return a page of its own."""
    light, dark = (_variables(COLOURS[theme]) for theme in ("light", "dark"))
    return harmless(
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>:root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}{_BASE}{style}</style></head>\n"
        f'<body><h1>{escape(title)}</h1><p class="about">{escape(about)}</p>\n{body}\n</body></html>\n'
    )


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
