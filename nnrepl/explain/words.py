"""Words: numbers, elements and ops as a teacher writes them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.ops.numbers import MINUS, element, factor, number
from nnrepl.record import segments as sources
from nnrepl.record.data import Data
from nnrepl.tape import Leaf, Op, Source, Value, text_of

FEW = 6

__all__ = ["FEW", "MINUS", "address", "call", "call_of", "cost", "count_of", "counted", "dtype", "element", "factor",
           "inline", "made", "name", "nested", "number", "operand", "origin", "place", "reference", "spot",
           "substitute", "title"]  # fmt: skip


def inline(array: mx.array) -> str:
    """Return a tensor in a line if it is small: `[0 0 0]` for a single row, `[[1 2] [3 4]]` for several; "" if it is
    not."""
    if array.size > FEW or not array.size:
        return ""
    cells: list[Any] = array.flatten().tolist()  # type: ignore[assignment]
    texts = [number(cell) for cell in cells]
    if len(texts) > 3 and len(set(texts)) == 1:
        return f"{texts[0]} everywhere {tuple(array.shape)}"
    if array.size == 1:
        return texts[0]
    return f"[{' '.join(texts)}]" if array.shape[-1] == array.size else nested(array)


def nested(array: mx.array) -> str:
    """Return a tensor in a line, with the brackets that it has: `[[1 2 3]]`."""

    def one(part: Any) -> str:
        return f"[{' '.join(map(one, part))}]" if isinstance(part, list) else number(part)

    return one(array.tolist())


def place(source: Source) -> str:
    """`train.py:31`, "" where nothing is known."""
    if not source.file:
        return ""
    cell = f" cell {source.cell}" if source.cell else ""
    return f"{os.path.basename(source.file)}{cell}:{source.line}"


def call_of(op: Op) -> Source:
    """Return the line of the program that called the library in which an op was made; its own where no library's made
    it."""
    lasti, found = op.lasti, op.source
    for step in reversed(op.scope.path() if op.scope is not None else []):
        found = sources.locate(step.code, lasti)
        if not is_library(step.code.co_filename):
            return found
        lasti = step.lasti
    return found


def spot(op: Op) -> str:
    """Where an op stands: `net.py:31`; for one of a library with the program's line that called it,
    `activations.py:35, from net.py:31`."""
    own, outer = place(op.source), call_of(op)
    if not own or outer.file == op.source.file or is_library(outer.file):
        return own
    return f"{own}, from {place(outer)}"


def made(value: Value, op: Op) -> str:
    """Return a result with the op that made it and its place: `z, #3 tanh(h) (net.py:4)`."""
    called = name(value)
    own = "" if called == op.label else f"{called}, "
    return f"{own}{op.label} {call(op)} ({spot(op)})"


def title(op: Op) -> str:
    """`#14, the VJP of maximum`, or `#3 maximum`."""
    if op.operation.kind == "accumulate":
        return f"{op.label}, a sum of gradients"
    return f"{op.label}, the VJP of {op.of.name}" if op.of is not None else f"{op.label} {op.name}"


def substitute(text: str, symbols: Mapping[str, str]) -> str:
    """Replace symbols in a formula: whole words only."""
    if not symbols:
        return text
    plugged = re.sub(_WORD, lambda match: symbols.get(match[0], match[0]), text)
    return re.sub(_NEEDLESS, r"\1", plugged)


_NEEDLESS = r"(?<![^(\[|⌊√ ])(?<!· )(?<!/ )(?<!− )(?<!\+ )(?<!@ )(?<!\^ )\((−[^()]+)\)(?=[,)\]|⌋]| [<>≤≥=])"
_WORD = r"(?<![A-Za-z_])[A-Za-z_][A-Za-z_0-9]*"


def name(value: Value, taker: Op | None = None) -> str:
    """Return what a value is called (where `taker` takes it, if it does); the unnamed transpose of a named one is
    `weightᵀ`."""
    called, op = value.name if taker is None else taker.called(value), value.op
    if called.startswith("#") and op is not None and op.name == "transpose" and len(value.shape) == 2:
        inner = op.called(op.inputs[0])
        return called if inner.startswith("#") else f"{inner}ᵀ"
    return called


def reference(value: Value) -> str:
    """Return what a command takes for this very value, in whatever call or step the cursor stands: `#27`, `#34.1`. A
    name is another call's value elsewhere; what no op made has nothing else."""
    made = value.op
    if made is None:
        return value.name
    return f"{made.label}.{value.slot}" if value.slot else made.label


def address(value: Value) -> str:
    """Return the name of a value; of what is only a part of a gradient its address: `#27`, `#34.1`."""
    made = value.op
    return value.name if made is None or made.pass_.adds_to(value) is None else reference(value)


def origin(value: Value) -> str:
    """Say where a tensor comes from, in a few words."""
    if isinstance(value, Leaf):
        kinds = {"parameter": "a parameter", "input": "an input", "constant": "a constant", "seed": "1, by definition"}
        return kinds.get(value.kind, "from outside")
    assert value.op is not None
    return f"made by {value.op.label} {value.op.name}"


def made_before(op: Op) -> str:
    """Say of what goes on here from an earlier pass which op made it there."""
    return f"{op.label} {op.name} made it before"


def call(op: Op, called: Callable[[Value], str] | None = None) -> str:
    """Return a forward op with its operands, as short as it can be said: `maximum(z1, 0)`, `x @ weights1`."""
    called = called or partial(name, taker=op)
    parts = [operand(arg, called) for arg in _shown(op)]
    sign = op.operation.infix or ("@" if op.name == "matmul" else None)
    if sign is not None and len(parts) == 2:
        left, right = reversed(parts) if op.operation.spelling.startswith("__r") else parts
        return f"{left} {sign} {right}"
    if op.name == "getitem" and len(parts) == 2:
        plain = isinstance(op.args[1], tuple) and len(parts[1]) > 2
        return f"{parts[0]}[{parts[1][1:-1] if plain else parts[1]}]"
    text = f"{op.name}({', '.join(parts)})"
    return text if len(text) <= 40 else f"{op.name}({', '.join(parts)[:32]}…)"


def _shown(op: Op) -> list[Any]:
    """Return what is said of the arguments of an op: of a call that MLX runs by itself those that the program gives to
    it, and not what its function takes besides."""
    if op.operation.kind == "opaque":
        args, kwargs, _ = op.args
        return [*args, *kwargs.values()]
    return [arg for arg in op.args if _is_shown(arg)]


def _is_shown(arg: Any) -> bool:
    kind = type(arg)
    ours = kind.__module__.startswith("nnrepl.record")  # what stands for a program's own function, a rule
    if isinstance(arg, Data) and arg.array.size == 1:
        return True
    return arg is not None and not ours and kind.__name__ not in ("DrawnKey", "Data", "Stream", "Device")


def operand(arg: Any, called: Callable[[Value], str] | None = None) -> str:
    """Return an argument of an op: a name, a number, a slice."""
    if isinstance(arg, Value):
        return (called or name)(arg)
    if isinstance(arg, Data):
        return number(arg.array.item())
    if isinstance(arg, float):
        return number(arg)
    if isinstance(arg, slice):
        ends = ["" if end is None else operand(end, called) for end in (arg.start, arg.stop)]
        return ":".join(ends) + ("" if arg.step is None else f":{arg.step}")
    if isinstance(arg, (list, tuple)):
        return f"({', '.join(operand(one, called) for one in arg[:4])}{', …' if len(arg) > 4 else ''})"
    return text_of(arg).removeprefix("mlx.core.")


def dtype(kind: mx.Dtype) -> str:
    """`float32`."""
    return str(kind).removeprefix("mlx.core.")


def counted(count: int, what: str) -> str:
    """`1 tensor`, `3 tensors`."""
    return f"{count} {what}{'s' if count != 1 else ''}"


def count_of(count: int, whole: int, what: str = "") -> str:
    """`3 of 3`; `1 of 1 place`, `2 of 3 places`."""
    return f"{count} of {counted(whole, what) if what else whole}"


def cost(ops: int) -> str:
    """Return what an answer cost."""
    if not ops:
        return "Nothing had to be evaluated for this answer."
    return f"Evaluated {ops} op{'s' if ops != 1 else ''} for this answer."
