"""Local: what one backward op does to the gradient that comes in, its local factor."""

from __future__ import annotations

import re

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.entry import ELEMENTWISE, Entry, bind, entry_for, filled
from nnrepl.explain.look import Look
from nnrepl.tape import Op, Value


def symbol_of(entry: Entry, forward: Op, value: Value) -> str | None:
    """Which parameter of a formula a value is; None if it is none."""
    for symbol, given in bind(entry, forward).items():
        items = given if isinstance(given, (list, tuple)) else [given]
        if any(isinstance(item, Value) and item.canonical is value.canonical for item in items):
            return symbol
    return None


def names_of(entry: Entry, forward: Op) -> dict[str, str]:
    """What each symbol of a formula is called here."""
    named: dict[str, str] = {}
    for symbol, given in bind(entry, forward).items():
        if isinstance(given, Value):
            named[symbol] = words.name(given)
        elif isinstance(given, (bool, int, float)):
            named[symbol] = words.number(given)
        elif isinstance(given, (list, tuple)) and given and all(isinstance(item, Value) for item in given):
            named[symbol] = ", ".join(words.name(item) for item in given[:3]) + (", …" if len(given) > 3 else "")
    if len(forward.outputs) == 1:
        named.setdefault("y", words.name(forward.outputs[0]))
    if forward.inputs and forward.outputs and forward.outputs[0].size:
        named.setdefault("n", str(forward.inputs[0].size // forward.outputs[0].size))
    return named


def factor_text(op: Op, of: Value) -> str:
    """The local factor of a backward op for one input, in the names of this program: `[z1 > 0]`."""
    forward, entry = op.of, entry_for(op)
    if forward is None or entry is None:
        return ""
    symbol = symbol_of(entry, forward, of)
    slope = entry.slopes.get(symbol) if symbol is not None else None
    if slope is None:
        return ""
    return written(entry, forward, without_upstream(without_ones(entry, forward, slope.text)))


def written(entry: Entry, forward: Op, text: str) -> str:
    """A formula in the names of this program."""
    return words.substitute(text, names_of(entry, forward)).replace("ᵀᵀ", "")


def without_ones(entry: Entry, forward: Op, text: str) -> str:
    """A formula without the options that are 1 here: `alpha · (a @ b)` is `a @ b`."""
    for symbol, given in bind(entry, forward).items():
        if isinstance(given, (int, float)) and given == 1:
            text = text.replace(f"{symbol} · ", "")
    return text


def without_upstream(text: str) -> str:
    """A slope without the gradient that comes in: `g · b` is `b`, `−g` is `−1`."""
    head = text.split(",", 1)[0]
    for pattern, result in (
        (r"^(−?)g · (.*)$", r"\1\2"),
        (r"^(−?)g / (.*)$", r"\g<1>1 / \2"),
        (r"^g @ (.*)$", r"\1"),
        (r"^(.*) @ g$", r"\1"),
        (r"^(−?)g$", r"\g<1>1"),
    ):
        if re.match(pattern, head):
            return re.sub(pattern, result, head)
    return text


def factor_array(op: Op, of: Value, look: Look) -> mx.array | None:
    """The local factors of an elementwise op as numbers, one for each element of its result; else None."""
    forward, entry = op.of, entry_for(op)
    if forward is None or entry is None or entry.kind != ELEMENTWISE or len(forward.outputs) != 1:
        return None
    symbol = symbol_of(entry, forward, of)
    slope = entry.slopes.get(symbol) if symbol is not None else None
    if slope is None:
        return None
    result = forward.outputs[0]
    needed = [result, *forward.inputs] if re.search(r"[a-z]", without_upstream(slope.text)) else []
    look.see(needed)
    args, kwargs = filled(forward, lambda value: value.array)
    factors: mx.array = slope.run(mx.ones(result.shape, result.dtype), result.array, *args, **kwargs)
    return mx.broadcast_to(factors, result.shape)


def in_float32(op: Op, look: Look) -> list[mx.array]:
    """A backward op on the same numbers in float32: what would come out without the small dtype."""
    look.see(op.inputs)

    def widened(value: Value) -> mx.array:
        half = value.dtype in (mx.float16, mx.bfloat16)
        return value.array.astype(mx.float32) if half else value.array

    return op.compute(widened)
