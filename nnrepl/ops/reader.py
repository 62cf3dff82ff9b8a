"""Reader: the text of a formula, `g · b · a^(b − 1)`, as a tree.

The grammar is school notation: `+ − · / ^ ² ³ √ |a| ⌊a⌋ ⌈a⌉`, functions, `[a > b]` (1 where it holds, else 0),
`a if c else b`, `a @ bᵀ`, and `Σ Π mean max min` along the row of the element in question, which reach over a whole
product: `Σ g · y`. Definitions may follow: `(a − μ) / s, μ = mean a, s = √(mean (a − μ)²)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache

from nnrepl.classes import dataclass
from nnrepl.ops.expression import Node, without
from nnrepl.ops.scalars import FUNCTIONS

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:e[+−-]?\d+)?)"
    r"|(?P<name>(?:erf⁻¹|log₂|log₁₀)|[^\W\d_](?:[^\W²³ᵀ]|[\u0302\u0303])*)"
    r"|(?P<sign>[-+−·/^²³√|⌊⌋⌈⌉()\[\]<>≤≥=≠@ᵀ,ΣΠ∞]))"
)
OVER = ("Σ", "Π", "mean", "max", "min")


class Unreadable(ValueError):
    """A text that is no formula."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula with its definitions, in the order in which they are written."""

    main: Node
    where: tuple[tuple[str, Node], ...] = ()

    def without(self, absent: Collection[str]) -> Formula:
        """Return the formula without what is left out in a call."""
        if not absent:
            return self
        main = without(self.main, absent)
        where = [(name, without(node, absent)) for name, node in self.where]
        return Formula(
            main or Node("number", text="0", value=0), tuple((name, n) for name, n in where if n is not None)
        )

    def apart(self, taken: Collection[str]) -> Formula:
        """Return the formula with a prime at each definition whose name is already that of a tensor here."""
        both = [name for name, _ in self.where if name in taken]
        if not both:
            return self

        def change(node: Node) -> Node | None:
            return replace(node, text=f"{node.text}′") if node.kind == "symbol" and node.text in both else None

        where = [(f"{name}′" if name in both else name, node.mapped(change)) for name, node in self.where]
        return Formula(self.main.mapped(change), tuple(where))

    def write(self, names: Mapping[str, str]) -> str:
        """Return the whole in these names."""
        parts = [self.main.write(names), *(f"{name} = {node.write(names)}" for name, node in self.where)]
        return ",  ".join(parts)


@cache
def parse(text: str) -> Formula:
    """Read a formula.

    Raises:
        Unreadable: If the text is something else.
    """
    reader = _Reader(text)
    main = reader.choice()
    where = []
    while reader.take(","):
        name = reader.name()
        reader.expect("=")
        where.append((name, reader.choice()))
    if reader.peek() is not None:
        raise Unreadable(f"{reader.peek()} in {text!r} is not understood")
    return Formula(main, tuple(where))


def readable(text: str) -> bool:
    """Whether a text is a formula."""
    try:
        parse(text)
    except Unreadable:
        return False
    return True


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, bool]] = []
        at = 0
        stripped = text.rstrip()
        while at < len(stripped):
            match = _TOKEN.match(stripped, at)
            if match is None:
                raise Unreadable(f"{stripped[at:]!r} is no formula")
            kind = match.lastgroup or ""
            follows = match.start(kind) == at  # no blank before it
            self.tokens.append((kind, match[kind], follows))
            at = match.end()
        self.at = 0

    def peek(self, ahead: int = 0) -> str | None:
        at = self.at + ahead
        return self.tokens[at][1] if at < len(self.tokens) else None

    def take(self, *signs: str) -> str | None:
        found = self.peek()
        if found in signs and found is not None:
            self.at += 1
            return found
        return None

    def expect(self, sign: str) -> None:
        if self.take(sign) is None:
            raise Unreadable(f"{sign} is missing in {self.text!r}")

    def name(self) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != "name":
            raise Unreadable(f"a name is missing in {self.text!r}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    # -- from the loosest to the tightest --------------------------------------------------------------------------

    def choice(self) -> Node:
        found = self.logic()
        if self.take("if"):
            condition = self.logic()
            self.expect("else")
            return Node("choice", (found, condition, self.choice()))
        return found

    def logic(self) -> Node:
        if self.take("not"):
            return Node("logic", (self.comparison(),), "not")
        parts = [self.comparison()]
        sign = self.take("and", "or")
        while sign is not None:
            parts.append(self.comparison())
            word = self.take("and", "or")
            if word is None:
                return Node("logic", tuple(parts), sign)
            if word != sign:
                raise Unreadable(f"and and or are mixed in {self.text!r}")
        return parts[0]

    def comparison(self) -> Node:
        parts, signs = [self.sum()], []
        while sign := self.take("<", ">", "≤", "≥", "=", "≠"):
            signs.append(sign)
            parts.append(self.sum())
        return Node("compare", tuple(parts), " ".join(signs)) if signs else parts[0]

    def sum(self) -> Node:
        parts, signs = [self.product()], "+"
        while sign := self.take("+", "−"):
            signs += sign
            parts.append(self.product())
        return Node("sum", tuple(parts), signs) if len(parts) > 1 else parts[0]

    def product(self) -> Node:
        parts, signs = [self.prefix()], "·"
        while sign := self.take("·", "/", "@"):
            signs += sign
            parts.append(self.prefix())
        if len(parts) == 1:
            return parts[0]
        return Node("matrix" if "@" in signs else "product", tuple(parts), signs)

    def prefix(self) -> Node:
        if self.take("−"):
            inner = self.product()
            return Node("negative", (inner,))
        token = self.peek()
        if token in OVER and not self._is_call():
            self.at += 1
            sign = "Π other" if token == "Π" and self.take("other") else token or ""
            return Node("over", (self.product(),), sign)
        return self.power()

    def _is_call(self) -> bool:
        """`max(a, b)` is a function of two numbers, `max a` and `max (a − b)` go along the row."""
        if self.peek(1) != "(" or not self.tokens[self.at + 1][2]:
            return False
        return self.peek() in FUNCTIONS

    def power(self) -> Node:
        found = self.postfix()
        if self.take("^"):
            return Node("power", (found, self.postfix()))
        return found

    def postfix(self) -> Node:
        found = self.atom()
        while sign := self.take("²", "³", "ᵀ"):
            if sign == "ᵀ":
                found = Node("transposed", (found,))
            else:
                exponent = 2 if sign == "²" else 3
                found = Node("power", (found, Node("number", text=str(exponent), value=exponent)))
        if found.kind == "symbol" and self.peek() == "[" and self.tokens[self.at][2]:
            self.at += 1
            inside = self.choice()
            self.expect("]")
            return Node("pick", (found, inside))
        return found

    def atom(self) -> Node:
        if self.at >= len(self.tokens):
            raise Unreadable(f"{self.text!r} ends too early")
        kind, token, _ = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            value: int | float = float(token.replace("−", "-")) if "." in token or "e" in token else int(token)
            return Node("number", text=token, value=value)
        if kind == "name":
            return self._named(token)
        for opening, closing, made in _PAIRS:
            if token == opening:
                inside = self.choice()
                self.expect(closing)
                return Node(made, (inside,)) if made else inside
        if token == "∞":
            return Node("number", text="∞", value=math.inf)
        if token == "√":
            return Node("root", (self.atom(),))
        raise Unreadable(f"{token} in {self.text!r} is not understood")

    def _named(self, name: str) -> Node:
        if name == "π":
            return Node("number", text="π", value=math.pi)
        if name == "i":
            return Node("number", text="i", value=1j)
        if name == "ln" and self.peek() in ("2", "10"):
            base = self.take("2", "10") or ""
            return Node("number", text=f"ln {base}", value=math.log(int(base)))
        if name in FUNCTIONS and self.peek() == "(":
            self.at += 1
            parts = [self.choice()]
            while self.take(","):
                parts.append(self.choice())
            self.expect(")")
            return Node("call", tuple(parts), name)
        if name in FUNCTIONS or name in ("if", "else", "and", "or", "not"):
            raise Unreadable(f"{name} in {self.text!r} stands alone")
        return Node("symbol", text=name)


_PAIRS = (("(", ")", ""), ("|", "|", "abs"), ("⌊", "⌋", "floor"), ("⌈", "⌉", "ceil"), ("[", "]", "bracket"))
