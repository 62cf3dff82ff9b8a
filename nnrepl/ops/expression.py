"""Expression: a formula as a tree, which can be written, computed with numbers, and run on tensors.

There is one tree for the three: what a user reads is what is computed. `reader.parse` makes it from the text of a
formula; `Node.filled` puts numbers in place of symbols; `Node.at` computes it in double precision together with how
far rounding in the op's own dtype can have moved the result, so that MLX's number can be held against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.ops.numbers import MINUS, number
from nnrepl.ops.scalars import COMPARED, FUNCTIONS, SIGNS, Bounded, Scalar, combine

SHOWN = 4
"""So many terms of a sum are written out."""

ATOM, POWER, PREFIX, PRODUCT, SUM, COMPARE, LOGIC, CHOICE = 9, 8, 7, 6, 5, 4, 3, 2
"""How tightly each kind of node holds together: brackets are needed around what holds less."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a formula.

    Attributes:
        kind: "number", "symbol", "quantity" (a symbol with its number), "sum", "product", "negative", "power",
            "call", "root", "abs", "floor", "ceil", "bracket" (1 where it holds, else 0), "compare", "logic",
            "choice", "over" (a sum, mean, ... along the row), "series" (the same with its terms), "transposed",
            "matrix", "pick".
        parts: What it is made of.
        text: A name, the signs between the parts, the name of a function.
        value: The number of a "number" or a "quantity"; how a "series" is written in symbols (None: term by term).
        error: How far rounding can have moved the number of a "quantity".
    """

    kind: str
    parts: tuple[Node, ...] = ()
    text: str = ""
    value: Any = None
    error: float = 0.0

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, names: Mapping[str, str] | None = None) -> str:
        """Return the formula in these names; a name that is not given stays."""
        return _write(self, names or {}, plugged=False)

    def plugged(self) -> str:
        """Return the formula with the numbers of its quantities in place of their names."""
        return _write(self, {}, plugged=True)

    # -- changing ----------------------------------------------------------------------------------------------------

    def symbols(self) -> Iterator[str]:
        """Yield the symbols that occur in it."""
        if self.kind in ("symbol", "quantity"):
            yield self.text
        for part in self.parts:
            yield from part.symbols()

    def walk(self) -> Iterator[Node]:
        """Yield it and all that it is made of."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def mapped(self, change: Callable[[Node], Node | None]) -> Node:
        """Return the tree with some nodes replaced: `change` gives another node, or None to look further down."""
        found = change(self)
        if found is not None:
            return found
        parts = tuple([part.mapped(change) for part in self.parts])
        return self if parts == self.parts else replace(self, parts=parts)

    # -- computing ---------------------------------------------------------------------------------------------------

    def at(self, epsilon: float) -> Bounded:
        """Return what it comes to, and how far rounding at a relative precision of `epsilon` can have moved that."""
        return _compute(self, epsilon)


def quantity(name: str, value: Scalar, error: float = 0.0) -> Node:
    """Return a symbol with its number."""
    return Node("quantity", text=name, value=value, error=error)


def literal(value: Scalar) -> Node:
    """Return a number."""
    return Node("quantity", text=number(value), value=value)


def without(node: Node, absent: Collection[str]) -> Node | None:
    """Return a formula without what is left out in a call (no weight, no upper limit): a factor, a term, an
    argument."""
    if node.kind == "symbol":
        return None if node.text in absent else node
    found = [without(part, absent) for part in node.parts]
    parts = tuple(part for part in found if part is not None)
    if len(parts) == len(found):
        return replace(node, parts=parts) if parts != node.parts else node
    if node.kind in ("sum", "product", "matrix"):
        signs = "".join(sign for sign, part in zip(node.text, found) if part is not None)
        signs = signs if signs[:1] != "@" else f"·{signs[1:]}"
        if len(parts) == 1 and signs in "+·":
            return parts[0]
        return replace(node, parts=parts, text=signs) if parts else None
    return parts[0] if node.kind == "call" and len(parts) == 1 else None


# -- writing -----------------------------------------------------------------------------------------------------------


def _write(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    return _WRITERS[node.kind](node, names, plugged)


def _inside(node: Node, names: Mapping[str, str], plugged: bool, least: int) -> str:
    """Return a part, in brackets if it holds together less than is needed."""
    text = _write(node, names, plugged)
    return f"({text})" if _tightness(node, text, names, plugged) < least else text


def _tightness(node: Node, text: str, names: Mapping[str, str], plugged: bool) -> int:
    if node.kind in ("quantity", "number") and (plugged or node.kind == "number"):
        return PREFIX - 1 if text.startswith(MINUS) else ATOM
    if node.kind in ("symbol", "quantity"):
        shown = names.get(node.text, node.text)
        if shown.startswith("∂L/"):
            return POWER  # (∂L/∂w)², and not ∂L/∂w²
        return SUM if " " in shown.strip() and not shown.startswith("(") else ATOM
    if node.kind == "series":
        return _series_tightness(node, plugged)
    return _TIGHT.get(node.kind, ATOM)


_TIGHT = {"sum": SUM, "product": PRODUCT, "matrix": PRODUCT, "negative": PREFIX, "power": POWER, "compare": COMPARE,
          "logic": LOGIC, "choice": CHOICE, "over": PREFIX - 1}  # fmt: skip


def _name(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    if plugged and node.kind == "quantity":
        return number(node.value)
    return names.get(node.text, node.text)


def _joined(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    """Parts with signs between them: `a + b − c`, `a · b / c`."""
    least = _TIGHT[node.kind]
    result = ""
    for at, part in enumerate(node.parts):
        # To the right of − and / what is added or multiplied needs its brackets.
        sign = node.text[at]
        tight = least + 1 if sign in "−/" and at else least
        if at == 0:
            first = _inside(part, names, plugged, least if not _is_negative(part) else PREFIX - 1)
            result = first if sign in "+·" else _negated(part, names, plugged)
        else:
            open_end = at == len(node.parts) - 1 and _is_over(part, plugged)
            text = _inside(part, names, plugged, COMPARE if open_end else ATOM if _is_negative(part) else tight)
            if plugged and sign == "/" and text == "0" and math.copysign(1, part.at(0.0).value) < 0:
                text = f"{MINUS}0"  # what is divided by it has the other sign
            text = f"({text})" if text.startswith(MINUS) else text
            narrow = sign == "/" and _is_plain(node.parts[at - 1]) and _is_plain(part)
            result += f"/{text}" if narrow else f" {sign} {text}"
    return result


def _negated(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    """`−x`, and `−(−2)`: two signs never stand side by side."""
    text = _inside(node, names, plugged, PRODUCT)
    return f"{MINUS}({text})" if text.startswith(MINUS) else MINUS + text


def _is_negative(node: Node) -> bool:
    return node.kind == "negative"


def _is_over(node: Node, plugged: bool) -> bool:
    """Tell whether it is a sum along a row in symbols: it reaches to the end of the product, so that it needs no
    brackets there."""
    return node.kind == "over" or (node.kind == "series" and not plugged and node.value is not None)


def _is_plain(node: Node) -> bool:
    """Tell whether it is a number of the formula itself, or a count: such a fraction is written closely, `1/n`,
    `2/√π`."""
    inner = node.parts[0] if node.kind == "root" else node
    return inner.kind == "number" or (inner.kind == "symbol" and inner.text == "n")


def _powered(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    base = _inside(node.parts[0], names, plugged, ATOM)
    exponent = node.parts[1]
    if exponent.kind == "number" and exponent.value in (2, 3):
        return f"{base}{'²' if exponent.value == 2 else '³'}"
    return f"{base}^{_inside(exponent, names, plugged, ATOM)}"


def _called(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    return f"{node.text}({', '.join(_write(part, names, plugged) for part in node.parts)})"


def _compared(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    words = [_inside(part, names, plugged, SUM) for part in node.parts]
    return words[0] + "".join(f" {sign} {word}" for sign, word in zip(node.text.split(), words[1:]))


def _logical(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    words = [_inside(part, names, plugged, LOGIC + 1) for part in node.parts]
    return f"not {words[0]}" if node.text == "not" else f" {node.text} ".join(words)


def _chosen(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    a, c, b = [_inside(part, names, plugged, LOGIC) for part in node.parts]
    return f"{a} if {c} else {b}"


def _over(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    # Σ reaches over a product, as at school; behind a word that needs brackets.
    return f"{node.text} {_inside(node.parts[0], names, plugged, PRODUCT if node.text in ('Σ', 'Π') else POWER)}"


def _picked(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    a, i = [_write(part, names, plugged) for part in node.parts]
    return f"{a}[{i}]"


def _series(node: Node, names: Mapping[str, str], plugged: bool) -> str:
    """Return the terms of a sum, the largest of many."""
    label: Node | None = node.value
    if not plugged and label is not None:
        return _write(label, names, plugged)
    terms = node.parts
    values = [term.at(0.0).value for term in terms]
    kept = largest(values) if node.text in ("Σ", "mean") else list(range(len(terms)))
    rest = len(terms) - len(kept)
    if node.text in ("max", "min"):
        kept, rest = (kept, 0) if len(kept) <= 6 else (_foremost(terms, node.text), len(kept) - 4)
        inside = ", ".join(_write(terms[at], names, plugged) for at in kept)
        return f"{node.text}({inside}{f', {rest} more' if rest else ''})"
    if node.text == "Π":
        kept, rest = (kept, 0) if len(kept) <= 8 else (kept[:8], len(kept) - 8)
        inside = " · ".join(_inside(terms[at], names, plugged, PREFIX) for at in kept)
        return f"{inside} · {_others(rest, math.prod(values[8:]), plugged)}" if rest else inside
    inside = " + ".join(_tight(terms[at], names, plugged, not place) for place, at in enumerate(kept))
    if rest:
        inside += f" + {_others(rest, sum(values[at] for at in {*range(len(terms))} - {*kept}), plugged)}"
    if node.text == "mean":
        return f"1/{len(terms)} · ({inside})"
    return inside or "0"


def _others(count: int, value: Scalar, plugged: bool) -> str:
    """Return the terms that are not written out: how many they are and, among numbers, what they come to."""
    return f"({count} more: {number(value)})" if plugged else f"… ({count} more terms)"


def _foremost(terms: Sequence[Node], sign: str) -> list[int]:
    """Return the places of the four largest, or smallest."""
    values = [term.at(0.0).value for term in terms]
    order = sorted(range(len(values)), key=lambda at: values[at] if sign == "min" else -values[at])
    return sorted(order[:4])


def _tight(node: Node, names: Mapping[str, str], plugged: bool, first: bool) -> str:
    """Return a term of a sum: a plain product is written without blanks, `2·(−3)`."""
    if node.kind == "product" and set(node.text) == {"·"}:
        text = "·".join(_inside(part, names, plugged, PREFIX) for part in node.parts)
    else:
        text = _inside(node, names, plugged, PRODUCT if node.kind != "quantity" else SUM)
    return f"({text})" if text.startswith(MINUS) and not first else text


def _series_tightness(node: Node, plugged: bool) -> int:
    if not plugged and node.value is not None:
        return _TIGHT.get(node.value.kind, ATOM)
    if node.text in ("max", "min"):
        return ATOM
    if node.text in ("mean", "Π"):
        return PRODUCT
    return SUM if len(node.parts) != 1 else PREFIX - 1


_WRITERS: dict[str, Callable[[Node, Mapping[str, str], bool], str]] = {
    "number": lambda node, names, plugged: node.text,
    "symbol": _name, "quantity": _name, "sum": _joined, "product": _joined, "matrix": _joined,
    "negative": lambda node, names, plugged: _negated(node.parts[0], names, plugged),
    "power": _powered, "call": _called, "compare": _compared, "logic": _logical, "choice": _chosen, "over": _over,
    "root": lambda node, names, plugged: "√" + _inside(node.parts[0], names, plugged, ATOM),
    "abs": lambda node, names, plugged: f"|{_write(node.parts[0], names, plugged)}|",
    "floor": lambda node, names, plugged: f"⌊{_write(node.parts[0], names, plugged)}⌋",
    "ceil": lambda node, names, plugged: f"⌈{_write(node.parts[0], names, plugged)}⌉",
    "bracket": lambda node, names, plugged: f"[{_write(node.parts[0], names, plugged)}]",
    "transposed": lambda node, names, plugged: _inside(node.parts[0], names, plugged, ATOM) + "ᵀ",
    "series": _series, "pick": _picked,
}  # fmt: skip


def largest(values: Sequence[Any], most: int = SHOWN) -> list[int]:
    """Return the places of the terms that are shown, in order."""
    if len(values) <= most + 1:
        return list(range(len(values)))
    sizes = [abs(value) if value == value else math.inf for value in values]
    order = sorted(range(len(values)), key=lambda at: (-sizes[at], at))
    # Terms that are 0 add nothing; one of a sum of nothing else is shown.
    kept = [at for at in order[:most] if sizes[at]]
    return sorted(kept or order[:1])


# -- computing ---------------------------------------------------------------------------------------------------------


def _compute(node: Node, epsilon: float) -> Bounded:
    if node.kind in ("number", "quantity"):
        return Bounded(node.value, node.error)
    # No "choice" comes here: which way it goes is settled where the numbers are put in (`worked`).
    parts = [_compute(part, epsilon) for part in node.parts]
    if node.kind in ("sum", "product"):
        return _chain(parts, node.text, epsilon)
    if node.kind == "series":
        return _series_value(node.text, parts, epsilon)
    if node.kind == "compare":
        return combine(lambda *values: _holds(node.text.split(), values), parts, 0.0)
    if node.kind == "logic":
        return combine(_LOGIC[node.text], parts, 0.0)
    if node.kind == "bracket":
        return Bounded(1 if parts[0].value else 0, parts[0].error)
    run = FUNCTIONS.get(node.text if node.kind == "call" else node.kind)
    if run is None:
        raise ValueError(f"{node.kind} {node.text} has no number of its own")
    return combine(run, parts, epsilon)


_LOGIC: dict[str, Callable[..., Any]] = {
    "not": lambda a: not a, "and": lambda *parts: all(parts), "or": lambda *parts: any(parts),
}  # fmt: skip


def _holds(signs: Sequence[str], values: Sequence[Any]) -> bool:
    return all(COMPARED[sign](values[at], values[at + 1]) for at, sign in enumerate(signs))


def _chain(parts: Sequence[Bounded], signs: str, epsilon: float) -> Bounded:
    start = parts[0]
    if signs[0] in "−":
        start = Bounded(-start.value, start.error)
    for sign, part in zip(signs[1:], parts[1:]):
        start = combine(SIGNS[sign], [start, part], epsilon)
    return start


def _series_value(sign: str, parts: Sequence[Bounded], epsilon: float) -> Bounded:
    if sign in ("max", "min"):
        pick = max if sign == "max" else min
        values = [part.value for part in parts]
        if not values or any(value != value for value in values):
            return Bounded(math.nan, 0.0)
        return Bounded(pick(values), max(part.error for part in parts))
    if sign == "Π":
        product = Bounded(1, 0.0)
        for part in parts:
            product = combine(SIGNS["·"], [product, part], epsilon)
        return product
    value: Any = sum(part.value for part in parts)
    # However MLX adds (in order, in pairs, in blocks), each addition rounds at most at the size of all terms together.
    size = sum(abs(part.value) for part in parts)
    error = sum(part.error for part in parts) + epsilon * size * (1 + math.log2(len(parts) + 1) + len(parts) / 16)
    return Bounded(value / len(parts), error / len(parts)) if sign == "mean" and parts else Bounded(value, error)
