"""Entry: what is known about one op, as text and as an executable expression in plain MLX.

An entry's function *is* the formula: it takes what MLX's op takes, and its parameters are the symbols of the text.
The tests hold every entry against MLX's op and MLX's VJP (`tests/explain/test_table.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import mlx.core as mx

from nnrepl.tape import Op, Value, fill

Run = Callable[..., Any]

ELEMENTWISE, PRODUCTS, MOVE, COMPOSITE, FIXED = "elementwise", "products", "move", "composite", "fixed"


@dataclass(frozen=True, slots=True)
class Slope:
    """How the gradient of an op's result becomes the gradient of one of its inputs.

    Attributes:
        text: In symbols; `g` is the gradient of the result: `g · b`.
        run: The same in MLX: `run(g, y, *args, **kwargs)`, with the op's own arguments. For an elementwise op
            before the sum over what was broadcast.
    """

    text: str
    run: Run


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known about one op.

    Attributes:
        name: The op's name on the tape.
        text: The right-hand side of `y = ...`, in the names of `forward`'s parameters.
        words: The same in a sentence or two.
        forward: The formula in plain MLX; None for a source of numbers (a literal, a random draw).
        slopes: By parameter, how gradients pass; a parameter that is not here gets none.
        kind: ELEMENTWISE: one number from numbers at the same place. PRODUCTS: sums of products. MOVE: numbers are
            moved, none is changed. COMPOSITE: `forward` takes it apart into textbook ops. FIXED: no gradient passes.
        valid: Where the formula has a meaning, in words, "" everywhere: "a ≥ 0".
        kink: Where the slope jumps: the symbols that meet there, `("a", "b")`, "" for none.
    """

    name: str
    text: str
    words: str
    forward: Run | None
    slopes: dict[str, Slope] = field(default_factory=dict)
    kind: str = ELEMENTWISE
    valid: str = ""
    kink: str = ""

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names of its parameters, tensors and options alike."""
        return () if self.forward is None else tuple(_signature(self.forward).parameters)

    def bind(self, op: Op) -> dict[str, Any]:
        """What each symbol is in a recorded call: a Value, a number, or several of them.

        Raises:
            TypeError: If the op was called in a way that the entry does not know.
        """
        if self.forward is None:
            return {}
        args, kwargs = arguments(op)
        bound = _signature(self.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def compute(self, op: Op, lookup: Callable[[Value], mx.array]) -> list[mx.array]:
        """The formula on the arrays that `lookup` gives for the op's inputs; lazy."""
        assert self.forward is not None
        args, kwargs = filled(op, lookup)
        result = self.forward(*args, **kwargs)
        return [result] if isinstance(result, mx.array) else list(result)

    def gradients(
        self, op: Op, cotangents: list[mx.array], lookup: Callable[[Value], mx.array]
    ) -> dict[Value, list[mx.array]]:
        """The formula's gradients: for each input that a gradient may reach, the parts of its gradient; lazy.

        Args:
            cotangents: The gradient of each output.
        """
        bound = self.bind(op)
        args, kwargs = filled(op, lookup)
        y = [lookup(value) for value in op.outputs]
        several = len(op.outputs) != 1
        found: dict[Value, list[mx.array]] = {}
        for symbol, slope in self.slopes.items():
            given = bound.get(symbol)
            targets = [given] if isinstance(given, Value) else list(given) if isinstance(given, (list, tuple)) else []
            if not any(isinstance(target, Value) for target in targets):
                continue
            result = slope.run(cotangents if several else cotangents[0], y if several else y[0], *args, **kwargs)
            parts = [result] if isinstance(given, Value) else list(result)
            for target, part in zip(targets, parts):
                if isinstance(target, Value):
                    shaped = unbroadcast(part, target.shape) if self.kind == ELEMENTWISE else part
                    found.setdefault(target, []).append(shaped.astype(target.dtype))
        return found


@cache
def _signature(forward: Run) -> inspect.Signature:
    return inspect.signature(forward)


def arguments(op: Op) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What an op was called with, in the order of its formula: `2 - x` was called as `x.__rsub__(2)`."""
    args = op.args
    if op.operation.infix is not None and op.operation.spelling.startswith("__r") and len(args) == 2:
        args = (args[1], args[0])
    return args, {key: part for key, part in op.kwargs.items() if key != "stream"}


def filled(op: Op, lookup: Callable[[Value], mx.array]) -> tuple[list[Any], dict[str, Any]]:
    """The same with arrays in the place of Values."""
    args, kwargs = arguments(op)
    return [fill(part, lookup) for part in args], {key: fill(part, lookup) for key, part in kwargs.items()}


def unbroadcast(gradient: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Sum a gradient over the axes along which its value was repeated."""
    if gradient.shape == shape:
        return gradient
    gradient = mx.broadcast_to(gradient, mx.broadcast_shapes(gradient.shape, shape))
    extra = gradient.ndim - len(shape)
    axes = [*range(extra), *(at + extra for at, extent in enumerate(shape) if extent == 1)]
    return mx.sum(gradient, axis=axes, keepdims=True).reshape(shape) if axes else gradient


# -- writing the table ----------------------------------------------------------------------------------------

ENTRIES: dict[str, Entry] = {}
"""Every entry by the op's name."""


def enter(entry: Entry) -> None:
    """Put an entry into the table."""
    if entry.name in ENTRIES:
        raise ValueError(f"two entries are called {entry.name}")
    ENTRIES[entry.name] = entry


def formula(
    name: str,
    text: str,
    words: str,
    kind: str = COMPOSITE,
    slopes: dict[str, Slope] | None = None,
    valid: str = "",
) -> Callable[[Run], Run]:
    """Enter a function as the formula of an op."""

    def write(forward: Run) -> Run:
        enter(Entry(name, text, words, forward, slopes or {}, kind, valid))
        return forward

    return write


def entry_for(op: Op) -> Entry | None:
    """What the table knows about an op, or about the forward op that it differentiates; None if nothing."""
    from nnrepl.explain import table

    table.load()
    forward = op.of or op
    known = ENTRIES.get(forward.operation.name)
    if known is None or forward.operation.kind not in ("op", "data", "edit"):
        return None
    try:
        known.bind(forward)
    except TypeError:
        return None
    return known
