"""Signs: what becomes of single characters on their way to a terminal.

Control codes in what is shown (a source line, a file's name, an exception) are made visible, so that they control
nothing; the minus of formulas becomes the one that Python reads; and where the output is no Unicode, every sign has a
stand-in, because a number without its sign is another number.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from rich.console import Console, RenderableType
from rich.segment import Segment

_PICTURES = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)}
_REPLACED = "\N{SYMBOL FOR SUBSTITUTE FORM TWO}"
_HIDDEN = [0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C]
_HARMLESS = str.maketrans({**_PICTURES, **dict.fromkeys(_HIDDEN, _REPLACED), "−": "-"})

ASCII = {
    "−": "-", "∂": "d", "∇": "d", "·": "*", "×": "x", "→": ">", "←": "<", "▶": ">", "◀": "<", "▸": ">", "▲": "^",
    "▼": "v", "′": "'", "″": '"', "↑": "^", "↓": "v", "÷": "/", "•": "*", "µ": "mu", "\N{REPLACEMENT CHARACTER}": "^",
    "✓": "+", "✗": "x", "✎": "*", "●": "o", "○": ".", "…": "~", "━": "~", "╰": "`", "±": "+/-", "∓": "-/+",
    "ᵀ": "'", "ᵗ": "^t", "ˣ": "^x", "⁻": "^-", "¹": "^1", "²": "^2", "³": "^3", "₀": "_0", "₁": "_1", "₂": "_2",
    "√": "sqrt ", "Σ": "sum ", "Π": "prod ", "∞": "inf", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "‖": "||",
    "⌊": "floor(", "⌋": ")", "⌈": "ceil(", "⌉": ")", "π": "pi", "μ": "mu", "σ": "sigma", "θ": "theta", "λ": "lambda",
    "β": "beta", "α": "alpha", "ε": "eps", "Δ": "delta", "Φ": "Phi", "γ": "gamma",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^", "─": "-", "│": "|",
    "┼": "+", "┴": "+", "┬": "+", "├": "+", "┤": "+", "└": "`", "┘": "'", "┌": ",", "┐": ".",
    "╯": "'", "╮": ".", "╭": ",", "█": "#", "▀": "#", "▄": "#", "▏": "|", "▎": "|", "▍": "|", "▌": "|", "▋": "#",
    "▊": "#", "▉": "#", "▁": "_", "▂": ".", "▃": ":", "▅": "=", "▆": "*", "▇": "#", "°": "o",
    "„": '"', "“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "\N{NO-BREAK SPACE}": " ", _REPLACED: "^",
}  # fmt: skip
"""What stands for a sign where the output cannot show it. Signs that are used in rows keep their width of one."""


def harmless(text: str) -> str:
    """Return a text whose control codes are pictures of themselves (`␛`), and whose minus signs can be pasted into
    Python."""
    return text if text.isascii() and text.isprintable() else text.translate(_HARMLESS)


def without_codes(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Yield what is to be printed, its texts made harmless; styles and rich's own controls stay."""
    for segment in segments:
        yield segment if segment.control else Segment(harmless(segment.text), segment.style)


def encodable(text: str, encoding: str) -> str:
    """Return a text in signs that an encoding has: `-6`, `dL/dz1`, and never `?` for what it has not."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join([_one(sign, encoding) for sign in text])
    except LookupError:  # an encoding that Python does not know
        return encodable(text, "ascii")
    return text


def fitting(console: Console, renderable: RenderableType) -> Iterator[list[Segment]]:
    """Return the lines of something for an output that has not every sign. What stands for a sign may be longer (`||`,
    `sqrt `): it is laid out for as many columns less as it takes for all of it to fit."""
    width = console.width
    while True:
        segments = console.render(renderable, console.options.update(width=width, height=None))
        shown = [_encoded(segment, console.encoding) for segment in without_codes(segments)]
        lines = list(Segment.split_lines(shown))
        over = max((Segment.get_line_length(line) for line in lines), default=0) - console.width
        if over <= 0 or width <= _NARROWEST:
            return iter(lines)
        width = max(width - over, _NARROWEST)


_NARROWEST = 20
"""Nothing is laid out for fewer columns than this because of longer signs."""


def _encoded(segment: Segment, encoding: str) -> Segment:
    return segment if segment.control else Segment(encodable(segment.text, encoding), segment.style)


def _one(sign: str, encoding: str) -> str:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        pass
    else:
        return sign
    code = ord(sign)
    if 0x2400 <= code < 0x2420:
        return "^"
    if 0x2800 <= code < 0x2900:  # the dots of a plot
        return " " if code == 0x2800 else "*"
    plain = "".join(part for part in unicodedata.normalize("NFKD", sign) if part.isascii())
    return ASCII.get(sign) or plain or sign.encode("ascii", "backslashreplace").decode("ascii")
