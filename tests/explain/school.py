"""School: a reader of printed arithmetic, which shares nothing with the product's own.

Every number stands for all that would be printed like it: `0.5000` for 0.49995 to 0.50005. What a line comes to is
therefore an interval, and two lines of one equation agree if their intervals meet.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence

Interval = tuple[float, float]

TOKEN = re.compile(
    r"\s*(\d+(?:\.\d+)?(?:e[+−]\d+)?|NaN|∞|true|false|[A-Za-z]+(?:⁻¹)?|\d+|[−+·/^²³√|⌊⌋⌈⌉()\[\]<>≤≥=≠,:])"
)
FUNCTIONS: dict[str, Callable[[float], float]] = {
    "exp": lambda x: math.exp(min(x, 700)), "ln": lambda x: math.log(x) if x > 0 else -math.inf if x == 0 else math.nan,
    "sin": math.sin, "cos": math.cos, "tanh": math.tanh, "sinh": math.sinh, "cosh": math.cosh, "arctan": math.atan,
    "arcsin": lambda x: math.asin(_inside(x)), "arccos": lambda x: math.acos(_inside(x)),
    "arsinh": math.asinh, "arcosh": lambda x: math.acosh(max(1, x)), "artanh": math.atanh, "erf": math.erf,
    "sign": lambda x: (x > 0) - (x < 0), "round": lambda x: float(round(x)),
}  # fmt: skip


def _inside(x: float) -> float:
    """A number that may lie beyond 1 only because it is printed rounded."""
    return math.copysign(1, x) if 1 < abs(x) < 1.0001 else x


class Unread(Exception):
    """A line that has names: there is nothing to compute."""


def spread(text: str) -> Interval:
    """What a printed number stands for."""
    plain = text.replace("−", "-")
    value = float(plain)
    if "e" in plain:
        digits = len(plain.split("e")[0].partition(".")[2])
        half = 0.5 * 10.0 ** (int(plain.split("e")[1]) - digits)
    elif "." in plain:
        half = 0.5 * 10.0 ** -len(plain.partition(".")[2])
        # An exact number is printed without zeros at its end; float32 has seven digits.
        if not plain.endswith("0") and len(plain.partition(".")[2]) < 4:
            half = abs(value) * 1e-6
    else:
        half = 0.0
    return value - half, value + half


class Reader:
    """Reads one expression."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        at = 0
        while at < len(text.rstrip()):
            match = TOKEN.match(text, at)
            if match is None:
                raise Unread(text[at:])
            self.tokens.append(match[1])
            at = match.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *signs: str) -> str:
        found = self.peek()
        if found and found in signs:
            self.at += 1
            return found
        return ""

    def whole(self) -> Interval:
        found = self.sum()
        if self.peek():
            raise Unread(self.peek())
        return found

    def sum(self) -> Interval:
        total = self.product()
        while sign := self.take("+", "−"):
            low, high = self.product()
            total = (total[0] + low, total[1] + high) if sign == "+" else (total[0] - high, total[1] - low)
        return total

    def product(self) -> Interval:
        negative = bool(self.take("−"))
        total = self.power()
        while sign := self.take("·", "/"):
            minus = bool(self.take("−"))
            other = self.power()
            other = (-other[1], -other[0]) if minus else other
            total = times(total, other if sign == "·" else inverse(other))
        return (-total[1], -total[0]) if negative else total

    def power(self) -> Interval:
        base = self.atom()
        while sign := self.take("²", "³", "^"):
            exponent = self.atom() if sign == "^" else (2.0, 2.0) if sign == "²" else (3.0, 3.0)
            base = reach(lambda x, e: x**e if x >= 0 or e == int(e) else math.nan, base, exponent)
            if sign == "²" and base[0] > base[1]:
                base = base[::-1]
        return base

    def atom(self) -> Interval:
        token = self.peek()
        self.at += 1
        if token == "(" and self.tokens[self.at + 1 : self.at + 3] == ["more", ":"]:
            self.at += 3  # (28 more: 1.5358)
        if token == "(":
            found = self.sum()
            self.close(")")
            return found
        if token == "[":
            found = self.truth()
            self.close("]")
            return found
        if token == "|":
            low, high = self.sum()
            self.close("|")
            return (0.0 if low < 0 < high else min(abs(low), abs(high)), max(abs(low), abs(high)))
        if token in ("⌊", "⌈"):
            low, high = self.sum()
            self.close("⌋" if token == "⌊" else "⌉")
            run = math.floor if token == "⌊" else math.ceil
            return float(run(low)), float(run(high))
        if token == "√":
            low, high = self.atom()
            return math.sqrt(max(low, 0)), math.sqrt(max(high, 0))
        return self.named(token)

    def named(self, token: str) -> Interval:
        if token in ("max", "min") and self.take("("):
            parts = [self.sum()]
            while self.take(","):
                parts.append(self.sum())
                if self.peek() == "more":
                    raise Unread("more")
            self.close(")")
            pick = max if token == "max" else min
            return pick(part[0] for part in parts), pick(part[1] for part in parts)
        if token == "ln" and self.peek() in ("2", "10"):
            base = float(self.take("2", "10"))
            return math.log(base), math.log(base)
        if token in FUNCTIONS and self.take("("):
            inside = self.sum()
            self.close(")")
            return reach(FUNCTIONS[token], inside)
        if token == "π":
            return math.pi, math.pi
        if token in ("true", "false"):
            return (1.0, 1.0) if token == "true" else (0.0, 0.0)
        if token == "∞":
            return math.inf, math.inf
        if token == "NaN":
            return math.nan, math.nan
        if not re.fullmatch(r"\d.*", token):
            raise Unread(token)
        return spread(token)

    def truth(self) -> Interval:
        start = self.at
        parts, signs = [self.sum()], []
        while sign := self.take("<", ">", "≤", "≥", "=", "≠"):
            signs.append(sign)
            parts.append(self.sum())
        if not signs:
            raise Unread("no comparison")
        sides = " ".join(self.tokens[start : self.at]).split(" = ")
        if signs == ["="] and sides[0] == sides[1]:
            return 1.0, 1.0
        low = all(_holds(sign, a, b, all) for sign, a, b in zip(signs, parts, parts[1:]))
        high = all(_holds(sign, a, b, any) for sign, a, b in zip(signs, parts, parts[1:]))
        return float(low), float(high)

    def close(self, sign: str) -> None:
        if not self.take(sign):
            raise Unread(sign)


def _holds(sign: str, a: Interval, b: Interval, how: Callable[[Sequence[bool]], bool]) -> bool:
    run: Callable[[float, float], bool] = {
        "<": lambda x, y: x < y, ">": lambda x, y: x > y, "≤": lambda x, y: x <= y, "≥": lambda x, y: x >= y,
        "=": lambda x, y: x == y, "≠": lambda x, y: x != y,
    }[sign]  # fmt: skip
    if sign == "=" and how is any:
        return a[0] <= b[1] and b[0] <= a[1]
    return how([run(x, y) for x in a for y in b])


def times(a: Interval, b: Interval) -> Interval:
    products = [x * y for x in a for y in b]
    if any(p != p for p in products):
        return (math.nan, math.nan) if any(x != x for x in (*a, *b)) else (-math.inf, math.inf)
    return min(products), max(products)


def inverse(a: Interval) -> Interval:
    if a == (0.0, 0.0):
        return math.inf, math.inf
    if a[0] <= 0 <= a[1]:
        return -math.inf, math.inf
    return 1 / a[1], 1 / a[0]


def reach(run: Callable[..., float], *parts: Interval) -> Interval:
    """A smooth function over small intervals: at their ends and their middle."""
    found: list[float] = []
    grids = [(low, (low + high) / 2, high) if low != high else (low,) for low, high in parts]
    for first in grids[0]:
        for more in [()] if len(grids) == 1 else [(second,) for second in grids[1]]:
            try:
                found.append(run(first, *more))
            except (ValueError, OverflowError, ZeroDivisionError):
                found.append(math.nan)
    return (math.nan, math.nan) if any(x != x for x in found) else (min(found), max(found))


def equations(lines: Sequence[str]) -> list[list[str]]:
    """Lines that continue each other with `=`, as the sides of one equation; names and remarks left out."""
    found: list[list[str]] = []
    for line in lines:
        bare = re.sub(r"\s{3}\([a-z].*\)$", "", line)
        sides = _sides(bare)
        if line.startswith("≈ ") and found:
            continue  # rounded on the way: no equation
        if line.startswith("= ") and found:
            found[-1].extend(sides)
        else:
            found.append(sides)
    return found


def _sides(line: str) -> list[str]:
    """Split at each ` = ` outside of brackets."""
    sides, depth, start = [], 0, 0
    text = line.removeprefix("= ")
    for at, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0 and text.startswith(" = ", at):
            sides.append(text[start:at])
            start = at + 3
    sides.append(text[start:])
    return sides


def mistakes(lines: Sequence[str], epsilon: float = 2e-6) -> tuple[list[str], int]:
    """Equations whose sides do not agree, and how many sides could be computed.

    Args:
        epsilon: The relative precision of the op: how far its result may be from exact arithmetic.
    """
    wrong: list[str] = []
    read = 0
    for sides in equations(lines):
        values: list[tuple[str, Interval]] = []
        for side in sides:
            try:
                values.append((side, Reader(side).whole()))
            except (Unread, IndexError):
                continue
        read += len(values)
        for (left, a), (right, b) in itertools.pairwise(values):
            if not _meet(a, b, epsilon * max(_size(left), _size(right))):
                wrong.append(f"{left} = {right}: {a} is not {b}")
    return wrong, read


def _size(text: str) -> float:
    """The size of what is added up: rounding is relative to it."""
    sizes = [abs(float(found.replace("−", "-"))) for found in re.findall(r"\d+(?:\.\d+)?(?:e[+−]\d+)?", text)]
    return max([1e-30, *sizes]) * (max(sizes, default=1.0) if "·" in text else 1.0)


def _meet(a: Interval, b: Interval, room: float) -> bool:
    if any(x != x for x in (*a, *b)):
        return all(x != x for x in (*a, *b)) or any(abs(x) == math.inf for x in (*a, *b) if x == x)
    if abs(b[0]) == math.inf and abs(a[0]) >= 6e4:
        return (a[0] > 0) == (b[0] > 0)  # it overflows the dtype
    return a[0] - room <= b[1] and b[0] - room <= a[1]
