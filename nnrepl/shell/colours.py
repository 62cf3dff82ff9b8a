"""Colours: of what one types, and of prompt-toolkit's own parts, in both themes."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable

from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.styles import Style

from nnrepl.commands.table import Table
from nnrepl.session.parsed import parse

_TOKEN = re.compile(
    r"""(?P<string>[rbfuRBFU]{0,2}(?:\"\"\".*|'''.*|'(?:\\.|[^'\\])*'?|"(?:\\.|[^"\\])*"?))"""
    r"""|(?P<op>\#-?\d+(?:\.\d+)?|@-?\d+)"""
    r"""|(?P<comment>\#.*)"""
    r"""|(?P<number>(?<![\w.])\d[\w.]*)"""
    r"""|(?P<gradient>∂L/∂[\w.]+|grad(?=\())"""
    r"""|(?P<word>[A-Za-z_]\w*)"""
    r"""|(?P<other>\s+|.)""",
)

_DARK = {
    "prompt": "bold",
    "command": "ansicyan bold",
    "op": "bold",
    "string": "ansigreen",
    "number": "ansiyellow",
    "keyword": "ansimagenta",
    "gradient": "ansimagenta",
    "comment": "ansibrightblack",
    "auto-suggestion": "ansibrightblack",
    "bottom-toolbar": "noreverse ansigray bg:#303030",
    "bottom-toolbar.text": "noreverse ansigray bg:#303030",
    "toolbar.strong": "bold ansiwhite",
    "toolbar.dim": "#a0a0a0",
    "frame.title": "bold ansibrightblue",
    "frame.focused": "bold reverse ansibrightblue",
    "marked": "bg:#262626",
    "key": "noreverse bold ansicyan",
    "key.does": "noreverse ansigray",
    "frame.line": "ansibrightblack",
    "continuation": "ansibrightblack",
    "completion-menu.completion": "bg:#3a3a3a #e0e0e0",
    "completion-menu.completion.current": "bg:#5f87af #ffffff noreverse",
    "completion-menu.meta.completion": "bg:#303030 #a0a0a0",
    "completion-menu.meta.completion.current": "bg:#4a6a8a #ffffff",
}
_LIGHT = {
    **_DARK,
    "command": "ansiblue bold",
    "string": "#006000",
    "number": "#8a4a00",
    "keyword": "#8a008a",
    "gradient": "#8a008a",
    "comment": "#7a7a7a",
    "auto-suggestion": "#8a8a8a",
    "bottom-toolbar": "noreverse #202020 bg:#dcdcdc",
    "bottom-toolbar.text": "noreverse #202020 bg:#dcdcdc",
    "toolbar.strong": "bold #000000",
    "toolbar.dim": "#606060",
    "frame.title": "bold ansiblue",
    "frame.focused": "bold reverse ansiblue",
    "marked": "bg:#e4e4e4",
    "key": "noreverse bold ansiblue",
    "key.does": "noreverse #404040",
    "frame.line": "#9a9a9a",
    "continuation": "#8a8a8a",
    "completion-menu.completion": "bg:#e4e4e4 #202020",
    "completion-menu.completion.current": "bg:#87afd7 #000000 noreverse",
    "completion-menu.meta.completion": "bg:#eeeeee #606060",
    "completion-menu.meta.completion.current": "bg:#afc7e7 #000000",
}
STYLES = {"dark": Style.from_dict(_DARK), "light": Style.from_dict(_LIGHT)}


class LineLexer(Lexer):
    """Colours a line as the interpreter will read it: the command's name, and Python with the tape's names."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        """Return a function from a line's number to its pieces."""
        lines = document.lines
        is_command = self._is_command(document.text)

        def line(number: int) -> StyleAndTextTuples:
            return self._line(lines[number], is_command and number == 0)

        return line

    def _is_command(self, text: str) -> bool:
        word, space, rest = text.strip().partition(" ")
        if word.partition("/")[0] not in self._table:
            return False
        return not space or not rest or not parse(text).is_python

    def _line(self, text: str, begins_with_command: bool) -> StyleAndTextTuples:
        pieces: StyleAndTextTuples = []
        for found in _TOKEN.finditer(text):
            kind, token = found.lastgroup or "other", found[0]
            if kind == "word" and begins_with_command:
                kind = "command"
            elif kind == "word":
                kind = "keyword" if keyword.iskeyword(token) else ""
            if token.strip():
                begins_with_command = begins_with_command and kind == "command" and text[found.end() :][:1] == "-"
            pieces.append((f"class:{kind}" if kind not in ("", "other") else "", token))
        return pieces
