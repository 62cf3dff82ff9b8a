"""HTML: what rich can render, and a tensor's picture, for a notebook. No script, no file beside it; the colours follow
the notebook's own background."""

from __future__ import annotations

import base64
import html
import io
import struct
import zlib
from collections.abc import Iterable

import mlx.core as mx
from rich.color import Color, ColorType
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style

from nnrepl.view.digits import number
from nnrepl.view.glyphs import without_codes
from nnrepl.view.heatmap import matrix_of, scale_of, shrunk
from nnrepl.view.said import WIDTH
from nnrepl.view.summary import summarize
from nnrepl.view.theme import DARK

_LIGHT = ("#000000", "#b00020", "#1b6b1b", "#8a5a00", "#1f4fbf", "#8a1a8a", "#006a75", "#555555", "#666666")
_NIGHT = ("#ffffff", "#ff7b86", "#7fd07f", "#e0b050", "#86aaff", "#e08ae0", "#5fd0dd", "#cccccc", "#a0a0a0")
_DARK_PAGES = (
    'html[theme="dark"]', 'html[data-theme="dark"]', 'body[data-theme="dark"]', 'body[data-jp-theme-light="false"]',
    "body.vscode-dark",
)  # fmt: skip
"""How Colab, Sphinx, JupyterLab and VS Code say that a page is dark."""


def _rules(colours: Iterable[str]) -> str:
    return ";".join(f"--nr{number}:{colour}" for number, colour in enumerate(colours))


STYLE = (
    f"<style>.nnrepl{{{_rules(_LIGHT)}}}"
    + ",".join(f"{page} .nnrepl" for page in _DARK_PAGES)
    + f"{{{_rules(_NIGHT)}}}"
    + ".nnrepl pre{background:none;border:0;margin:0;padding:0;line-height:1.25;white-space:pre;overflow-x:auto}"
    ".nnrepl table{border-collapse:collapse;margin:2px 0;font-size:90%}"
    ".nnrepl td,.nnrepl th{text-align:left;padding:1px 12px 1px 0;vertical-align:top}"
    ".nnrepl .n{text-align:right;font-variant-numeric:tabular-nums}"
    ".nnrepl details{margin-left:1em}.nnrepl summary{cursor:pointer;margin-left:-1em}"
    ".nnrepl .h{color:var(--nr8)}.nnrepl code{background:none}"
    "</style>"
)


def boxed(*parts: str) -> str:
    """Parts of HTML as one output of a notebook."""
    return f'<div class="nnrepl">{STYLE}{"".join(parts)}</div>'


def escaped(text: str) -> str:
    """Text as HTML."""
    return html.escape(text, quote=True)


def rendered(renderable: RenderableType, width: int = WIDTH) -> str:
    """Anything that rich can render, as preformatted HTML in so many columns."""
    console = Console(
        file=io.StringIO(), width=width, theme=DARK, highlight=False, markup=False, emoji=False, force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    lines = Segment.split_lines(without_codes(console.render(renderable, console.options.update(height=None))))
    shown = "\n".join("".join(map(_span, line)).rstrip() for line in lines)
    return f"<pre>{shown}</pre>"


def _span(segment: Segment) -> str:
    text = escaped(segment.text) if not segment.control else ""
    css = _css(segment.style)
    return f'<span style="{css}">{text}</span>' if css and text.strip() else text if not css else _blank(text, css)


def _blank(text: str, css: str) -> str:
    """Blanks that carry a background or a line; others need nothing."""
    return f'<span style="{css}">{text}</span>' if "background" in css or "underline" in css else text


def _css(style: Style | None) -> str:
    if style is None:
        return ""
    front, back = _colour(style.color), _colour(style.bgcolor)
    if style.reverse:
        front, back = back or "var(--jp-layout-color0,canvas)", front or "var(--nr0)"
    rules = [f"color:{front}"] if front else []
    rules += [f"background:{back}"] if back else []
    rules += ["font-weight:bold"] if style.bold else []
    rules += ["font-style:italic"] if style.italic else []
    rules += ["text-decoration:underline"] if style.underline else []
    return ";".join(rules)


def _colour(colour: Color | None) -> str:
    if colour is None or colour.is_default:
        return ""
    if colour.type in (ColorType.STANDARD, ColorType.WINDOWS) and colour.number is not None:
        number = colour.number
        return f"var(--nr{0 if number in (0, 15) else 8 if number == 8 else number % 8})"
    return colour.get_truecolor().hex


# -- pictures --------------------------------------------------------------------------------------------------

_ROWS, _COLUMNS = 128, 256
"""A picture has at most so many cells; each is the mean of the elements that it stands for."""
_WIDE = 480
"""How many pixels of the page a picture takes at most."""


def picture(array: mx.array) -> str:
    """Return a tensor as an image, one pixel a cell, with the scale of its colours; "" for one that has no picture.

    Args:
        array: Any shape and dtype; of a batch the first matrix is drawn.
    """
    if array.size < 2:
        return ""
    scale = scale_of(summarize(array))
    matrix, which = matrix_of(array)
    cells = shrunk(matrix, _ROWS, _COLUMNS)
    rows = [[_pixel(scale.colour(scale.share(value))) for value in row] for row in cells]
    size = max(1, min(16, _WIDE // len(rows[0]), _WIDE // len(rows)))
    drawn = _image(rows, size, f"{len(rows)} by {len(rows[0])} cells, {number(scale.low)} to {number(scale.high)}")
    legend = _image([[_pixel(scale.colour(at / 63)) for at in range(64)]], 2, "the scale", 10)
    notes = [note for note in (which, _averaged(cells, matrix.shape)) if note]
    said = f'<span class="h">{escaped(" · ".join(notes))}</span>' if notes else ""
    ends = f"{escaped(number(scale.low))} {legend} {escaped(number(scale.high))}"
    return f'<div>{drawn}</div><div class="h">{ends} {said}</div>'


def _averaged(cells: list[list[float]], shape: tuple[int, ...]) -> str:
    rows, columns = len(cells), len(cells[0])
    return "" if (rows, columns) == tuple(shape) else f"{rows} by {columns} cells, each the mean of its part"


def _pixel(colour: Color) -> bytes:
    return bytes(colour.get_truecolor())


def _image(rows: list[list[bytes]], size: int, said: str, height: int = 0) -> str:
    data = base64.b64encode(png(rows)).decode()
    wide, high = size * len(rows[0]), height or size * len(rows)
    return (
        f'<img alt="{escaped(said)}" src="data:image/png;base64,{data}" '
        f'style="image-rendering:pixelated;width:{wide}px;height:{high}px;display:inline;margin:2px 0;max-width:none">'
    )


def png(rows: list[list[bytes]]) -> bytes:
    """Rows of pixels (three bytes each: red, green, blue) as a PNG file."""
    raw = b"".join(b"\0" + b"".join(row) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
