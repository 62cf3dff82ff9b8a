"""Local: what one backward op does to the gradient that comes in, its local factor."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.cases import Names
from nnrepl.explain.known import ELEMENTWISE, Entry, bind, compute, entry_for, filled
from nnrepl.explain.look import Look
from nnrepl.ops.expression import Node
from nnrepl.ops.pointwise import formula_of
from nnrepl.ops.reader import parse, readable
from nnrepl.tape import Op, Value


def symbol_of(entry: Entry, forward: Op, value: Value) -> str | None:
    """Which parameter of a formula a value is; None if it is none."""
    for symbol, given in bind(entry, forward).items():
        items = given if isinstance(given, (list, tuple)) else [given]
        if any(isinstance(item, Value) and item.canonical is value.canonical for item in items):
            return symbol
    return None


def names_of(entry: Entry, forward: Op, names: Names | None = None) -> dict[str, str]:
    """Return what each symbol of a formula is called here."""
    called = names or partial(words.name, taker=forward)
    named: dict[str, str] = {}
    for symbol, given in bind(entry, forward).items():
        if isinstance(given, Value):
            named[symbol] = called(given)
        elif isinstance(given, (bool, int, float, complex)):
            named[symbol] = words.number(given)
        elif isinstance(given, (list, tuple)) and given and all(isinstance(item, Value) for item in given):
            named[symbol] = ", ".join(called(item) for item in given[:3]) + (", …" if len(given) > 3 else "")
        elif symbol == "index" and isinstance(given, tuple) and given:
            steps = [called(one) if isinstance(one, Value) else words.operand(one) for one in given]
            named[symbol] = ", ".join("..." if step == "Ellipsis" else step for step in steps)
        else:
            named[symbol] = words.operand(given)
    if len(forward.outputs) == 1:
        named.setdefault("y", called(forward.outputs[0]))
    if forward.inputs and forward.outputs and forward.outputs[0].size:
        named.setdefault("n", str(forward.inputs[0].size // forward.outputs[0].size))
    return named


def written(entry: Entry, forward: Op, text: str, names: Names | None = None, g: str = "g") -> str:
    """Return a formula in the names of this program; `g` is the gradient that comes in."""
    called = {"g": g, **names_of(entry, forward, names)}
    if not readable(text):
        return template(text, called)
    formula = formula_of(text, bind(entry, forward)).apart(set(called.values()))
    return formula.write(called).replace("ᵀᵀ", "")


def template(text: str, names: Mapping[str, str]) -> str:
    """Return a rule in English: what stands in braces is replaced by its name."""
    return re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], match[1]), text)


def defined_in(text: str, taken: Collection[str]) -> dict[str, str]:
    """Return what is called how that a formula defines itself: with a prime where a tensor has that name."""
    where = parse(text).where if readable(text) else ()
    return {name: f"{name}′" if name in taken else name for name, _ in where}


def factor_text(op: Op, of: Value) -> str:
    """Return the local factor of a backward op for one input, in the names of this program: `[z1 > 0]`."""
    forward, entry = op.of, entry_for(op)
    if forward is None or entry is None:
        return ""
    symbol = symbol_of(entry, forward, of)
    slope = entry.slopes.get(symbol) if symbol is not None else None
    if slope is None:
        return ""
    if not readable(slope.text):
        return written(entry, forward, slope.text)
    names = names_of(entry, forward)
    formula = formula_of(slope.text, bind(entry, forward)).apart(set(names.values()))
    alone = without_upstream(formula.main)
    return (alone.write(names) if alone is not None else formula.write({**names, "g": "g"})).replace("ᵀᵀ", "")


_ONE = Node("number", text="1", value=1)


def without_upstream(node: Node) -> Node | None:
    """Return a slope without the gradient that comes in: `g · b` is `b`, `−g` is `−1`; None where it is no such
    product."""
    if node.kind == "symbol" and node.text == "g":
        return _ONE
    if node.kind == "negative":
        inner = without_upstream(node.parts[0])
        return None if inner is None else replace(node, parts=(inner,))
    if node.kind == "choice":
        a, condition, b = node.parts
        if a.text == "g":
            return Node("bracket", (condition,))
        return Node("bracket", (Node("logic", (condition,), "not"),)) if b.text == "g" else None
    if node.kind not in ("product", "matrix") or "g" not in [part.text for part in node.parts]:
        return None
    at = [part.text for part in node.parts].index("g")
    rest, signs = node.parts[:at] + node.parts[at + 1 :], node.text[:at] + node.text[at + 1 :]
    if at and signs[at : at + 1] == "@":  # `2 · g @ b` without g is `2 · b`
        signs = signs[:at] + node.text[at] + signs[at + 1 :]
    if not at and signs[:1] == "/":
        return replace(node, parts=(_ONE, *rest), text="·" + signs)
    signs = "·" + signs[1:]
    return rest[0] if len(rest) == 1 else replace(node, parts=rest, text=signs)


def factor_array(op: Op, of: Value, look: Look) -> mx.array | None:
    """Return the local factors of an elementwise op as numbers, one for each element of its result; else None."""
    forward, entry = op.of, entry_for(op)
    if forward is None or entry is None or entry.kind != ELEMENTWISE or len(forward.outputs) != 1:
        return None
    symbol = symbol_of(entry, forward, of)
    slope = entry.slopes.get(symbol) if symbol is not None else None
    if slope is None:
        return None
    result = forward.outputs[0]
    look.see([result, *forward.inputs] if _needs(slope.text) else [])
    args, kwargs = filled(forward, lambda value: value.array)
    factors: mx.array = slope.run(mx.ones(result.shape, result.dtype), result.array, *args, **kwargs)
    return mx.broadcast_to(factors, result.shape)


def follows_itself(op: Op, of: Value, look: Look) -> float:
    """Return by how many powers of its own operand the local factor of an elementwise op goes: 1 for a square, whose
    slope is 2 · a, -1 for a logarithm; 0 where it does not, or cannot be told."""
    forward, entry = op.of, entry_for(op)
    symbol = None if forward is None or entry is None else symbol_of(entry, forward, of)
    slope = None if entry is None or symbol is None or entry.kind != ELEMENTWISE else entry.slopes.get(symbol)
    if forward is None or entry is None or slope is None or entry.forward is None or not _needs(slope.text):
        return 0.0
    look.see(forward.inputs)

    def size(scale: float) -> mx.array:
        def scaled(value: Value) -> mx.array:
            return value.array * scale if value.canonical is of.canonical else value.array

        (result,) = compute(entry, forward, scaled)
        args, kwargs = filled(forward, scaled)
        factors = mx.abs(slope.run(mx.ones(result.shape, result.dtype), result, *args, **kwargs).astype(mx.float32))
        return mx.mean(mx.where(factors == 0, 0, mx.log(factors)))

    low, high = look.numbers([size(0.75), size(1.0)])
    power: float = (high - low) / -math.log(0.75)
    return power if math.isfinite(power) else 0.0


def _needs(text: str) -> bool:
    """Whether a slope depends on numbers: `g` alone does not."""
    return not readable(text) or set(parse(text).main.symbols()) != {"g"}


def in_float32(op: Op, look: Look) -> list[mx.array]:
    """Return a backward op on the same numbers in float32: what would come out without the small dtype."""
    look.see(op.inputs)

    def widened(value: Value) -> mx.array:
        half = value.dtype in (mx.float16, mx.bfloat16)
        return value.array.astype(mx.float32) if half else value.array

    return op.compute(widened)
