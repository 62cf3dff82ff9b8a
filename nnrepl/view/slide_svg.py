"""Slide SVG: a gradient pass as one picture for a slide: forward to the left, gradients in the same rows."""

from __future__ import annotations

from html import escape

from nnrepl.seen.slide import Slide, SlideRow
from nnrepl.tape import Value
from nnrepl.view.glyphs import harmless
from nnrepl.view.page import COLOURS
from nnrepl.view.slide_text import size_text
from nnrepl.view.tensor import shape_text

ROWS = 24
"""More rows than this are folded by module."""
_WIDTH, _ROW, _BOX, _TOP = 1280, 40, 28, 84
_LEFT, _FORWARD, _RIGHT, _BACKWARD = 90, 510, 680, 510
_LETTER = 7.3
_VALUE = 30


def slide_svg(slide: Slide, rows: list[SlideRow], title: str, about: str) -> str:
    """Return the picture. `title`: what is drawn, of which program; `about`: of which step, when it was written."""
    height = _TOP + len(rows) * _ROW + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="Menlo, Consolas, monospace" font-size="12">',
        f"<style>{_styles('light')} @media (prefers-color-scheme: dark) {{{_styles('dark')}}} "
        ".h{font-size:16px;font-weight:bold}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="dim" d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<text class="h" x="{_LEFT}" y="26">{escape(title)}</text>',
        f'<text class="dim" x="{_LEFT}" y="46">{escape(about)}</text>',
        f'<text class="dim" x="{_LEFT}" y="{_TOP - 12}">forward, downwards (‖ ‖ is a norm)</text>',
        f'<text class="dim" x="{_RIGHT}" y="{_TOP - 12}">backward, upwards: the bar is the largest gradient of a row'
        " beside the largest of all</text>",
    ]
    parts += _edges(slide, rows)
    for at, row in enumerate(rows):
        parts += _boxes(slide, row, _TOP + at * _ROW)
    return harmless("\n".join([*parts, "</svg>", ""]))


def _styles(theme: str) -> str:
    """Return the colours, written out: not every reader of SVG knows CSS's variables."""
    use = COLOURS[theme]
    return (
        f".page{{fill:{use['back']}}} .box{{fill:{use['back']};stroke:{use['heading']}}} "
        f".back{{stroke:{use['gradient']}}} text{{fill:{use['text']}}} .dim{{fill:{use['dim']}}} "
        f".edge{{fill:none;stroke:{use['dim']}}} .up{{stroke:{use['gradient']}}} .bar{{fill:{use['gradient']}}}"
    )


def _boxes(slide: Slide, row: SlideRow, y: int) -> list[str]:
    values = slide.shown(row)
    sizes = [size_text(slide, value) or shape_text(value.shape) for value in values]
    value = ", ".join(sizes[:3])
    room = int(_FORWARD / _LETTER) - 4
    title = f"{row.title}  {len(row.ops)} ops" if row.rows else f"{row.label} {row.title}"
    value = _cut(value, min(_VALUE, room - 12))
    middle = y + _BOX / 2 + 4
    parts = [
        f'<rect class="box" x="{_LEFT}" y="{y}" width="{_FORWARD}" height="{_BOX}" rx="4"/>',
        f'<text x="{_LEFT + 8}" y="{middle}">{escape(_cut(title, room - len(value)))}</text>',
        f'<text class="dim" x="{_LEFT + _FORWARD - 8}" y="{middle}" text-anchor="end">{escape(value)}</text>',
    ]
    found = slide.gradients(row)
    if not found:
        return parts
    said = [f"{name} {size_text(slide, gradient)}" for name, value_ in found if (gradient := slide.gradient(value_))]
    shown = _whole(said, int((_BACKWARD - 70) / _LETTER) - 2)
    length = max(60 * slide.share_of(row), 1)
    return [
        *parts,
        f'<rect class="box back" x="{_RIGHT}" y="{y}" width="{_BACKWARD}" height="{_BOX}" rx="4"/>',
        f'<rect class="bar" x="{_RIGHT + 6}" y="{y + 9}" width="{length:.1f}" height="10"/>',
        f'<text x="{_RIGHT + 74}" y="{middle}">{escape(shown)}</text>',
    ]


def _edges(slide: Slide, rows: list[SlideRow]) -> list[str]:
    """Return what flows from row to row: straight to the next one, round the others at the outer side."""
    maker: dict[Value, int] = {}
    edges: dict[tuple[int, int], None] = {}
    for at, row in enumerate(rows):
        for value in dict.fromkeys(value for op in row.ops for value in op.inputs):
            if maker.get(value, at) != at:
                edges[maker[value], at] = None
        maker.update(dict.fromkeys((value for op in row.ops for value in op.outputs), at))
    parts = []
    for start, end in edges:
        parts.append(_edge(start, end, _LEFT, _LEFT + 24, -1, "edge"))
        if slide.gradients(rows[start]) and slide.gradients(rows[end]):
            outer = _RIGHT + _BACKWARD
            parts.append(_edge(end, start, outer, outer - 24, 1, "edge up"))
    return parts


def _edge(start: int, end: int, outer: int, inner: int, side: int, kind: str) -> str:
    a, b = float(_TOP + start * _ROW), float(_TOP + end * _ROW)
    if abs(end - start) == 1:
        y0, y1 = (a + _BOX, b) if end > start else (a, b + _BOX)
        path = f"M{inner} {y0}L{inner} {y1}"
    else:
        reach = outer + side * min(16 + 7 * abs(end - start), 74)
        y0, y1 = a + _BOX / 2, b + _BOX / 2
        path = f"M{outer} {y0}C{reach} {y0} {reach} {y1} {outer} {y1}"
    return f'<path class="{kind}" d="{path}" marker-end="url(#tip)"/>'


def _whole(parts: list[str], most: int) -> str:
    """As many parts as there is room for, each whole, and how many more there are."""
    for count in range(len(parts), 1, -1):
        more = f"  +{len(parts) - count}" if count < len(parts) else ""
        if len(text := "  ".join(parts[:count]) + more) <= most:
            return text
    more = f"  +{len(parts) - 1}" if len(parts) > 1 else ""
    return _cut(parts[0], most - len(more)) + more


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"
