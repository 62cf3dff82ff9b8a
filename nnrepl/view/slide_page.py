"""Slide page: a gradient pass as one HTML page that needs nothing else; modules unfold at a click."""

from __future__ import annotations

from html import escape

from nnrepl.seen.slide import Slide, SlideRow
from nnrepl.view.page import page
from nnrepl.view.slide_text import size_text
from nnrepl.view.tensor import dtype_text, shape_text

_STYLE = """
.slide { font: 14px/1.5 ui-monospace, Menlo, Consolas, monospace; }
.row { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 0 1.5em;
  padding: 1px 0 1px 1.2em; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.slide summary { cursor: pointer; list-style: none; } .slide summary::-webkit-details-marker { display: none; }
.slide summary > .row > span:first-child::before { content: "▸"; display: inline-block; width: 1.2em;
  margin-left: -1.2em; color: var(--dim); }
.slide details[open] > summary > .row > span:first-child::before { content: "▾"; }
.slide details > div { padding-left: 1.2em; border-left: 2px solid var(--line); }
.head { font-weight: bold; position: sticky; top: 0; background: var(--back); }
.op { color: var(--dim); } .value { color: var(--good); } .gradient { color: var(--gradient); }
.bar { display: inline-block; height: .7em; background: var(--gradient); vertical-align: baseline; }
.room { display: inline-block; width: 7em; } .none { color: var(--dim); } .pair { white-space: nowrap; }
"""


_FOLDED = 4
"""Of a folded module so many gradients are shown, the largest; the others when it is unfolded."""


def slide_page(slide: Slide, title: str, about: str) -> str:
    """Return the page.

    Args:
        title: What is drawn, and of which program.
        about: When it was written, and of which step it is.
    """
    body = (
        '<div class="slide"><div class="row head"><span>forward ↓</span><span>backward ↑</span></div>'
        + "".join(_row(slide, row, 0) for row in slide.whole.rows)
        + "</div><p>A bar is the size of a row's largest gradient (its norm) beside the largest of the pass. "
        "A click unfolds a module.</p>"
    )
    return page(title, about, body, _STYLE)


def _row(slide: Slide, row: SlideRow, depth: int) -> str:
    if row.rows and len(row.ops) == 1:
        return "".join(_row(slide, inner, depth) for inner in row.rows)
    line = f"<span>{_forward(slide, row)}</span><span>{_backward(slide, row)}</span>"
    line = f'<div class="row">{line}</div>'
    if not row.rows:
        return line
    inside = "".join(_row(slide, inner, depth + 1) for inner in row.rows)
    return f"<details><summary>{line}</summary><div>{inside}</div></details>"


def _forward(slide: Slide, row: SlideRow) -> str:
    head = f'<b>{escape(row.title)}</b> <span class="op">{escape(row.label)}, {len(row.ops)} ops</span>'
    if not row.rows:
        head = f'<span class="op">{escape(row.label)}</span> {escape(row.title)}'
    values = slide.shown(row)
    for value in values:
        named = "" if len(values) == 1 else f"{value.name} "
        size = f" {size_text(slide, value)}" if size_text(slide, value) else ""
        shape = f"{shape_text(value.shape)} {dtype_text(value.dtype)}"
        head += f' <span class="value">{escape(named + shape + size)}</span>'
    return head


def _backward(slide: Slide, row: SlideRow) -> str:
    found = slide.gradients(row)
    if not found:
        return '<span class="none">no gradient</span>' if not row.back else ""
    width = max(slide.share_of(row) * 6.5, 0.05)
    parts = [f'<span class="room"><span class="bar" style="width:{width:.2f}em"></span></span>']
    shown = found[:_FOLDED] if row.rows else found
    for name, value in shown:
        gradient = slide.gradient(value)
        assert gradient is not None
        size = escape(size_text(slide, gradient))
        parts.append(f'<span class="pair"><span class="gradient">{escape(name)}</span> {size}</span>')
    parts += [f'<span class="none">+{len(found) - len(shown)}</span>'] if len(found) > len(shown) else []
    return " ".join(parts) + f' <span class="op">{escape(row.back_label)}</span>'
