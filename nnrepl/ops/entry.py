"""Entry: what is known about one op, as text and as an executable expression in plain MLX.

This room knows MLX and nothing of tapes. An entry's function *is* the formula: it takes what MLX's op takes, and its
parameters are the symbols of the text. The tests hold every entry against MLX's op and MLX's VJP
(`tests/explain/test_table.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cache
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.ops.traits import Trait

Run = Callable[..., Any]
"""A formula in plain MLX."""

ELEMENTWISE, PRODUCTS, MOVE, COMPOSITE, FIXED = "elementwise", "products", "move", "composite", "fixed"
WHOLE = "whole"
_BACKWARDS = " Backwards: "


@dataclass(frozen=True, slots=True)
class Row:
    """Which numbers belong together in an op that is computed row by row.

    Attributes:
        axes: `axes(bound, rank)`: the axes along which `Σ`, `mean`, `max` of the formula run.
        reduces: Whether a row becomes one number.
        whole: The symbols that have the whole row, where others have one number for it; empty: all have.
        running: Whether each place of a row sees only those up to it (from it on, going backwards): running totals.
    """

    axes: Callable[[Mapping[str, Any], int], list[int]]
    reduces: bool = False
    running: bool = False
    whole: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slope:
    """How the gradient of an op's result becomes the gradient of one of its inputs.

    Attributes:
        text: In symbols; `g` is the gradient of the result: `g · b`.
        run: The same in MLX: `run(g, y, *args, **kwargs)`, with the op's own arguments. For an elementwise op
            before the sum over what was broadcast.
        words: The same in a sentence, where what the entry says of gradients is about its other inputs.
    """

    text: str
    run: Run
    words: str = ""


Number = float | int
Given = Sequence[Number | None]
"""The numbers that an op pairs with one element of its result; None where one is not known."""


@dataclass(frozen=True, slots=True)
class Pole:
    """A rule that an op breaks with some numbers.

    Attributes:
        where: Whether it is broken by these numbers.
        rule: The rule, in a sentence.
        keep: What would prevent it, "" where nothing can be said; `{}` is the first operand's name, `{small}` a number
            that is small and not 0 in its dtype.
        slot: Of a slope: whose, by its place among the operands; None for all.
        times: Of a slope that is infinite: 0 times it is no number, which is said where 0 came in.
    """

    where: Callable[[Given], bool]
    rule: str
    keep: str = ""
    slot: int | None = None
    times: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known about one op.

    Attributes:
        name: The op's name on the tape.
        text: The right-hand side of `y = ...`, in the names of `forward`'s parameters.
        words: The same in a sentence or two; what it means for gradients after "Backwards: ".
        forward: The formula in plain MLX; None for a source of numbers (a literal, a random draw).
        slopes: By parameter, how gradients pass; a parameter that is not here gets none.
        kind: ELEMENTWISE: one number from numbers at the same place. PRODUCTS: sums of products. MOVE: numbers are
            moved, none is changed. COMPOSITE: `forward` takes it apart into textbook ops. WHOLE: it is not taken apart.
            FIXED: no gradient passes.
        valid: Where the formula has a meaning, in words, "" everywhere: "a ≥ 0".
        traits: What kind of op it is.
        row: For an op that is computed element by element or row by row (and then by its text, which is read and
            computed): which numbers belong together. None for all others.
        source: Where the formula is from, where it is no school mathematics.
        forwards: How one element is worked out where the text alone cannot tell: `forwards(case, slot, index)` gives a
            `case.Line`, or None.
        backwards: The same for one element of a gradient: `backwards(case, symbol, left, index)`.
        variants: The entries of the same op for other options, which change the formula.
        variant: Which of them (or this one) holds for a call: `variant(bound)`.
        poles, steep: Where it, or its slope, has no finite value (`nnrepl.ops.poles`).
        beyond: By dtype, beyond which number its result is too large for it.
    """

    name: str
    text: str
    words: str
    forward: Run | None
    slopes: dict[str, Slope] = field(default_factory=dict)
    kind: str = ELEMENTWISE
    valid: str = ""
    traits: frozenset[Trait] = frozenset()
    row: Row | None = None
    source: str = ""
    forwards: Run | None = None
    backwards: Run | None = None
    variants: tuple[Entry, ...] = ()
    variant: Callable[[Mapping[str, Any]], Entry] | None = None
    poles: tuple[Pole, ...] = ()
    steep: tuple[Pole, ...] = ()
    beyond: Mapping[mx.Dtype, float] = field(default_factory=dict)

    @property
    def forth(self) -> str:
        """What is said of the op itself: its words up to `Backwards:`."""
        return self.words.partition(_BACKWARDS)[0]

    @property
    def back(self) -> str:
        """What is said of its gradient: its words from `Backwards:` on; all of them where that does not stand there."""
        _, found, rest = self.words.partition(_BACKWARDS)
        return f"Backwards: {rest}" if found else self.words

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names of its parameters, tensors and options alike."""
        return () if self.forward is None else tuple(_signature(self.forward).parameters)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each symbol is in a call.

        Raises:
            TypeError: If the op was called in a way that the entry does not know.
        """
        if self.forward is None:
            return {}
        bound = _signature(self.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)


@cache
def _signature(forward: Run) -> inspect.Signature:
    return inspect.signature(forward)


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
"""Every entry by the op's name; `nnrepl.ops` fills it."""


def enter(entry: Entry) -> None:
    """Put an entry into the table.

    Raises:
        ValueError: If the name is taken.
    """
    if entry.name in ENTRIES:
        raise ValueError(f"two entries are called {entry.name}")
    ENTRIES[entry.name] = entry


def forwards(*names: str) -> Callable[[Run], Run]:
    """Say how an element of the result of some ops is worked out."""

    def write(worker: Run) -> Run:
        for name in names:
            ENTRIES[name] = replace(ENTRIES[name], forwards=worker)
        return worker

    return write


def backwards(*names: str) -> Callable[[Run], Run]:
    """Say how an element of a gradient of some ops is worked out."""

    def write(worker: Run) -> Run:
        for name in names:
            ENTRIES[name] = replace(ENTRIES[name], backwards=worker)
        return worker

    return write


Choose = Callable[[Mapping[str, Any]], Entry]


def variants(name: str, others: Iterable[Entry]) -> Callable[[Choose], Choose]:
    """Say which of several entries holds for a call of an op whose options change its formula."""

    def write(choose: Choose) -> Choose:
        ENTRIES[name] = replace(ENTRIES[name], variant=choose, variants=tuple(others))
        return choose

    return write


def reworded(name: str, when: Callable[[Mapping[str, Any]], bool], text: str = "", words: str = "",
             slopes: Mapping[str, str] | None = None) -> None:  # fmt: skip
    """Say how the rule of an op reads in calls with other options: its symbols, its sentence, its slopes."""
    before, known = ENTRIES[name].variant, ENTRIES[name].variants

    def other() -> Entry:
        """As the entry is when it is asked for: what works out its elements may be told later."""
        usual = ENTRIES[name]
        told = {symbol: replace(usual.slopes[symbol], text=slope) for symbol, slope in (slopes or {}).items()}
        return replace(usual, text=text or usual.text, words=words or usual.words, slopes={**usual.slopes, **told},
                       variants=(), variant=None)  # fmt: skip

    def choose(bound: Mapping[str, Any]) -> Entry:
        return other() if when(bound) else ENTRIES[name] if before is None else before(bound)

    variants(name, (*known, other()))(choose)


def every() -> Iterator[Entry]:
    """All entries, those for other options after the usual one."""
    for entry in ENTRIES.values():
        yield entry
        yield from entry.variants


def said(name: str, **words: str) -> None:
    """Say in a sentence of its own what the gradient of some inputs means: `said("fast.layer_norm", weight="...")`."""
    slopes = ENTRIES[name].slopes
    told = {symbol: replace(slopes[symbol], words=text) for symbol, text in words.items()}
    ENTRIES[name] = replace(ENTRIES[name], slopes={**slopes, **told})


def formula(
    name: str,
    text: str,
    words: str,
    kind: str = COMPOSITE,
    slopes: dict[str, Slope] | None = None,
    traits: Iterable[Trait] = (),
    source: str = "",
) -> Callable[[Run], Run]:
    """Enter a function as the formula of an op."""

    def write(forward: Run) -> Run:
        enter(Entry(name, text, words, forward, slopes or {}, kind, traits=frozenset(traits), source=source))
        return forward

    return write
