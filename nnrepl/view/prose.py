"""Prose: Markdown as a terminal shows it, in lines short enough to read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnrepl.late import late

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

WIDTH = 78
_INLINE = {"strong_open": "bold", "em_open": "italic"}


def prose(text: str) -> RenderableType:
    """Markdown: headings, paragraphs, lists, code and tables; with a blank line between two blocks."""
    tokens = _reader().parse(text)
    blocks = _blocks(tokens)
    spaced: list[RenderableType] = []
    for block in blocks:
        spaced += [Text(""), block] if spaced else [block]
    return Constrain(Group(*spaced), WIDTH)


def line(text: str) -> Text:
    """One line of Markdown, without blocks."""
    return _inline(_reader().parseInline(text)[0].children or [])


@lru_cache(1)
def _reader() -> MarkdownIt:
    reader: MarkdownIt = late("markdown_it").MarkdownIt("commonmark")  # 60 modules, which a start does not need
    return reader.enable("table")


def _blocks(tokens: Sequence[Token]) -> list[RenderableType]:
    found: list[RenderableType] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        end = _end(tokens, at)
        if token.type == "inline":
            found.append(_inline(token.children or []))
        elif token.type == "heading_open":
            found.append(Text(_inline(tokens[at + 1].children or []).plain, style="heading"))
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            found.append(_list(tokens[at + 1 : end], token.type == "ordered_list_open"))
        elif token.type == "table_open":
            found.append(_table(tokens[at + 1 : end]))
        elif token.type in ("fence", "code_block"):
            found.append(Padding(Text(token.content.rstrip("\n"), style="op.name"), (0, 0, 0, 4)))
        elif token.nesting == 1:
            found += _blocks(tokens[at + 1 : end])
        at = end + 1
    return found


def _end(tokens: Sequence[Token], at: int) -> int:
    """Where a block ends that begins at a token."""
    depth = 0
    for place in range(at, len(tokens)):
        depth += tokens[place].nesting
        if depth <= 0:
            return place
    return len(tokens) - 1


def _list(tokens: Sequence[Token], numbered: bool) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    at = number = 0
    while at < len(tokens):
        end = _end(tokens, at)
        number += 1
        grid.add_row(f" {number}." if numbered else " •", Group(*_blocks(tokens[at + 1 : end])))
        at = end + 1
    return grid


def _table(tokens: Sequence[Token]) -> Table:
    rows: list[list[Text]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(_inline(token.children or []))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in rows[0] if rows else []:
        table.add_column(head)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _inline(tokens: Sequence[Token]) -> Text:
    text = Text()
    styles: list[str] = []
    for token in tokens:
        if token.type in _INLINE:
            styles.append(_INLINE[token.type])
        elif token.type == "code_inline":
            text.append(token.content, style="op.name")
        elif token.type in ("softbreak", "hardbreak"):
            text.append("\n" if token.type == "hardbreak" else " ")
        elif token.type == "text":
            text.append(token.content, style=" ".join(styles))
        elif token.nesting == -1 and styles and token.type in ("strong_close", "em_close"):
            styles.pop()
    return text
